"""Changes a text as people do who mean the same: typing mistakes, other case, other punctuation, courtesy.

A decision should survive these changes. Evaluation and the holdout count how often it does not, and training
adds changed copies of its examples. The same text, change and seed give the same result.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from random import Random

_SLOT = "{}"
_VARIANT_SEED = 0
_LEAST_LETTERS = 4  # of a word that gets a typing mistake, where the text has one
_WORD = re.compile(r"\S+")
_END_OF_CLAUSE = re.compile(r"[.,;:!?]+(?=\s|$)")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_ENDINGS = ("", ".", "?", "!", "...", "??")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    key: [row[near] for near in (place - 1, place + 1) if 0 <= near < len(row)]
    for row in _ROWS
    for place, key in enumerate(row)
}

# Training uses others, so that a measurement with these is of wrappers that trained nothing.
COURTESIES = (
    "Hello! {} Thank you very much.",
    "hi all, {} thanks a lot",
    "Dear team, {} Best wishes, Anna",
    "could you help me with this? {}",
    "{} cheers",
    "sorry to bother you again, {}",
    "I hope this is the right place to ask. {}",
    "hey, {} appreciate it!",
)


class TextChange(StrEnum):
    """A kind of change that keeps the meaning."""

    TYPO = "typo"  # in one word
    TWO_TYPOS = "two_typos"  # in two words
    CASE = "case"  # upper case, lower case or title case
    PUNCTUATION = "punctuation"
    COURTESY = "courtesy"  # a greeting or thanks around the text


def variants(texts: Sequence[str]) -> dict[TextChange, list[str]]:
    """The texts with each kind of change, always the same ones."""
    return {change: [changed(text, change, _VARIANT_SEED) for text in texts] for change in TextChange}


def changed(text: str, change: TextChange, seed: int, courtesies: Sequence[str] = COURTESIES) -> str:
    """The text with one change. It stays the same where the change does not apply, such as case to digits.

    ``courtesies`` are texts with ``{}`` in the place of the text.
    """
    random = _random(text, change, seed)
    match change:
        case TextChange.TYPO:
            return misspelt(text, 1, random)
        case TextChange.TWO_TYPOS:
            return misspelt(text, 2, random)
        case TextChange.CASE:
            return _another(text, [text.upper(), text.lower(), _titled(text)], random)
        case TextChange.PUNCTUATION:
            return _another(text, _punctuated(text), random)
        case TextChange.COURTESY:
            return random.choice(courtesies).replace(_SLOT, text.strip())


def misspelt(text: str, words: int, random: Random) -> str:
    """The text with a typing mistake in each of ``words`` different words, or in as many as there are."""
    found = list(_WORD.finditer(text))
    letters = [sum(map(str.isalpha, match[0])) for match in found]
    long = [place for place, count in enumerate(letters) if count >= _LEAST_LETTERS]
    among = long or [place for place, count in enumerate(letters) if count > 1]
    parts, end = [], 0
    for place in sorted(random.sample(among, min(words, len(among)))):
        match = found[place]
        parts += [text[end : match.start()], _mistyped(match[0], random)]
        end = match.end()
    return "".join([*parts, text[end:]])


def _random(text: str, change: TextChange, seed: int) -> Random:
    """A generator of this text, so that a row's change does not depend on the other rows."""
    key = f"{seed}\0{change}\0{text}".encode("utf-8", "surrogatepass")
    return Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))  # noqa: S311


def _mistyped(word: str, random: Random) -> str:
    """The word with one letter swapped, dropped, doubled, or replaced by its neighbour on the keyboard."""
    place = random.choice([place for place, letter in enumerate(word) if letter.isalpha()])
    found = random.choice(_MISTAKES)(word, place, random)
    return found if found != word else _doubled(word, place, random)


def _swapped(word: str, place: int, _: Random) -> str:
    """The letter and the next one, or the one before the last letter."""
    first = min(place, len(word) - 2)
    return word[:first] + word[first + 1] + word[first] + word[first + 2 :]


def _dropped(word: str, place: int, _: Random) -> str:
    return word[:place] + word[place + 1 :]


def _doubled(word: str, place: int, _: Random) -> str:
    return word[: place + 1] + word[place:]


def _on_next_key(word: str, place: int, random: Random) -> str:
    letter = word[place]
    near = random.choice(_NEIGHBOURS.get(letter.lower(), [letter]))
    return word[:place] + (near.upper() if letter.isupper() else near) + word[place + 1 :]


_MISTAKES: tuple[Callable[[str, int, Random], str], ...] = (_swapped, _dropped, _doubled, _on_next_key)


def _titled(text: str) -> str:
    return _WORD.sub(lambda match: match[0][:1].upper() + match[0][1:].lower(), text)


def _punctuated(text: str) -> list[str]:
    """Without punctuation, without apostrophes, and with each other ending."""
    bare = text.rstrip(" .?!")
    plain = _END_OF_CLAUSE.sub("", text)
    return [plain, _APOSTROPHE.sub("", plain), *(bare + ending for ending in _ENDINGS)]


def _another(text: str, ways: Sequence[str], random: Random) -> str:
    """One of the ways that differ from the text; the text itself if none does."""
    different = [way for way in dict.fromkeys(ways) if way != text and way.strip()]
    return random.choice(different) if different else text
