"""Detects texts in a language that the encoder does not read, before they are embedded.

An encoder gives every text a vector, also one in a language that it was not trained on, and such a vector
may be close to an example by chance. A script other than Latin identifies a language, or a group of them. A
text in Latin script is compared with English by its function words, its letters and its endings. A text
with little evidence counts as English: names, code, and one or two words.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from extproc.routing import english_words
from extproc.routing.language_words import EVERYDAY_WORDS, FUNCTION_WORDS, NAMES, SHARED
from extproc.routing.word_shapes import SHAPED, likeness

ANY: Final = "any"
ENGLISH: Final = "en"

_READ: Final = 1000  # characters, of the beginning and of the end together
_CODE: Final = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|[!-~]+@[!-~]+|[!-~]*[_\\/{}<>=][!-~]*|(?<!\S)--?[a-z][!-~]*",
    re.DOTALL,
)
# A letter beside a digit is part of a name, such as `v2`.
_WORD: Final = re.compile(r"(?<![^\W_])[^\W\d_]+(?![^\W_])")
_MARKS: Final = re.compile(r"[¿¡]")
_OTHER_LETTERS: Final = re.compile(r"[^\W\d_A-Za-zªº\u00b5-\u024f\u1e00-\u1eff]")

# A letter of these scripts is a syllable or a word, so it counts as three letters of other scripts.
_SYLLABLES: Final = frozenset({"han", "kana", "hangul"})
_SCRIPTS: Final[Mapping[str, re.Pattern[str]]] = {
    "kana": re.compile(r"[\u3040-\u30ff]"),
    "hangul": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "han": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
    "cyrillic": re.compile(r"[\u0400-\u052f]"),
    "arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f]"),
    "hebrew": re.compile(r"[\u0590-\u05ff]"),
    "greek": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "devanagari": re.compile(r"[\u0900-\u097f]"),
    "thai": re.compile(r"[\u0e00-\u0e7f]"),
}
_OTHER_SCRIPT: Final = "other"
_LEAST_LETTERS: Final = 2  # of another script
# With this many Latin words, the other script must have this many times their letters: people ask in English
# about a text that they quote.
_LATIN_WORDS: Final = 3
_QUOTED: Final = 3

_LEAST_PROSE: Final = 8  # words, or letters of another script, of a text whose language is sure
_LEAST_PROSE_SHARE: Final = 0.25  # of the words are function words; prose has .3 to .7
_CLEARLY: Final = 1.2  # times as many words as of the next language
_LEAST: Final = 1.5  # evidence against English; a function word has 1
_ALONE: Final = 0.5  # the share of words that are function words, where less evidence is enough
_SHORT: Final = 3  # words of a text with less evidence
_LEAST_SHARE: Final = 0.12  # evidence per word: prose has .3 to .8
_FEWEST_SPELT: Final = 3  # words of a text that is judged by how its words are spelt
_MOST_SPELT: Final = 12
_LEAST_SPELT: Final = (
    0.5  # evidence, where one word of the language has 1; as the sum of as many random ones grows
)
_VOWEL_WORDS: Final = 4  # words of a text whose last letters are evidence
_VOWEL_SHARE: Final = 0.7  # of them end in a vowel
_FULL_SHARE: Final = 0.4  # of them end in another vowel than e, which is silent in English
_NO_EVIDENCE: Final = english_words.FUNCTION_WORDS | english_words.LOANS
_WEAK: Final = 0.5  # the evidence of a word or letter that English texts have too, mostly in names

_STRONG_LETTERS: Final = re.compile(r"[ąćęłńśźżğışőűřěůťďčšžåøæœßãõățșđơư\u1ea0-\u1ef9]", re.IGNORECASE)
_WEAK_LETTERS: Final = re.compile(r"[áàâéèêëíìîïóòôúùûñçäöüý]", re.IGNORECASE)
# Endings and clusters that are common in these languages and rare in English.
_SHAPES: Final = re.compile(
    r"(?:[a-z]{3}(?:ungen|keit|heit|lich|liche|lichen|schaft|zione|zioni|aggio|mente|ción|ciones|dades|eux|euse|"
    r"ement|ijk|lijk|lijke|ingen|heid|owa[ćnł]\w*|iej|owych|lar[ıi]\w*|ler[i]\w*|yorum|siniz|miş|ssa|ssä|lla|llä))\Z"
    r"|(?:sch[lmnrwt]|cz[a-z]|szcz|przy|rzy|ij[kn]|aai|eeu|ghi[ae]|lh[aeo]|nh[aeo]|eau)",
    re.IGNORECASE,
)


def unread(text: str, read: frozenset[str]) -> str:
    """The language or script of ``text`` if it is surely none of ``read``. Empty: believe its vector.

    ``read`` has names of ``KNOWN``. Takes 10 to 60 microseconds.
    """
    if ANY in read or (text.isascii() and _plainly_english(text)):
        return ""
    prose = _CODE.sub(" ", _shortened(text))
    found = _other_script(prose) or _other_than_english(prose, read)
    return "" if found in read else found


def language_of(text: str) -> str:
    """The language of ``text``, or its script if only that is known; empty if unsure.

    It is surer than ``unread``: a text of fewer than ``_LEAST_PROSE`` words or letters has no language.
    """
    prose = _CODE.sub(" ", _shortened(text))
    script = _other_script(prose)
    if script:
        return script if len(_OTHER_LETTERS.findall(prose)) >= _LEAST_PROSE else ""
    words = _WORD.findall(prose.lower())
    if len(words) < _LEAST_PROSE:
        return ""
    hits = Counter(chain.from_iterable(_LANGUAGES_BY_FUNCTION_WORD.get(word, ()) for word in words))
    (best, most), (_, next_most) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    return best if most >= _LEAST_PROSE_SHARE * len(words) and most >= _CLEARLY * next_most else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _READ else f"{text[: _READ // 2]}\n{text[-_READ // 2 :]}"


def _plainly_english(text: str) -> bool:
    """Whether a short look shows English: half of the first words are English function words."""
    words = text[:80].lower().split()[:8]
    return 2 * sum(word in english_words.FUNCTION_WORDS for word in words) > len(words)


def _other_script(prose: str) -> str:
    """The script other than Latin that most of the letters have. Empty: none."""
    if prose.isascii():
        return ""
    letters = [letter for letter in _OTHER_LETTERS.findall(prose) if letter.isalpha()]
    if len(letters) < _LEAST_LETTERS:
        return ""
    other = "".join(letters)
    counts = {name: len(pattern.findall(other)) for name, pattern in _SCRIPTS.items()}
    weight = len(other) + 2 * sum(counts[name] for name in _SYLLABLES)
    latin = [word for word in _WORD.findall(_OTHER_LETTERS.sub(" ", prose)) if len(word) > 1]
    least = sum(map(len, latin)) * (_QUOTED if len(latin) >= _LATIN_WORDS else 1)
    if weight <= least:
        return ""
    if counts["kana"]:  # Japanese writes many words in Han
        return "kana"
    name = max(counts, key=lambda script: counts[script])
    return name if counts[name] else _OTHER_SCRIPT


def _other_than_english(prose: str, read: frozenset[str]) -> str:
    """The likeliest language of Latin script, if the words are evidence against English and ``read``."""
    spelt = _WORD.findall(prose)
    words = [word.lower() for word in spelt]
    if not words:
        return ""
    english = sum(word in english_words.FUNCTION_WORDS for word in words)
    found: dict[str, float] = dict.fromkeys(FUNCTION_WORDS, 0.0)
    for word in words:
        for language, weight in _LANGUAGES_OF.get(word, ()):
            found[language] += weight
    name = max(found, key=lambda language: found[language])
    if read & found.keys():  # letters do not tell languages apart
        evidence = found[name]
    else:
        evidence = found[name] + sum(map(_by_letters, words)) + len(_MARKS.findall(prose)) + _by_vowels(words)
    known = english + max((found[language] for language in read & found.keys()), default=0.0)
    if evidence <= known or evidence < _LEAST_SHARE * len(words):
        return _by_shape(spelt, read)
    strong = sum(word in _STRONG for word in words)
    is_short = len(words) <= _SHORT and not english and strong >= _ALONE * len(words)
    return name if evidence >= _LEAST or is_short else _by_shape(spelt, read)


def _by_shape(words: Sequence[str], read: frozenset[str]) -> str:
    """The language that a few words are spelt like, as in a request without function words."""
    if not _FEWEST_SPELT <= len(words) <= _MOST_SPELT or read & FUNCTION_WORDS.keys():
        return ""
    each = [likeness(word.lower()) for word in words]
    # A capital begins a name, but for a sentence's first word and German nouns.
    lower = [word.islower() for word in words]
    lower[0] = lower[0] or any(lower)
    sums = [
        sum(of[at] for of, counts in zip(each, lower, strict=True) if counts or name == "de")
        for at, name in enumerate(SHAPED)
    ]
    best = max(range(len(SHAPED)), key=sums.__getitem__)
    return SHAPED[best] if sums[best] > _LEAST_SPELT * math.sqrt(len(words)) else ""


def _by_letters(word: str) -> float:
    """The evidence of the letters of a word, which do not tell the languages apart."""
    if not word.isascii() and word not in english_words.LOANS:
        return 1.0 if _STRONG_LETTERS.search(word) else _WEAK if _WEAK_LETTERS.search(word) else 0.0
    return _WEAK if word not in english_words.FUNCTION_WORDS and _SHAPES.search(word) else 0.0


def _by_vowels(words: Sequence[str]) -> float:
    """The evidence of words that nearly all end in a vowel, as in Italian or Spanish."""
    full = sum(word[-1] in "aiouàèìòùáéíóú" for word in words)
    vowels = full + sum(word[-1] == "e" for word in words)
    has_many = vowels >= _VOWEL_SHARE * len(words) and full >= _FULL_SHARE * len(words)
    return 1.0 if len(words) >= _VOWEL_WORDS and has_many else 0.0


def _claims() -> Iterator[tuple[str, str, float]]:
    """Each word with its language and its evidence."""
    for language, text in FUNCTION_WORDS.items():
        for word in dict.fromkeys(f"{text} {EVERYDAY_WORDS.get(language, '')}".split()):
            if word not in _NO_EVIDENCE and len(word) > 1:  # one letter may be a symbol or a part of code
                yield word, language, _WEAK if word in NAMES or word in SHARED else 1.0


def _by_word() -> Mapping[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for word, language, weight in _claims():
        found.setdefault(word, []).append((language, weight))
    return found


def _by_function_word() -> Mapping[str, frozenset[str]]:
    """The languages of each function word, English among them."""
    lists = {ENGLISH: english_words.FUNCTION_WORDS}
    lists |= {language: frozenset(text.split()) for language, text in FUNCTION_WORDS.items()}
    every = frozenset().union(*lists.values())
    return {word: frozenset(name for name, known in lists.items() if word in known) for word in every}


_LANGUAGES_BY_FUNCTION_WORD: Final = _by_function_word()
_LANGUAGES_OF: Final = _by_word()
_STRONG: Final = frozenset(word for word, _, weight in _claims() if weight == 1.0)
KNOWN: Final = frozenset(chain((ANY, ENGLISH, _OTHER_SCRIPT), _SCRIPTS, FUNCTION_WORDS))
