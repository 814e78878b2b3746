"""The exchange of a gate with plain values, its messages, and the gates of a registry."""

import pytest

from extproc._pb.ext_proc_pb2 import HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, Unread
from extproc.errors import ProtocolError
from extproc.exchanges import Ruling, SecondAnswer
from extproc.gate.consultation import Consultation, ConsultationResult, FailureReason
from extproc.registry.cascade_settings import Cascade, Gate, Length, SelfReport, Tier
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from extproc.registry.tier_compiling import judged_tiers
from extproc.vocabulary import RequestHead
from extproc.wire import gate_messages, observed_metadata
from extproc.wire.decide_exchange import BodyReceived, HeadReceived
from extproc.wire.decide_messages import StreamMetadata
from extproc.wire.gate_exchange import (
    AnswerHead,
    AnswerPart,
    Consult,
    ConsultationEnded,
    Effect,
    Event,
    GateExchange,
    PassRequest,
    Reject,
    ReleaseAnswer,
    TimeUp,
    Wait,
    Watched,
)
from extproc.wire.gate_stream import Gatekeepers

GOOD, BAD, LATE = (
    Ruling(False, "words", "good", 0.9),
    Ruling(True, "words", "bad"),
    Ruling(True, reason="late"),
)
HEAD = HeadReceived(RequestHead(method="POST", path="/v1/chat/completions", headers={}))
BODY = BodyReceived(b"{}")
OK = AnswerHead(200, {"content-type": "application/json"})


class Watch:
    """Rules by the words that it sees; at the end it is content."""

    def __init__(self, judges: bool = True) -> None:
        self.judges = judges

    def on_head(self, status: int, content_type: str) -> bool:
        return self.judges

    def on_body(self, data: bytes, ended: bool) -> Ruling | None:
        return BAD if b"bad" in data else GOOD if ended else None

    def on_timeout(self) -> Ruling:
        return LATE


class Keeper:
    def __init__(self, watch: Watch | None, seconds: float | None = None) -> None:
        self._watch = watch
        self._seconds = seconds
        self.asked: list[tuple[str, bytes]] = []

    def watch(self, tier: str, head: RequestHead, body: bytes) -> Watched | None:
        self.asked.append((tier, body))
        return Watched(self._watch, self._seconds) if self._watch else None


def effects(gate: GateExchange, *events: Event) -> list[Effect]:
    return [gate.receive(event) for event in events]


def gate(watch: Watch | None = None, **more: int) -> GateExchange:
    return GateExchange("frugal/0", Keeper(watch or Watch()), **more)


def test_an_answer_is_held_until_its_ruling() -> None:
    machine = gate()
    assert effects(machine, HEAD, BODY) == [PassRequest(), PassRequest()]
    assert effects(machine, OK, AnswerPart(b"so"), AnswerPart(b"", ended=True)) == [
        Wait(),
        Wait(),
        ReleaseAnswer(GOOD),
    ]
    assert machine.done


def test_a_bad_one_is_refused_as_soon_as_it_is_seen() -> None:
    machine = gate()
    assert effects(machine, HEAD, BODY, OK, AnswerPart(b"bad"))[-1] == Reject(BAD)
    assert machine.done


def test_the_keeper_gets_the_tier_and_the_body() -> None:
    keeper = Keeper(Watch(), seconds=3.0)
    machine = GateExchange("frugal/0", keeper)
    assert machine.seconds is None
    effects(machine, HEAD, BODY)
    assert keeper.asked == [("frugal/0", b"{}")]
    assert machine.seconds is None  # Envoy keeps the time until there is an answer
    effects(machine, OK)
    assert machine.seconds == 3.0


@pytest.mark.parametrize(
    "head",
    [
        AnswerHead(503, {}),
        AnswerHead(503, {}, ended=True),
        AnswerHead(429, {}),
        AnswerHead(400, {"x-router-escalate": "1"}),
        AnswerHead(200, {"content-encoding": "gzip"}),
    ],
)
def test_what_is_no_answer_or_cannot_be_read_passes(head: AnswerHead) -> None:
    machine = gate()
    assert effects(machine, HEAD, BODY, head)[-1] == ReleaseAnswer(None)
    assert machine.done


def test_an_answer_without_a_body_is_judged_by_its_head() -> None:
    machine = gate()
    assert effects(machine, HEAD, BODY, AnswerHead(200, {}, ended=True))[-1] == ReleaseAnswer(GOOD)
    assert machine.done


def test_what_nobody_judges_passes() -> None:
    assert effects(gate(Watch(judges=False)), HEAD, BODY, OK)[-1] == ReleaseAnswer(None)
    assert effects(GateExchange("frugal/0", Keeper(None)), HEAD, BODY, OK)[-1] == ReleaseAnswer(None)


def test_more_than_may_be_held_passes() -> None:
    machine = gate(held_limit=3)
    assert effects(machine, HEAD, BODY, OK, AnswerPart(b"abc"), AnswerPart(b"d"))[-2:] == [
        Wait(),
        ReleaseAnswer(None),
    ]


@pytest.mark.parametrize("before", [[OK], [OK, AnswerPart(b"so")]])
def test_when_its_time_is_up_it_is_refused(before: list[Event]) -> None:
    machine = gate()
    assert effects(machine, HEAD, BODY, *before, TimeUp())[-1] == Reject(LATE)


@pytest.mark.parametrize(
    "events", [[BODY], [OK], [AnswerPart(b"")], [HEAD, HEAD], [HEAD, BODY, TimeUp()], [HEAD, BODY, OK, OK]]
)
def test_what_does_not_fit_is_a_protocol_error(events: list[Event]) -> None:
    machine = gate()
    with pytest.raises(ProtocolError):
        effects(machine, *events)


@pytest.mark.parametrize(
    ("before", "event", "effect"),
    [
        ([], HEAD, PassRequest()),
        ([HEAD], BODY, PassRequest()),
        ([HEAD, BODY], OK, ReleaseAnswer(None)),
        ([HEAD, BODY, OK], AnswerPart(b"so"), ReleaseAnswer(None)),
    ],
)
def test_after_a_defect_all_goes_on(before: list[Event], event: Event, effect: Effect) -> None:
    machine = gate()
    effects(machine, *before)
    assert machine.give_up(event) == effect
    assert machine.done


# --- Its messages ---------------------------------------------------------------------------------


def decoded(**fields: object) -> Event:
    message = ProcessingRequest(**fields)  # type: ignore[arg-type]
    return gate_messages.decode(message.SerializeToString(), StreamMetadata())


def test_messages_of_envoy_become_events() -> None:
    head = HttpHeaders(end_of_stream=True)
    for key, value in ((":status", b"200"), ("content-type", b"text/event-stream")):
        head.headers.headers.add(key=key, raw_value=value)
    assert decoded(response_headers=head) == AnswerHead(
        200, {"content-type": "text/event-stream"}, ended=True
    )
    assert decoded(response_headers=HttpHeaders()) == AnswerHead(0, {})
    assert decoded(request_body=HttpBody(body=b"a")) == BodyReceived(b"a")
    assert decoded(response_body=HttpBody(body=b"a", end_of_stream=True)) == AnswerPart(b"a", ended=True)
    assert decoded(response_trailers=Unread()) == AnswerPart(b"", ended=True)
    for data in (b"", b"\xff", ProcessingRequest(request_trailers=Unread()).SerializeToString()):
        with pytest.raises(ProtocolError):
            gate_messages.decode(data, StreamMetadata())


def reply(event: Event, effect: Effect) -> ProcessingResponse:
    data = gate_messages.encode(event, effect)
    assert data is not None
    return ProcessingResponse.FromString(data)


def test_effects_become_messages_for_envoy() -> None:
    assert gate_messages.encode(OK, Wait()) is None
    assert reply(HEAD, PassRequest()).WhichOneof("response") == "request_headers"
    assert reply(BODY, PassRequest()).WhichOneof("response") == "request_body"
    released = reply(AnswerPart(b""), ReleaseAnswer(None))
    assert released.WhichOneof("response") == "response_headers"
    assert not released.dynamic_metadata.fields
    rejected = reply(AnswerPart(b""), Reject(BAD)).immediate_response
    assert rejected.status.code == 503
    (header,) = rejected.headers.set_headers
    assert (header.header.key, header.header.raw_value) == ("x-router-escalate", b"1")


SECONDS = (
    Ruling(False, "words", second=SecondAnswer("large", "answered", 7, 0)),
    Ruling(False, "words", second=SecondAnswer("large", "answered", 7, 1, 0.75)),
    Ruling(True, "words", "second/timeout", second=SecondAnswer("large", "timeout")),
)


def test_an_answer_is_held_while_another_model_is_asked() -> None:
    wanted = Consultation(model="large", path="/", body=b"{}", deadline_s=1.0, budget_key="words")

    class Asking(Watch):
        def on_body(self, data: bytes, ended: bool) -> Ruling | None:
            return wanted if ended else None  # type: ignore[return-value]

        def on_second_answer(self, advice: ConsultationResult) -> Ruling:
            return BAD if advice.failure else GOOD

    for advice, effect in (
        (ConsultationResult(200, b"{}"), ReleaseAnswer(GOOD)),
        (ConsultationResult(failure=FailureReason.TIMEOUT), Reject(BAD)),
    ):
        machine = gate(Asking())
        effects(machine, HEAD, BODY, OK)
        assert machine.receive(AnswerPart(b"", ended=True)) == Consult(wanted)
        assert gate_messages.encode(AnswerPart(b""), Consult(wanted)) is None
        assert not machine.done
        assert machine.receive(ConsultationEnded(advice)) == effect
        assert machine.done


@pytest.mark.parametrize("ruling", [GOOD, BAD, LATE, *SECONDS])
def test_a_ruling_comes_back_out_of_the_metadata_as_it_went_in(ruling: Ruling) -> None:
    effect: Effect = Reject(ruling) if ruling.escalate else ReleaseAnswer(ruling)
    fields = reply(AnswerPart(b""), effect).dynamic_metadata.fields
    metadata = {name: value.struct_value for name, value in fields.items()}
    assert observed_metadata.ruling(metadata) == ruling


# --- The gates of a registry ----------------------------------------------------------------------

NOW = 1_000_000.0


def registry(gate: Gate, deadline_s: float | None = None, timeout_s: float | None = None) -> Registry:
    first = Tier(model="a", gate="g", timeout_s=timeout_s)
    return Registry(
        models={name: Model(base_url="http://127.0.0.1:1") for name in "ab"},
        default="b",
        cascades={"x": Cascade(tiers=[first, Tier(model="b")], deadline_s=deadline_s)},
        gates={"g": gate},
    )


UNSURE, SHORT = Gate(self_report=SelfReport("not sure")), Gate(length=Length(max_chars=3))
ANSWER = b'{"choices":[{"index":0,"message":{"content":"I am not sure"},"finish_reason":"stop"}]}'


def keepers(*made: Registry) -> Gatekeepers:
    """Of versions v1, v2 and so on; the last is the newest."""
    versions = {f"v{number}": judged_tiers(each) for number, each in enumerate(made, 1)}
    return Gatekeepers(lambda version: versions.get(version or f"v{len(made)}", {}), now=lambda: NOW)


def watched(
    found: Gatekeepers, tier: str = "x/0", path: str = "/v1/chat/completions", **headers: str
) -> Watched | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return found.watch(tier, RequestHead(method="POST", path=path, headers=named), b"{}")


def test_only_what_has_a_gate_is_judged() -> None:
    found = keepers(registry(UNSURE))
    assert watched(found, "x/1") is None
    assert watched(found, "y/0") is None
    assert watched(found, path="/v1/files") is None
    assert watched(keepers()) is None


def test_an_answer_is_judged_by_the_version_it_was_decided_by() -> None:
    found = keepers(registry(UNSURE), registry(SHORT))
    assert watched(found, x_router_config="v3") is None
    reasons = []
    for headers in ({"x_router_config": "v1"}, {"x_router_config": "v2"}, {}):
        made = watched(found, **headers)
        assert made is not None
        made.watch.on_head(200, "application/json")
        ruling = made.watch.on_body(ANSWER, True)
        assert isinstance(ruling, Ruling)
        reasons.append(ruling.reason.partition("/")[0])
    assert reasons == ["self_report", "length", "length"]


@pytest.mark.parametrize(
    ("limits", "began", "seconds"),
    [
        ({}, "999000000", None),
        ({"timeout_s": 3.0}, "", 3.0),
        ({"deadline_s": 10.0}, "999998000", 8.0),
        ({"deadline_s": 10.0}, "", None),
        ({"deadline_s": 10.0}, "soon", None),
        ({"timeout_s": 3.0, "deadline_s": 10.0}, "999998000", 3.0),
        ({"timeout_s": 9.0, "deadline_s": 10.0}, "999998000", 8.0),
        ({"deadline_s": 10.0}, "0", 0.001),
    ],
)
def test_a_verdict_must_come_in_the_tiers_time_and_in_what_is_left_of_all(
    limits: dict[str, float], began: str, seconds: float | None
) -> None:
    found = watched(keepers(registry(UNSURE, **limits)), x_router_began=began)  # type: ignore[arg-type]
    assert found is not None
    assert found.seconds == pytest.approx(seconds) if seconds else found.seconds is None
