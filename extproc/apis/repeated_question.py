"""Whether a request asks what its own conversation has asked before.

Nobody who was answered well asks again, so it is a hint, not a judgement, that the answer before was
not good. Clients send the whole conversation with each request, so no memory is needed.

Two texts ask the same when their words are equal or nearly so: the Jaccard index of their sets of
three words in a row (trigrams) is at least 0.8 (A. Broder, On the resemblance and containment of
documents, 1997). Case, punctuation and white space do not count. A word is a run of letters and digits;
of Chinese, Japanese and Korean, which set no spaces, each character is one.

Of a longer text only the beginning and the end are compared, and only the latest few of the
earlier turns are, so that it takes some ten microseconds for ordinary turns and half a millisecond
for the worst that anybody sends.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice

SIMILAR = 0.8  # Jaccard index of trigrams
# "Yes", "go on", "thank you" are said again and mean nothing by it.
LEAST_WORDS = 3
TURNS = 4
_HALF = 256  # characters of the beginning, and as many of the end
_MESSAGES = 1024  # that are looked through for turns of the user
_LENGTHS = 2.0  # of two texts that are nearly equal, neither is longer than this many times the other

_Trigram = tuple[str, str, str]

_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")


def earlier_turns(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts of the user's earlier messages to compare with, the latest first."""
    asked = (_bounded(text) for text in islice(texts, _MESSAGES) if text)
    return tuple(islice(asked, TURNS))


def asks_again(text: str, earlier: Sequence[str]) -> bool | None:
    """Whether ``text`` nearly repeats one of ``earlier``, a result of ``earlier_turns``; None: unknown.

    It is unknown without earlier turns, and for a text of less than three words.
    """
    if not earlier:
        return None
    text = _bounded(text)
    words = _words(text)
    if len(words) < LEAST_WORDS:
        return None
    comparable = [
        other for other in earlier if max(len(text), len(other)) <= _LENGTHS * min(len(text), len(other))
    ]
    ours = _trigrams(words) if comparable else set()
    return any(_jaccard(ours, _trigrams(_words(other))) >= SIMILAR for other in comparable)


def _jaccard(ours: set[_Trigram], theirs: set[_Trigram]) -> float:
    """The Jaccard index. ``ours`` is not empty."""
    common = len(ours & theirs)
    return common / (len(ours) + len(theirs) - common)


def _bounded(text: str) -> str:
    # Both ends: what is asked stands at one, and what frames every turn at the other.
    return text if len(text) <= 2 * _HALF else f"{text[:_HALF]}\n{text[-_HALF:]}"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _trigrams(words: list[str]) -> set[_Trigram]:
    return set(zip(words, words[1:], words[2:], strict=False))
