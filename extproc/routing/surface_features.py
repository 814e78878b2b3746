"""Surface features: counts of characters, words, numbers and marks in a text.

They hardly help to choose a route, but they help to predict how hard a text is to answer.
"""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LONGEST = 8192  # characters counted, from the start; the length itself is always of the whole text

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|\n")
_OPERATOR = re.compile(r"[-+*/^<>=%$\\]")
_NEGATION = re.compile(r"\b(?:not|no|none|never|nor|neither|without|except|incorrect|false)\b|n't\b", re.I)
_PROPORTION = re.compile(
    r"%|\b(?:percent|half|third|quarter|twice|double|triple|times|fraction|ratio|average)\b", re.I
)
_CONDITION = re.compile(
    r"\b(?:if|then|each|every|per|than|remaining|rest|left|more|less|only|both|all)\b", re.I
)
_OTHER_SCRIPT = re.compile(r"[^\x00-\x7f]")
_CAPITAL = re.compile(r"[A-Z]")
_MARK = re.compile(r"[^\w\s]")

# Counts enter as logarithms, so that a text twice as long is a step away and not twice as far.
_COUNTED: dict[str, re.Pattern[str]] = {
    "sentences": _SENTENCE_END,
    "operators": _OPERATOR,
    "negations": _NEGATION,
    "proportions": _PROPORTION,
    "conditions": _CONDITION,
    "other scripts": _OTHER_SCRIPT,
    "capitals": _CAPITAL,
    "marks": _MARK,
}
_MARKS = {"lines": "\n", "blanks": "_", "commas": ",", "questions": "?", "brackets": "(", "quotes": '"'}
_Shape = Callable[[str, list[str], list[str]], float]
_SHAPES: dict[str, _Shape] = {
    "words": lambda text, words, numbers: math.log1p(len(words)),
    "letters a word": lambda text, words, numbers: sum(map(len, words)) / max(len(words), 1),
    "longest word": lambda text, words, numbers: math.log1p(max(map(len, words), default=0)),
    "repetition": lambda text, words, numbers: len(set(words)) / max(len(words), 1),
    "numbers": lambda text, words, numbers: math.log1p(len(numbers)),
    "digits": lambda text, words, numbers: math.log1p(sum(map(len, numbers))),
    "longest number": lambda text, words, numbers: math.log1p(max(map(len, numbers), default=0)),
    "decimals": lambda text, words, numbers: float(any("." in number for number in numbers)),
    "share of marks": lambda text, words, numbers: len(_MARK.findall(text)) / max(len(text), 1),
    "share of capitals": lambda text, words, numbers: len(_CAPITAL.findall(text)) / max(len(text), 1),
    "first line": lambda text, words, numbers: math.log1p(len(text.partition("\n")[0])),
    "longest line": lambda text, words, numbers: math.log1p(max(map(len, text.split("\n")))),
}
NAMES = ("characters", *_COUNTED, *_MARKS, *_SHAPES)


def surface(texts: Sequence[str]) -> NDArray[np.float32]:
    """The features of each text, shape (texts, len(NAMES)). It accepts any text."""
    return np.array([_row(text) for text in texts], np.float32).reshape(len(texts), len(NAMES))


def _row(text: str) -> list[float]:
    read = text[:LONGEST]
    words = [word.lower() for word in _WORD.findall(read)]
    numbers = _NUMBER.findall(read)
    return [
        math.log1p(len(text)),
        *(math.log1p(sum(1 for _ in pattern.finditer(read))) for pattern in _COUNTED.values()),
        *(math.log1p(read.count(mark)) for mark in _MARKS.values()),
        *(shape(read, words, numbers) for shape in _SHAPES.values()),
    ]
