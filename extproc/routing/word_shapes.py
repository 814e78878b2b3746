"""Tells by its letters whether a word is English or of another language in Latin script.

The log-likelihood ratio of a word's character n-grams in two lists of words, as naive Bayes has it (after
Cavnar and Trenkle, "N-Gram-Based Text Categorization", 1994). So a word that no list has is evidence too.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Final

from extproc.routing import english_words
from extproc.routing.language_words import EVERYDAY_WORDS, FUNCTION_WORDS, NAMES, SHARED

SHAPED: Final = tuple(EVERYDAY_WORDS)  # the languages with enough words
_GRAMS: Final = (2, 3, 4)  # characters, with the word's beginning and end
_PRIOR: Final = 0.5  # added to each count
_SHORTEST: Final = 3  # letters of a word that its letters tell
_MOST: Final = 1.0  # what one word adds for a language
_LEAST: Final = -1.5
_CACHED: Final = 4096  # words

_COMMON: Final = frozenset(" ".join(FUNCTION_WORDS[name] for name in SHAPED).split())
_ENGLISH: Final = english_words.FUNCTION_WORDS.union(english_words.EVERYDAY_WORDS)


@lru_cache(_CACHED)
def likeness(word: str) -> tuple[float, ...]:
    """How much a word in lower case is of each language of ``SHAPED`` (above 0) or English (below)."""
    if word in _ENGLISH:
        return (0.0 if word in _COMMON else -1.0,) * len(SHAPED)
    if len(word) < _SHORTEST or word in SHARED or word in NAMES or word in english_words.LOANS:
        return (0.0,) * len(SHAPED)
    found = _grams(word)
    return tuple(_MOST if word in words else _ratio(found, grams) for words, grams in _OTHERS)


class _Grams:
    """How likely a word of a list has an n-gram, as a logarithm."""

    def __init__(self, words: Collection[str]) -> None:
        counts = Counter(gram for word in words for gram in _grams(word))
        total = len(words) + 2 * _PRIOR
        self.log = {gram: math.log((count + _PRIOR) / total) for gram, count in counts.items()}
        self.absent = math.log(_PRIOR / total)


def _ratio(found: Iterable[str], grams: _Grams) -> float:
    terms = [
        grams.log.get(gram, grams.absent) - _ENGLISH_GRAMS.log.get(gram, _ENGLISH_GRAMS.absent)
        for gram in found
        if gram in grams.log or gram in _ENGLISH_GRAMS.log
    ]
    return max(_LEAST, min(_MOST, sum(terms) / len(terms))) if terms else 0.0


def _grams(word: str) -> frozenset[str]:
    framed = f"^{word}$"
    return frozenset(framed[at : at + size] for size in _GRAMS for at in range(len(framed) - size + 1))


def _others() -> Iterator[tuple[frozenset[str], _Grams]]:
    """The words of each language of ``SHAPED``, and their n-grams."""
    for name in SHAPED:
        words = frozenset(f"{FUNCTION_WORDS[name]} {EVERYDAY_WORDS[name]}".split())
        yield words, _Grams(words)


_ENGLISH_GRAMS: Final = _Grams(_ENGLISH)
_OTHERS: Final = tuple(_others())
