"""Empty, short and long answers."""

import pytest

from extproc.cascade.checks import length
from extproc.cascade.vocabulary import Answer, Asked, ToolCall
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(text=" \n"), "empty"),
        (Answer(text=" \n", complete=False), ""),
        (Answer(text="No."), "too_short"),
        (Answer(text="No.", complete=False), ""),
        (Answer(text="Not at all."), ""),
        (Answer(text="x" * 41), "too_long"),
        (Answer(text="x" * 41, complete=False), "too_long"),
        (Answer(tool_calls=(ToolCall("f", "{}"),)), ""),
    ],
)
def test_an_answer_is_as_long_as_the_gate_says(answer: Answer, reason: str) -> None:
    assert length.between(5, 40)(ASKED, answer) == reason


def test_without_a_most_any_length_passes() -> None:
    assert length.between(1, None)(ASKED, Answer(text="x" * 100_000)) == ""
