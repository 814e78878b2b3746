"""Answers are judged from their bytes: documents when they are complete, streams as the tier says."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from msgspec.structs import replace

from extproc.exchanges import Ruling, SecondAnswer
from extproc.gate import judged_request
from extproc.gate.answer_watch import AnswerWatch, TierWatch
from extproc.gate.consultation import Consultation, ConsultationResult
from extproc.registry.cascade_settings import Cascade, Gate, Length, SecondSettings, SelfReport, Tier
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, RouteSettings
from extproc.registry.tier_compiling import judged_tiers
from extproc.vocabulary import Api, RequestHead
from tests.registry.test_gate_artefact import gate as calibrated

ASK = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
CHAT = "/v1/chat/completions"

Calibrations = Mapping[str, CalibratedGate]
NO_CALIBRATIONS: Calibrations = MappingProxyType({})


def registry(gate: Gate | None = None, **tier: Any) -> Registry:
    first = Tier(model="a", gate="g", **tier)
    return Registry(
        models={name: Model(base_url="http://127.0.0.1:1") for name in "ab"},
        default="b",
        routes={"r": RouteSettings(candidates=["a"], cascade="x")},
        cascades={"x": Cascade(tiers=[first, Tier(model="b")])},
        gates={
            "g": gate
            or Gate(finish=True, self_report=SelfReport("not sure"), prefix_chars=12, prefix_events=5)
        },
    )


def watch(
    made: Registry,
    calibrations: Calibrations = NO_CALIBRATIONS,
    body: bytes = ASK,
    labels: frozenset[str] = frozenset(),
) -> AnswerWatch:
    head = RequestHead(
        method="POST", path=f"{CHAT}?a=b", headers={"x-request-id": "r", "content-type": "application/json"}
    )
    request = judged_request.read(Api.OPENAI_CHAT, body)
    return TierWatch(judged_tiers(made, calibrations)["x/0"], request, head, body, labels)


def document(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("body", "ruling"),
    [
        (document("Paris."), Ruling(False, "g")),
        (document("I am not sure."), Ruling(True, "g", "self_report/self_report")),
        (document("Pa", "length"), Ruling(True, "g", "finish/truncated")),
        (b"<html>", Ruling(True, "g", "finish/failed")),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_document_is_judged_when_it_is_whole(body: bytes, ruling: Ruling, size: int) -> None:
    judge = watch(registry())
    assert judge.on_head(200, "application/json; charset=utf-8")
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert [judge.on_body(piece, False) for piece in pieces] == [None] * len(pieces)
    assert judge.on_body(b"", True) == ruling


def test_a_stream_is_judged_by_its_beginning() -> None:
    judge = watch(registry())
    assert judge.on_head(200, "text/event-stream")
    assert judge.on_body(event("I am"), False) is None
    assert judge.on_body(event(" not sure at all"), False) == Ruling(True, "g", "self_report/self_report")
    judge = watch(registry())
    judge.on_head(200, "text/event-stream")
    assert judge.on_body(event("Paris, of course."), False) == Ruling(False, "g")


def test_events_without_text_are_a_beginning_too() -> None:
    judge = watch(registry())
    judge.on_head(200, "text/event-stream")
    assert [judge.on_body(event(""), False) for _ in range(5)] == [None] * 4 + [Ruling(False, "g")]


def test_a_stream_that_is_held_is_judged_at_its_end() -> None:
    judge = watch(registry(stream="hold"))
    judge.on_head(200, "text/event-stream")
    for _ in range(9):
        assert judge.on_body(event("Paris, of course. "), False) is None
    assert judge.on_body(event("I am not sure.", "stop"), True) == Ruling(
        True, "g", "self_report/self_report"
    )


def test_a_short_stream_is_judged_at_its_end() -> None:
    judge = watch(registry(Gate(length=Length(min_chars=9))))
    judge.on_head(200, "text/event-stream")
    assert judge.on_body(event("Paris"), False) is None
    ruling = judge.on_body(event("", "stop") + b"data: [DONE]\n\n", True)
    assert ruling is not None
    assert (ruling.escalate, ruling.reason.startswith("length/")) == (True, True)


@pytest.mark.parametrize("stream", ["hold", "prefix"])
@pytest.mark.parametrize("body", [b"", event("Paris"), event("Paris", "stop")[:-9]])
def test_a_stream_that_ends_before_it_is_whole_is_refused_by_every_gate(stream: str, body: bytes) -> None:
    judge = watch(registry(Gate(length=Length(min_chars=1)), stream=stream))
    judge.on_head(200, "text/event-stream")
    assert judge.on_body(body, False) is None
    assert judge.on_body(b"", True) == Ruling(True, "g", "finish/failed")


def test_a_document_that_is_cut_is_refused_by_every_gate() -> None:
    judge = watch(registry(Gate(length=Length(max_chars=9))))
    judge.on_head(200, "application/json")
    assert judge.on_body(document("Paris.")[:-9], True) == Ruling(True, "g", "finish/failed")


@pytest.mark.parametrize(
    ("kind", "stream", "judged"),
    [
        ("text/event-stream", "off", False),
        ("Text/Event-Stream; charset=utf-8", "prefix", True),
        ("application/json", "off", True),
        ("application/problem+json", "prefix", True),
        ("audio/mpeg", "prefix", False),
        ("", "prefix", False),
    ],
)
def test_what_kinds_of_answers_are_judged(kind: str, stream: str, judged: bool) -> None:
    assert watch(registry(stream=stream)).on_head(200, kind) is judged


def test_a_calibrated_gate_tells_how_probably_a_whole_answer_is_good() -> None:
    threshold = calibrated().manifest.threshold
    held = watch(registry(), {"g": calibrated()})
    held.on_head(200, "application/json")
    ruling = held.on_body(document("Paris."), True)
    assert isinstance(ruling, Ruling)
    assert ruling.score is not None
    assert ruling.escalate == (ruling.score < threshold)
    assert ruling.reason == ("score/low_score" if ruling.escalate else "")
    begun = watch(registry(), {"g": calibrated()})
    begun.on_head(200, "text/event-stream")
    # Of a beginning it says nothing: only the checks do.
    assert begun.on_body(event("Paris, of course."), False) == Ruling(False, "g")


@pytest.mark.parametrize("limits", [{}, {"timeout_s": 3.0}])
def test_an_answer_that_is_late_is_refused(limits: dict[str, float]) -> None:
    assert watch(registry(**limits)).on_timeout() == Ruling(True, "g", "late")


def asking(gate: Gate, calibrations: Calibrations = NO_CALIBRATIONS, body: bytes = ASK) -> AnswerWatch:
    found = watch(registry(gate, stream="hold"), calibrations, body)
    found.on_head(200, "application/json")
    return found


def test_another_model_is_asked_once_the_checks_have_passed() -> None:
    gate = Gate(finish=True, second=SecondSettings(model="b", deadline_s=3.0, budget=2.0))
    assert asking(gate).on_body(document("4", "length"), True) == Ruling(True, "g", "finish/truncated")
    assert asking(gate).on_body(document("4"), True) == Consultation(
        model="b",
        path=CHAT,
        headers={"x-request-id": "r"},
        body=b'{"model":"b","messages":[{"role":"user","content":"hi"}],"stream":false}',
        deadline_s=3.0,
        budget_key="g",
        per_second=2.0,
    )


def test_a_request_that_cannot_be_put_to_another_model_is_judged_without() -> None:
    found = asking(Gate(second=SecondSettings(model="b")), body=b"\x1f\x8b").on_body(document("4"), True)
    assert found == Ruling(False, "g", second=SecondAnswer("b", "unasked"))


@pytest.mark.parametrize(
    ("cleared", "asked"), [({"eu", "pii"}, True), ({"eu"}, True), ({"pii"}, False), (set(), False)]
)
@pytest.mark.parametrize(("on_error", "escalates"), [("keep", False), ("escalate", True)])
def test_a_model_that_is_not_cleared_for_the_labels_is_not_asked(
    cleared: set[str], asked: bool, on_error: str, escalates: bool
) -> None:
    gate = Gate(finish=True, second=SecondSettings(model="b", on_error=on_error))  # type: ignore[arg-type]
    policy = registry(gate, stream="hold")
    models = {**policy.models, "b": replace(policy.models["b"], cleared_for=sorted(cleared))}
    found = watch(replace(policy, models=models), labels=frozenset({"eu"}))
    found.on_head(200, "application/json")
    ruling = found.on_body(document("4"), True)
    if asked:
        assert isinstance(ruling, Consultation)
    else:
        assert isinstance(ruling, Ruling)
        assert (ruling.second, ruling.escalate) == (SecondAnswer("b", "not_cleared"), escalates)


def test_a_fitted_gate_takes_the_agreement_into_its_score() -> None:
    def judged(text: str, other: str) -> Ruling:
        watch = asking(Gate(second=SecondSettings(model="b")), {"g": calibrated()})
        assert isinstance(watch.on_body(document(text), True), Consultation)
        return watch.on_second_answer(ConsultationResult(200, document(other)))

    agreed, disagreed = judged("6 * 7 = 43", "43"), judged("6 * 7 = 43", "42")
    assert (agreed.escalate, disagreed.escalate, disagreed.reason) == (False, True, "score/low_score")
    assert agreed.score is not None
    assert disagreed.score is not None
    assert agreed.score > calibrated().manifest.threshold > disagreed.score


def test_a_fitted_gate_that_knows_of_no_second_answers_wants_both() -> None:
    def first(text: str) -> Ruling | Consultation | None:
        return asking(Gate(second=SecondSettings(model="b")), {"g": calibrated(paired=False)}).on_body(
            document(text), True
        )

    assert isinstance(first("6 * 7 = 42"), Consultation)
    doubted = first("6 * 7 = 43")
    assert isinstance(doubted, Ruling)
    assert doubted.reason == "score/low_score"
