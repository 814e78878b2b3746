"""How answers end."""

import pytest

from extproc.cascade.checks import finish
from extproc.cascade.vocabulary import Answer, Asked, Finish
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(finish=Finish.STOP), ""),
        (Answer(finish=Finish.TOOL_CALLS), ""),
        (Answer(finish=Finish.UNKNOWN, complete=False), ""),
        (Answer(finish=Finish.LENGTH), "truncated"),
        (Answer(finish=Finish.CONTENT_FILTER), "content_filter"),
        (Answer(failed=True), "failed"),
        (Answer(status=429), "failed"),
        (Answer(status=204, finish=Finish.STOP), ""),
    ],
)
def test_an_answer_must_end_as_answers_do(answer: Answer, reason: str) -> None:
    assert finish.check(ASKED, answer) == reason


def test_whoever_asks_for_a_few_tokens_gets_a_few() -> None:
    cut = Answer(text="yes", finish=Finish.LENGTH)
    assert finish.check(Asked(api=Api.OPENAI_CHAT, max_tokens=1), cut) == ""
    assert finish.check(Asked(api=Api.OPENAI_CHAT, max_tokens=1000), cut) == "truncated"
