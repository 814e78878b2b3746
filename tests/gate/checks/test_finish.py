"""How answers end."""

import pytest

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.checks import finish
from extproc.gate.gate_vocabulary import Asked
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ModelAnswer(finish=Finish.STOP), ""),
        (ModelAnswer(finish=Finish.TOOL_CALLS), ""),
        (ModelAnswer(finish=Finish.UNKNOWN, complete=False), ""),
        (ModelAnswer(finish=Finish.LENGTH), "truncated"),
        (ModelAnswer(finish=Finish.CONTENT_FILTER), "content_filter"),
        (ModelAnswer(failed=True), "failed"),
        (ModelAnswer(status=429), "failed"),
        (ModelAnswer(status=204, finish=Finish.STOP), ""),
    ],
)
def test_an_answer_must_end_as_answers_do(answer: ModelAnswer, reason: str) -> None:
    assert finish.check(ASKED, answer) == reason


def test_whoever_asks_for_a_few_tokens_gets_a_few() -> None:
    cut = ModelAnswer(text="yes", finish=Finish.LENGTH)
    assert finish.check(Asked(api=Api.OPENAI_CHAT, max_tokens=1), cut) == ""
    assert finish.check(Asked(api=Api.OPENAI_CHAT, max_tokens=1000), cut) == "truncated"
