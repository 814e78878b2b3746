"""What of a question and an answer tells whether the answer is good, as numbers.

The order of ``NAMES`` is that of the vectors; an artefact that was fitted on other names is refused.
"""

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.agreement import agreement, final_answer
from extproc.gate.checks import finish, form, language, refusal, repetition
from extproc.gate.gate_vocabulary import Asked

NAMES: Final = (
    "question_length",  # logarithm of characters, as all lengths here
    "question_numbers",  # logarithm of their count
    "answer_length",
    "answer_lines",
    "answer_numbers",
    "length_ratio",  # answer to question
    "words_shared",  # of the question's words, those that the answer has too
    "numbers_used",  # of the question's numbers, those that the answer has too
    "new_fractions",  # of the answer's numbers, those with a fraction where the question has none
    "sums_right",  # logarithm of the count of equations that hold
    "sums_wrong",  # and of those that do not
    "final_known",  # what the answer ends on is a number of the question's
    "final_fraction",  # or one with a fraction
    "final_worked_out",  # or the result of an equation
    "no_final",  # it ends on no number
    "final_size",  # logarithm of the number that it ends on, without its sign
    "final_once",  # that stands nowhere else in it
    "hedges",  # logarithm of the count of words of doubt or of turning back
    "distinct_words",  # share
    "refuses",
    "bad_finish",
    "bad_form",
    "repeated",  # share
    "other_language",
    "logprob",  # mean; 0 where there is none
    "no_logprob",
)
AGREEMENT: Final = "agreement"
"""The one feature more of an answer that has a second beside it."""

_READ: Final = 8192  # characters of either text
_WORD: Final = re.compile(r"\w+")
_NUMBER: Final = re.compile(r"\d[\d,]*(?:\.\d+)?")
_WHOLLY: Final = re.compile(r"-?\d+(?:\.\d+)?")
_LARGEST: Final = 20.0  # logarithm
_VALUE: Final = r"[$£€]?\d[\d,]*(?:\.\d+)?"
_SIGN: Final = r"\s*[-+*/x×÷−]\s*"
# Of two to eight numbers, such as 3 * 20 + 5 = $65; none that is itself the end of a longer one.
_SUM: Final = re.compile(
    rf"(?<![\w.,+*/^)×÷=-])({_VALUE}(?:{_SIGN}{_VALUE}){{1,7}})\s*=\s*(-?{_VALUE})(?![\d%/])"
)
_TERM: Final = re.compile(r"[-+*/x×÷−]|\d[\d,]*(?:\.\d+)?")
_HEDGE: Final = re.compile(
    r"\b(?:however|but|wait|actually|maybe|perhaps|might|assum\w+|approximately|about|unclear|not sure|unsure"
    r"|i think|it seems|probably|likely|mistake|correct(?:ion|ed)|vielleicht|jedoch|peut-être|quizás)\b",
    re.IGNORECASE,
)


def features(asked: Asked, answer: ModelAnswer) -> NDArray[np.float64]:
    """One number for each of ``NAMES``."""
    question, text = asked.text[:_READ], answer.text[:_READ]
    known = {_plain(number) for number in _NUMBER.findall(question)}
    used = [_plain(number) for number in _NUMBER.findall(text)]
    asked_words = set(_WORD.findall(question.lower()))
    words = _WORD.findall(text.lower())
    right, wrong = sums(text)
    final = final_answer(answer.text)
    value = float(final) if _WHOLLY.fullmatch(final) else None
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
            float(refusal.check(asked, answer) != ""),
            float(finish.check(asked, answer) != ""),
            float(form.check(asked, answer) != ""),
            repetition.share(answer.text),
            float(language.differs(asked, answer)),
            max(answer.mean_logprob, -20.0) if answer.mean_logprob is not None else 0.0,
            float(answer.mean_logprob is None),
        ]
    )


def paired(asked: Asked, answer: ModelAnswer, second: ModelAnswer) -> NDArray[np.float64]:
    """``features``, and how ``second`` agrees."""
    return np.append(features(asked, answer), agreement(answer.text, second.text))


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
    """The value of number, sign, number, ...; products first. None where it divides by zero."""
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
    return number.rstrip("0").rstrip(".") if "." in number else number


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
