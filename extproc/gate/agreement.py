"""Whether two answers to the same question say the same.

Self-consistency (Wang et al., 2023): where sampled answers end alike, they are mostly right. What an
answer ends on is compared where both end on something short; else the words of both are.
"""

import re
from typing import Final

_READ: Final = 16_384  # the last characters of an answer
_BOXED: Final = re.compile(r"\\boxed\{([^{}]{1,80})\}")
# A JSON member, or a line: "answer": "20", **Final answer:** 20, #### 20, The answer is 20.
_NAMED: Final = re.compile(
    r"(?:\"?(?:final )?answer\"?\W{0,6}(?:is|=|:)|####)[\s\"*$£€:]*([^\n\"}*]{1,80})", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_WORD: Final = re.compile(r"\w+")
_SHORT: Final = 40  # characters of a final answer
_END: Final = 512  # characters; a number before them is nothing that an answer ends on


def final_answer(text: str) -> str:
    """What ``text`` ends on, normalised: its last named answer, else the last number of its end; or empty."""
    text = text[-_READ:]
    named = _BOXED.findall(text) or _NAMED.findall(text)
    if named:
        numbers = _NUMBER.findall(named[-1])
        if numbers:
            return _plain(numbers[0])
        return " ".join(_WORD.findall(named[-1].lower()))[:_SHORT]
    numbers = _NUMBER.findall(text[-_END:])
    return _plain(numbers[-1]) if numbers else ""


def agreement(one: str, other: str) -> float:
    """How far two answers agree: 1 or 0 by what they end on, else the share of words they have in common."""
    first, second = final_answer(one), final_answer(other)
    if first and second:
        return float(first == second)
    words, others = set(_WORD.findall(one[-_READ:].lower())), set(_WORD.findall(other[-_READ:].lower()))
    return len(words & others) / len(words | others) if words or others else 0.0


def _plain(number: str) -> str:
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number and "/" not in number else number
