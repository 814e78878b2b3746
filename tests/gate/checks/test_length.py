"""Empty, short and long answers."""

import pytest

from extproc.apis.model_answer import ModelAnswer, ToolCall
from extproc.gate.checks import length
from extproc.gate.gate_vocabulary import Asked
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ModelAnswer(text=" \n"), "empty"),
        (ModelAnswer(text=" \n", complete=False), ""),
        (ModelAnswer(text="No."), "too_short"),
        (ModelAnswer(text="No.", complete=False), ""),
        (ModelAnswer(text="Not at all."), ""),
        (ModelAnswer(text="x" * 41), "too_long"),
        (ModelAnswer(text="x" * 41, complete=False), "too_long"),
        (ModelAnswer(tool_calls=(ToolCall("f", "{}"),)), ""),
    ],
)
def test_an_answer_is_as_long_as_the_gate_says(answer: ModelAnswer, reason: str) -> None:
    assert length.between(5, 40)(ASKED, answer) == reason


def test_without_a_most_any_length_passes() -> None:
    assert length.between(1, None)(ASKED, ModelAnswer(text="x" * 100_000)) == ""
