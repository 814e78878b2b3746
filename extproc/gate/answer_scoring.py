"""P(the answer is good): what of a question and its answer is measured, and the regression on it.

`extproc gate fit` fits the regression. The order of ``NAMES`` is the order of the vectors. An artefact that
was fitted on other names is rejected.
"""

import math
import re
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.answer_checks import check_finish, check_format, check_refusal, repeated_share
from extproc.gate.judged_request import JudgedRequest
from extproc.gate.language_detection import differs

Vector = NDArray[np.float64]

# --- The features -------------------------------------------------------------------------------

NAMES: Final = (
    "question_length",  # logarithm of characters, as all lengths here
    "question_numbers",  # logarithm of their count
    "answer_length",
    "answer_lines",
    "answer_numbers",
    "length_ratio",  # answer to question
    "words_shared",  # share of the question's words that are in the answer
    "numbers_used",  # share of the question's numbers that are in the answer
    "new_fractions",  # share of the answer's numbers that have a fraction, if no number of the question has
    "sums_right",  # logarithm of the count of equations that hold
    "sums_wrong",  # and of those that do not
    "final_known",  # 1 if the final answer is a number of the question
    "final_fraction",  # 1 if it has a fraction
    "final_worked_out",  # 1 if it is the result of an equation
    "no_final",  # 1 if it is not a number
    "final_size",  # logarithm of its absolute value
    "final_once",  # 1 if it occurs nowhere else in the answer
    "hedges",  # logarithm of the count of words of doubt or correction
    "distinct_words",  # share
    "refuses",
    "bad_finish",
    "bad_form",
    "repeated",  # share
    "other_language",
    "logprob",  # mean; 0 if there is none
    "no_logprob",
)
AGREEMENT: Final = "agreement"
"""The additional feature of an answer that is compared with a second one."""

_READ: Final = 8192  # characters of either text
_WORD: Final = re.compile(r"\w+")
_NUMBER: Final = re.compile(r"\d[\d,]*(?:\.\d+)?")
_DECIMAL: Final = re.compile(r"-?\d+(?:\.\d+)?")
_LARGEST: Final = 20.0  # logarithm
_VALUE: Final = r"[$£€]?\d[\d,]*(?:\.\d+)?"
_SIGN: Final = r"\s*[-+*/x×÷−]\s*"
# An equation of two to eight numbers, such as 3 * 20 + 5 = $65, that is not the end of a longer one.
_SUM: Final = re.compile(
    rf"(?<![\w.,+*/^)×÷=-])({_VALUE}(?:{_SIGN}{_VALUE}){{1,7}})\s*=\s*(-?{_VALUE})(?![\d%/])"
)
_TERM: Final = re.compile(r"[-+*/x×÷−]|\d[\d,]*(?:\.\d+)?")
_HEDGE: Final = re.compile(
    r"\b(?:however|but|wait|actually|maybe|perhaps|might|assum\w+|approximately|about|unclear|not sure|unsure"
    r"|i think|it seems|probably|likely|mistake|correct(?:ion|ed)|vielleicht|jedoch|peut-être|quizás)\b",
    re.IGNORECASE,
)


def features(request: JudgedRequest, answer: ModelAnswer) -> Vector:
    """One number for each of ``NAMES``."""
    question, text = request.text[:_READ], answer.text[:_READ]
    known = {_plain(number) for number in _NUMBER.findall(question)}
    used = [_plain(number) for number in _NUMBER.findall(text)]
    asked_words = set(_WORD.findall(question.lower()))
    words = _WORD.findall(text.lower())
    right, wrong = sums(text)
    final = final_answer(answer.text)
    value = float(final) if _DECIMAL.fullmatch(final) else None
    whole = not any("." in number for number in known)
    return np.array(
        [
            np.log1p(len(question)),
            np.log1p(len(known)),
            np.log1p(len(answer.text)),
            np.log1p(text.count("\n")),
            np.log1p(len(used)),
            np.log((1 + len(answer.text)) / (1 + len(question))),
            _share(len(asked_words.intersection(words)), len(asked_words)),
            _share(len(known.intersection(used)), len(known)),
            _share(sum("." in number for number in used), len(used)) if whole else 0.0,
            np.log1p(right),
            np.log1p(wrong),
            float(final in known),
            float("." in final),
            float(any(_plain(result) == final for _, result in _SUM.findall(text))),
            float(not _NUMBER.search(final)),
            min(np.log1p(abs(value)), _LARGEST) if value is not None else 0.0,
            float(value is not None and used.count(final.lstrip("-")) <= 1),
            np.log1p(len(_HEDGE.findall(text))),
            _share(len(set(words)), len(words)),
            float(check_refusal(request, answer) != ""),
            float(check_finish(request, answer) != ""),
            float(check_format(request, answer) != ""),
            repeated_share(answer.text),
            float(differs(request.text, answer.text)),
            max(answer.mean_logprob, -20.0) if answer.mean_logprob is not None else 0.0,
            float(answer.mean_logprob is None),
        ]
    )


def paired(request: JudgedRequest, answer: ModelAnswer, second: ModelAnswer) -> Vector:
    """``features``, and how far ``second`` agrees."""
    return np.append(features(request, answer), agreement(answer.text, second.text))


def sums(text: str) -> tuple[int, int]:
    """How many equations of numbers in ``text`` hold, and how many do not."""
    right = wrong = 0
    for written, result in _SUM.findall(text):
        claimed = result.replace("$", "").replace("£", "").replace("€", "")
        value = _worked_out(_TERM.findall(written))
        if value is None:
            continue
        # As precise as it is written: 40 / 3 = 13.33 holds.
        digits = len(claimed.partition(".")[2])
        if abs(value - _value(claimed)) <= 0.5 * 10.0**-digits + 1e-9 * abs(value):
            right += 1
        else:
            wrong += 1
    return right, wrong


def _worked_out(terms: list[str]) -> float | None:
    """The value of number, sign, number, ...; products first. None if it divides by zero."""
    total, product = 0.0, _value(terms[0])
    for sign, number in zip(terms[1::2], terms[2::2], strict=True):
        value = _value(number)
        if sign in "+-−":
            total += product
            product = value if sign == "+" else -value
        elif sign in "/÷":
            if not value:
                return None
            product /= value
        else:
            product *= value
    return total + product


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _plain(number: str) -> str:
    number = number.replace(",", "").lstrip("$£€")
    return number.rstrip("0").rstrip(".") if "." in number and "/" not in number else number


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# --- Agreement of two answers -------------------------------------------------------------------

# Self-consistency (Wang et al., 2023): if sampled answers end alike, they are mostly right. The final answers
# are compared if both texts have one, else the words of both texts.
_ENDING: Final = 16_384  # the last characters of an answer
_BOXED: Final = re.compile(r"\\boxed\{([^{}]{1,80})\}")
# A JSON member, or a line: "answer": "20", **Final answer:** 20, #### 20, The answer is 20.
_NAMED: Final = re.compile(
    r"(?:\"?(?:final )?answer\"?\W{0,6}(?:is|=|:)|####)[\s\"*$£€:]*([^\n\"}*]{1,80})", re.IGNORECASE
)
_FINAL_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_SHORT: Final = 40  # characters of a final answer
_END: Final = 512  # characters at the end in which a number counts as the final answer


def final_answer(text: str) -> str:
    """The last answer that ``text`` names, else the last number near its end, normalised; or empty."""
    text = text[-_ENDING:]
    named = _BOXED.findall(text) or _NAMED.findall(text)
    if named:
        numbers = _FINAL_NUMBER.findall(named[-1])
        if numbers:
            return _plain(numbers[0])
        return " ".join(_WORD.findall(named[-1].lower()))[:_SHORT]
    numbers = _FINAL_NUMBER.findall(text[-_END:])
    return _plain(numbers[-1]) if numbers else ""


def agreement(one: str, other: str) -> float:
    """How far two answers agree: 1 or 0 by their final answers, else the share of words in common."""
    first, second = final_answer(one), final_answer(other)
    if first and second:
        return float(first == second)
    words, others = set(_WORD.findall(one[-_ENDING:].lower())), set(_WORD.findall(other[-_ENDING:].lower()))
    return len(words & others) / len(words | others) if words or others else 0.0


# --- The regression -----------------------------------------------------------------------------

# Features further out than any of the fit are clipped, whatever a provider sends.
_FARTHEST = 6.0  # deviations


class Logit(msgspec.Struct, frozen=True):
    """Standardised features to log-odds. Arrays of one length."""

    centre: Vector
    scale: Vector  # the deviation's inverse
    weights: Vector
    bias: float

    def log_odds(self, values: Vector) -> Vector:
        """Of rows of features, shape (n, features), or of one."""
        standard = np.clip((values - self.centre) * self.scale, -_FARTHEST, _FARTHEST)
        found: Vector = standard @ self.weights + self.bias
        return found


class Goodness(msgspec.Struct, frozen=True):
    """P(good) of one model's answers, alone and compared with a second answer."""

    alone: Logit
    paired: Logit | None = None  # None: it was not fitted on second answers

    def probability(self, request: JudgedRequest, answer: ModelAnswer, second: ModelAnswer | None) -> float:
        """P(the answer is good)."""
        if second is not None and self.paired is not None:
            odds = self.paired.log_odds(paired(request, answer, second))
        else:
            odds = self.alone.log_odds(features(request, answer))
        return 0.5 * (1.0 + math.tanh(0.5 * float(odds)))
