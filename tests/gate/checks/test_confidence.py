"""What the model says of its own answer."""

import pytest
import re2

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.checks import confidence
from extproc.gate.gate_vocabulary import Asked
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ModelAnswer(mean_logprob=-0.4), ""),
        (ModelAnswer(mean_logprob=-0.6), "logprob"),
        (ModelAnswer(mean_logprob=-0.6, complete=False), ""),
        (ModelAnswer(mean_logprob=None), ""),
    ],
)
def test_the_mean_must_reach_the_least(answer: ModelAnswer, reason: str) -> None:
    assert confidence.mean_logprob(-0.5)(ASKED, answer) == reason


def test_a_line_that_says_so_is_a_rejection() -> None:
    check = confidence.self_report(r"(?im)^confidence: low")
    assert check(ASKED, ModelAnswer(text="Bern.\nConfidence: low")) == "self_report"
    assert check(ASKED, ModelAnswer(text="Bern.\nConfidence: high")) == ""


def test_a_bad_pattern_is_told() -> None:
    with pytest.raises(re2.error):
        confidence.self_report("(")
