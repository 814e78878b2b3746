"""What the model itself says of its answer."""

from collections.abc import Callable

import re2

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.gate_vocabulary import Asked


def mean_logprob(least: float) -> Callable[[Asked, ModelAnswer], str]:
    """The mean log-probability must reach this. What comes without any, or is not complete, passes."""

    def check(asked: Asked, answer: ModelAnswer) -> str:
        unsure = answer.complete and answer.mean_logprob is not None and answer.mean_logprob < least
        return "logprob" if unsure else ""

    return check


def self_report(pattern: str) -> Callable[[Asked, ModelAnswer], str]:
    """The RE2 ``pattern`` must not be found in the text. Raises ``re2.error`` on a bad one."""
    options = re2.Options()
    options.log_errors = False  # the caller reports them
    search = re2.compile(pattern, options).search
    return lambda asked, answer: "self_report" if search(answer.text) else ""
