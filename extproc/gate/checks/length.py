"""Answers that are empty, too short or too long."""

from collections.abc import Callable

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.gate_vocabulary import Asked


def between(least: int, most: int | None) -> Callable[[Asked, ModelAnswer], str]:
    """The text must have from ``least`` to ``most`` characters. One that only calls tools passes."""

    def check(asked: Asked, answer: ModelAnswer) -> str:
        size = len(answer.text.strip())
        if most is not None and size > most:
            return "too_long"
        if size >= least or answer.tool_calls or not answer.complete:
            return ""
        return "too_short" if size else "empty"

    return check
