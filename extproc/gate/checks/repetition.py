"""Answers that go round in circles, as small models do when they lose the thread."""

from collections.abc import Callable
from typing import Final

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.gate_vocabulary import Asked

_WINDOW: Final = 32  # characters: longer than phrases that recur in good prose, shorter than sentences
_READ: Final = 8192  # the last characters, since a loop once entered goes on to the end
_LEAST: Final = 8 * _WINDOW  # of less text nothing can be told


def share(text: str) -> float:
    """The share of ``text``'s windows of 32 characters that stand in it earlier too: 0 to 1."""
    text = text[-_READ:]
    if len(text) < _LEAST:
        return 0.0
    windows = len(text) - _WINDOW + 1
    return 1.0 - len({text[start : start + _WINDOW] for start in range(windows)}) / windows


def at_most(limit: float) -> Callable[[Asked, ModelAnswer], str]:
    """No more than this share may repeat."""
    return lambda asked, answer: "repetition" if share(answer.text) > limit else ""
