"""What a gate of the registry checks."""

from typing import Any

import msgspec
import pytest

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.judge import Verdict
from extproc.gate.judged_request import Format, JudgedRequest
from extproc.registry.gate_settings import Gate
from extproc.registry.judge_compiling import compile_judge
from extproc.vocabulary import Api

QUESTION = "What is the best way to learn how to swim if you are afraid of the water?"
ASKED = JudgedRequest(api=Api.OPENAI_CHAT, text=QUESTION, format=Format.JSON_OBJECT)
BAD = ModelAnswer(
    text="Lo siento, pero no puedo ayudarte con eso y no se qué es lo que más te gusta de la natación"
)
CASES: list[tuple[dict[str, Any], ModelAnswer, str]] = [
    ({"finish": True}, ModelAnswer(finish=Finish.LENGTH), "truncated"),
    ({"length": {}}, ModelAnswer(), "empty"),
    ({"length": {"max_chars": 5}}, BAD, "too_long"),
    ({"refusal": True}, BAD, "refusal_text"),
    ({"format": True}, BAD, "not_json"),
    ({"repetition": {"max_share": 0.2}}, ModelAnswer(text="again and " * 100), "repetition"),
    ({"language": True}, BAD, "language"),
    ({"logprob": {"min_mean": -1.0}}, ModelAnswer(mean_logprob=-2.0), "logprob"),
    ({"self_report": {"pattern": "no puedo"}}, BAD, "self_report"),
]


def gate(section: dict[str, Any]) -> Gate:
    return msgspec.convert(section, Gate)


@pytest.mark.parametrize(("section", "answer", "reason"), CASES)
def test_each_check_is_on_when_it_is_named(section: dict[str, Any], answer: ModelAnswer, reason: str) -> None:
    (name,) = section
    assert compile_judge(gate(section)).judge(ASKED, answer) == Verdict(False, gate=name, reason=reason)


@pytest.mark.parametrize(("section", "answer", "reason"), CASES)
def test_a_gate_that_names_none_keeps_everything(section: Any, answer: ModelAnswer, reason: str) -> None:
    assert compile_judge(Gate()).judge(ASKED, answer) == Verdict(True)


def test_checks_run_in_the_order_of_the_schema_however_they_are_written() -> None:
    both = gate({"language": True, "refusal": True})
    assert compile_judge(both).judge(ASKED, BAD).gate == "refusal"
