"""What the model says of its own answer."""

import pytest
import re2

from extproc.cascade.checks import confidence
from extproc.cascade.vocabulary import Answer, Asked
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(mean_logprob=-0.4), ""),
        (Answer(mean_logprob=-0.6), "logprob"),
        (Answer(mean_logprob=-0.6, complete=False), ""),
        (Answer(mean_logprob=None), ""),
    ],
)
def test_the_mean_must_reach_the_least(answer: Answer, reason: str) -> None:
    assert confidence.mean_logprob(-0.5)(ASKED, answer) == reason


def test_a_line_that_says_so_is_a_rejection() -> None:
    check = confidence.self_report(r"(?im)^confidence: low")
    assert check(ASKED, Answer(text="Bern.\nConfidence: low")) == "self_report"
    assert check(ASKED, Answer(text="Bern.\nConfidence: high")) == ""


def test_a_bad_pattern_is_told() -> None:
    with pytest.raises(re2.error):
        confidence.self_report("(")
