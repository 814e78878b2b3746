"""What a cascade's tiers mean for serving: who judges their answers, and how many should be refused."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.judge import Verdict
from extproc.gate.judged_request import Format, JudgedRequest
from extproc.registry.cascade_settings import Band, Cascade, Gate, SecondSettings, Tier
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from extproc.registry.tier_compiling import bands_of, compile_judge
from extproc.vocabulary import Api
from tests.registry.test_gate_artefact import gate


def test_bands_are_those_of_the_registry() -> None:
    tiers = [Tier(model="a", gate="g", expected=Band(most=0.3)), Tier(model="b", gate="g"), Tier(model="b")]
    models = {name: Model(base_url="http://127.0.0.1:1") for name in "ab"}
    made = Registry(models=models, default="a", cascades={"x": Cascade(tiers=tiers)})
    assert bands_of(made) == {("x", 0): Band(least=0.0, most=0.3)}
    calibrated = gate()
    share = calibrated.manifest.escalation
    found = bands_of(made, {"g": calibrated})
    assert found["x", 0] == Band(most=0.3)
    assert found["x", 1] == Band(least=max(0.0, share - 0.05), most=min(1.0, share + 0.05))


@pytest.mark.parametrize(("second", "share"), [(None, 0.3), (SecondSettings(model="b"), 0.6)])
def test_a_gate_that_asks_for_second_answers_refuses_as_it_was_fitted_with_them(
    second: SecondSettings | None, share: float
) -> None:
    fitted = gate()
    fitted = replace(fitted, manifest=replace(fitted.manifest, escalation_paired=0.6))
    made = Registry(
        models={"b": Model(base_url="http://127.0.0.1:1")},
        default="b",
        cascades={"x": Cascade(tiers=[Tier(model="b", gate="g")])},
        gates={"g": Gate(second=second)},
    )
    assert bands_of(made, {"g": fitted}) == {("x", 0): Band(least=share - 0.05, most=share + 0.05)}


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


def settings_of(section: dict[str, Any]) -> Gate:
    return msgspec.convert(section, Gate)


@pytest.mark.parametrize(("section", "answer", "reason"), CASES)
def test_each_check_is_on_when_it_is_named(section: dict[str, Any], answer: ModelAnswer, reason: str) -> None:
    (name,) = section
    assert compile_judge(settings_of(section)).judge(ASKED, answer) == Verdict(
        False, gate=name, reason=reason
    )


@pytest.mark.parametrize(("section", "answer", "reason"), CASES)
def test_a_gate_that_names_none_keeps_everything(section: Any, answer: ModelAnswer, reason: str) -> None:
    assert compile_judge(Gate()).judge(ASKED, answer) == Verdict(True)


def test_checks_run_in_the_order_of_the_schema_however_they_are_written() -> None:
    both = settings_of({"language": True, "refusal": True})
    assert compile_judge(both).judge(ASKED, BAD).gate == "refusal"
