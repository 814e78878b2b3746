"""The decide exchange, driven with plain values."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import BadRequest, ClientError, Denied, NotCleared, ProtocolError, UnknownModel
from extproc.exchanges import Envelope
from extproc.vocabulary import (
    Api,
    BodyPolicy,
    Candidate,
    Decision,
    Mode,
    Offer,
    Reason,
    RequestHead,
    Served,
    Stage,
    StageTimes,
    Terms,
)
from extproc.wire.decide_exchange import (
    Admitted,
    AskDecision,
    BodyReceived,
    Decided,
    DecideExchange,
    Done,
    Event,
    HeadReceived,
    NoRoom,
    Proceed,
    Refuse,
    Refused,
    Reserve,
    RouteRequest,
    Undecided,
)

CHAT = RequestHead(
    method="POST", path="/v1/chat/completions", headers={"x-request-id": "r"}, traceparent="00-aa-bb-01"
)
OTHER = RequestHead(method="GET", path="/v1/models", headers={})
DATA = b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"stream":true}'
DECISION = Decision(
    route="code",
    model="coder",
    policy=BodyPolicy(model="qwen-coder"),
    cluster="model-coder",
    stage=Stage.EMBEDDING,
    reason=Reason.MATCHED,
    version="v2",
    rule="",
    probability=0.912345,
    margin=0.81,
    similarity=-0.00004,
    tokens=7,
    candidates=tuple(Candidate(f"r{i}", 0.9 if i == 0 else 0.02, 0.5) for i in range(6)),
    times=StageTimes(rules=20, queue=11, embed=2500, total=2600),
)


class Ticks:
    """A clock that advances by a millisecond each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def exchange(terms: Terms | None = None) -> DecideExchange:
    return DecideExchange("v1", Ticks(), lambda: 1_795_000_000.25, terms=terms or Terms())


def admit(machine: DecideExchange, head: RequestHead = CHAT) -> None:
    """Takes ``machine`` to where it waits for the body of an LLM call."""
    assert isinstance(machine.receive(HeadReceived(head)), Reserve)
    assert machine.receive(Admitted()) == Proceed()


def asked(data: bytes = DATA, terms: Terms | None = None) -> DecideExchange:
    machine = exchange(terms)
    admit(machine)
    effect = machine.receive(BodyReceived(data))
    assert isinstance(effect, AskDecision)
    return machine


def test_a_request_that_is_no_llm_call_goes_on_untouched_and_unrecorded() -> None:
    machine = exchange()
    assert machine.receive(HeadReceived(OTHER)) == Proceed()
    assert machine.done


def test_a_request_that_is_no_llm_call_needs_no_whole_body() -> None:
    assert exchange().receive(HeadReceived(OTHER, buffered=False)) == Proceed()


def test_the_head_of_an_llm_call_goes_on_to_its_body_once_there_is_room_for_it() -> None:
    machine = exchange()
    assert machine.receive(
        HeadReceived(msgspec.structs.replace(CHAT, headers={"content-length": "70"}))
    ) == Reserve(70)
    assert machine.receive(Admitted()) == Proceed()
    assert not machine.done


@pytest.mark.parametrize(
    "declared", [{}, {"content-length": ""}, {"content-length": "-1"}, {"content-length": "²"}]
)
def test_a_head_that_does_not_say_how_long_its_body_is_reserves_an_unknown_size(
    declared: dict[str, str],
) -> None:
    assert exchange().receive(HeadReceived(msgspec.structs.replace(CHAT, headers=declared))) == Reserve(None)


def test_a_body_without_room_goes_to_the_default_and_says_why() -> None:
    machine = exchange()
    machine.receive(HeadReceived(CHAT))
    effect = machine.receive(NoRoom())
    assert isinstance(effect, Proceed)
    assert effect.envelope is not None
    assert (effect.envelope.stage, effect.envelope.reason) == ("default", "bytes_in_flight")
    assert machine.done


def test_a_body_without_room_is_refused_where_deny_rules_must_read_it() -> None:
    machine = exchange(Terms(checks=True))
    machine.receive(HeadReceived(CHAT))
    effect = machine.receive(NoRoom())
    assert isinstance(effect, Refuse)
    assert effect.status == 503
    assert json.loads(effect.body)["error"]["code"] == "overloaded"
    assert (effect.envelope.error, effect.envelope.reason) == ("bytes_in_flight", "bytes_in_flight")
    assert machine.done


def test_a_body_without_room_is_only_recorded_while_observing() -> None:
    machine = exchange(Terms(Mode.OBSERVE, checks=True))
    machine.receive(HeadReceived(CHAT))
    effect = machine.receive(NoRoom())
    assert isinstance(effect, Proceed)
    assert effect.envelope is not None
    assert effect.envelope.reason == "bytes_in_flight"


def test_the_body_becomes_a_question() -> None:
    machine = exchange()
    admit(machine)
    effect = machine.receive(BodyReceived(DATA))
    assert isinstance(effect, AskDecision)
    assert effect.question.head == CHAT
    assert effect.question.request.user_text == "hi"
    assert effect.question.request.model == "auto"
    assert not machine.done


def test_a_decision_becomes_a_route_with_only_the_model_changed() -> None:
    machine = asked()
    effect = machine.receive(Decided(DECISION))
    assert isinstance(effect, RouteRequest)
    assert effect.cluster == "model-coder"
    assert effect.body == DATA.replace(b'"auto"', b'"qwen-coder"')
    assert machine.done


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", b'{"model":"auto","prompt":"auto"}'),
        ("/v1/responses", b'{"input":"auto","model":"auto"}'),
        (
            "/v1/messages?beta=true",
            b'{"max_tokens":5,"model":"auto","messages":[{"role":"user","content":"hi"}]}',
        ),
    ],
)
def test_every_api_is_decided_and_told_its_model_in_its_own_words(path: str, body: bytes) -> None:
    machine = exchange()
    admit(machine, msgspec.structs.replace(CHAT, path=path))
    assert isinstance(machine.receive(BodyReceived(body)), AskDecision)
    effect = machine.receive(Decided(DECISION))
    assert isinstance(effect, RouteRequest)
    assert effect.body == body.replace(b'"model":"auto"', b'"model":"qwen-coder"')


def test_a_refusal_is_told_in_anthropics_shape_on_anthropics_path() -> None:
    machine = exchange()
    admit(machine, msgspec.structs.replace(CHAT, path="/v1/messages"))
    effect = machine.receive(BodyReceived(DATA))
    assert isinstance(effect, Refuse)
    assert effect.envelope.api == "anthropic.messages"
    assert json.loads(effect.body) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "'max_tokens' is required."},
    }


def test_a_body_that_already_names_the_model_is_not_changed() -> None:
    effect = asked(DATA.replace(b"auto", b"qwen-coder")).receive(Decided(DECISION))
    assert isinstance(effect, RouteRequest)
    assert effect.body is None


def test_the_envelope_of_a_route_says_all_that_the_record_needs() -> None:
    effect = asked().receive(Decided(DECISION))
    assert isinstance(effect, RouteRequest)
    assert effect.envelope == Envelope(
        api="openai.chat",
        route="code",
        model="coder",
        upstream_model="qwen-coder",
        original_model="auto",
        stage="embedding",
        reason="matched",
        probability=0.9123,
        margin=0.81,
        similarity=0.0,
        candidates=("r0:0.9", "r1:0.02", "r2:0.02", "r3:0.02", "r4:0.02"),
        version="v2",
        tokens=7,
        stream=True,
        traceparent="00-aa-bb-01",
        began_us=1_795_000_000_250_000,
        parse_us=1000,
        rules_us=20,
        queue_us=11,
        embed_us=2500,
        total_us=2600,
    )


def test_the_envelope_tells_the_quality_that_was_predicted_of_the_model_and_of_the_others() -> None:
    offers = (Offer("large", 0.98765, 0.1), Offer("coder", 0.812345, 0.01), Offer("new", None, 0.0))
    decision = msgspec.structs.replace(DECISION, offers=offers, training_similarity=0.43219)
    effect = asked().receive(Decided(decision))
    assert isinstance(effect, RouteRequest)
    assert effect.envelope.predicted_quality == 0.8123
    assert effect.envelope.offers == ("large:0.9877", "coder:0.8123")
    assert effect.envelope.training_similarity == 0.4322


def test_nothing_is_said_of_a_quality_that_was_not_predicted() -> None:
    unknown = msgspec.structs.replace(DECISION, offers=(Offer("other", 0.9, 0.1),))
    effect = asked().receive(Decided(unknown))  # the default model, say, which is no candidate
    assert isinstance(effect, RouteRequest)
    assert effect.envelope.predicted_quality is None


def test_envoy_learns_the_clearance_where_it_chooses_among_models_by_itself() -> None:
    labelled = msgspec.structs.replace(DECISION, labels=("eu", "pii"), clearance="eu+pii")
    for fallback, clearance in ((True, "eu+pii"), (False, "")):
        effect = asked().receive(Decided(msgspec.structs.replace(labelled, fallback=fallback)))
        assert isinstance(effect, RouteRequest)
        assert (effect.clearance, effect.envelope.labels) == (clearance, ("eu", "pii"))


def test_a_refusal_for_want_of_a_cleared_model_says_for_which_labels() -> None:
    labels = frozenset(f"{number:02}{'x' * 100}" for number in range(40))
    effect = asked().receive(Refused(NotCleared("no", labels=labels)))
    assert isinstance(effect, Refuse)
    assert json.loads(effect.body)["error"]["code"] == "not_cleared"
    assert effect.envelope.labels == tuple(f"{number:02}{'x' * 62}" for number in range(16))


def test_a_decision_without_an_embedding_has_no_scores_in_its_envelope() -> None:
    decision = msgspec.structs.replace(
        DECISION,
        stage=Stage.PIN,
        reason=Reason.PINNED,
        rule="vip",
        probability=None,
        margin=None,
        similarity=None,
    )
    effect = asked().receive(Decided(decision))
    assert isinstance(effect, RouteRequest)
    envelope = effect.envelope
    assert (envelope.probability, envelope.margin, envelope.similarity) == (None, None, None)
    assert (envelope.stage, envelope.reason, envelope.rule) == ("pin", "pinned", "vip")


@pytest.mark.parametrize(
    ("error", "status", "code", "stage", "rule"),
    [
        (BadRequest("no", param="messages"), 400, None, "", ""),
        (UnknownModel("no", param="model"), 404, "model_not_found", "", ""),
        (Denied("no", rule="secrets"), 400, "content_policy_violation", "deny", "secrets"),
        (Denied("no", rule="secrets", status=403), 403, "content_policy_violation", "deny", "secrets"),
    ],
)
def test_a_refusal_answers_in_the_shape_of_the_api(
    error: ClientError, status: int, code: str | None, stage: str, rule: str
) -> None:
    machine = asked()
    effect = machine.receive(Refused(error))
    assert isinstance(effect, Refuse)
    assert effect.status == status
    assert json.loads(effect.body) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": error.param, "code": code}
    }
    assert effect.envelope == Envelope(
        api="openai.chat",
        original_model="auto",
        stage=stage,
        reason=error.label,
        rule=rule,
        error=error.label,
        version="v1",
        stream=True,
        traceparent="00-aa-bb-01",
        began_us=1_795_000_000_250_000,
        parse_us=1000,
        rules_us=1000,  # what refuses is decided before anything waits
        total_us=1000,
    )
    assert machine.done


def test_a_body_that_cannot_be_read_is_refused_without_asking() -> None:
    machine = exchange()
    admit(machine)
    effect = machine.receive(BodyReceived(b"{"))
    assert isinstance(effect, Refuse)
    assert effect.status == 400
    assert effect.envelope.error == "bad_request"
    assert machine.done


def test_an_llm_call_without_a_body_is_refused_at_its_head() -> None:
    machine = exchange()
    effect = machine.receive(HeadReceived(msgspec.structs.replace(CHAT, has_body=False)))
    assert isinstance(effect, Refuse)
    assert effect.status == 400
    assert b"empty" in effect.body
    assert machine.done


@pytest.mark.parametrize(
    ("encoding", "refused"),
    [("gzip", True), ("GZIP, br", True), ("identity", False), ("Identity", False), ("", False)],
)
def test_a_compressed_body_is_refused_in_words_the_client_understands(encoding: str, refused: bool) -> None:
    machine = exchange()
    admit(machine, msgspec.structs.replace(CHAT, headers={"content-encoding": encoding}))
    effect = machine.receive(BodyReceived(DATA))
    assert isinstance(effect, Refuse) is refused
    if isinstance(effect, Refuse):
        assert b"content-encoding" in effect.body


def test_an_envoy_that_will_not_send_the_whole_body_is_told_what_to_change() -> None:
    machine = exchange()
    with pytest.raises(ProtocolError, match="request_body_mode must be BUFFERED"):
        machine.receive(HeadReceived(CHAT, buffered=False))


def test_giving_up_ends_the_exchange_and_says_why() -> None:
    machine = asked()
    effect = machine.give_up()
    assert machine.done
    assert effect.envelope == Envelope(
        api="openai.chat",
        original_model="auto",
        stage="default",
        reason="internal_error",
        version="v1",
        stream=True,
        traceparent="00-aa-bb-01",
        began_us=1_795_000_000_250_000,
        parse_us=1000,
    )


def test_text_of_the_prompt_is_in_no_envelope_unless_asked_for_and_then_bounded() -> None:
    routed = asked().receive(Decided(DECISION))
    assert isinstance(routed, RouteRequest)
    assert routed.envelope.prompt == ""
    machine = DecideExchange("v1", Ticks(), prompt_chars=3)
    admit(machine)
    machine.receive(BodyReceived(DATA.replace(b"hi", b"hello there")))
    told = machine.receive(Decided(DECISION))
    assert isinstance(told, RouteRequest)
    assert told.envelope.prompt == "hel"


@pytest.mark.parametrize(
    ("asked_before", "reask"),
    [([], None), (["How do I sort it?"], True), (["Who are you, my friend?"], False)],
)
def test_the_envelope_says_whether_the_client_asks_again(asked_before: list[str], reask: bool | None) -> None:
    messages = [{"role": "user", "content": text} for text in [*asked_before, "how do I sort it"]]
    machine = asked(msgspec.json.encode({"model": "auto", "messages": messages}))
    route = machine.receive(Decided(DECISION))
    assert isinstance(route, RouteRequest)
    assert route.envelope.reask is reask


def test_a_traceparent_of_any_length_is_cut() -> None:
    machine = exchange()
    admit(machine, msgspec.structs.replace(CHAT, traceparent="00-" + "a" * 60_000))
    effect = machine.receive(BodyReceived(b"{"))
    assert isinstance(effect, Refuse)
    assert len(effect.envelope.traceparent) == 128


events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        HeadReceived,
        st.sampled_from([CHAT, OTHER, msgspec.structs.replace(CHAT, has_body=False)]),
        st.booleans(),
    ),
    st.builds(BodyReceived, st.sampled_from([DATA, b"", b"{", b"\xff"]) | st.binary(max_size=20)),
    st.just(Admitted()),
    st.just(NoRoom()),
    st.just(Decided(DECISION)),
    st.just(Refused(Denied("no", rule="r"))),
)


@given(st.lists(events, max_size=6))
def test_any_order_of_events_gives_effects_or_a_protocol_error_that_changes_nothing(
    order: list[Event],
) -> None:
    machine = exchange()
    for event in order:
        before = machine.state
        try:
            effect = machine.receive(event)
        except ProtocolError:
            assert machine.state is before
        else:
            assert not isinstance(before, Done)
            assert isinstance(effect, Reserve | AskDecision | Proceed) or machine.done


DEFAULTS = {Api.OPENAI_CHAT: Served("mid", "llama-70b", "vllm")}
OBSERVING = Terms(Mode.OBSERVE, "x-chat", DEFAULTS)
ANSWERED_BY_THE_DEFAULT = {"route": "", "model": "mid", "upstream_model": "llama-70b", "provider": "vllm"}


def test_what_is_observed_goes_on_untouched_and_says_what_would_have_been() -> None:
    routed = asked().receive(Decided(DECISION))
    assert isinstance(routed, RouteRequest)
    machine = asked(terms=Terms(defaults=DEFAULTS))  # the registry routes; this one request is not in
    effect = machine.receive(Decided(msgspec.structs.replace(DECISION, mode=Mode.OBSERVE)))
    assert effect == Proceed(
        msgspec.structs.replace(
            routed.envelope,
            mode="observe",
            would_route="code",
            would_model="coder",
            **ANSWERED_BY_THE_DEFAULT,
        ),
        checked=True,
    )
    assert machine.done


def test_a_route_that_is_switched_on_routes_under_a_registry_that_observes() -> None:
    effect = asked(terms=OBSERVING).receive(Decided(DECISION))
    assert isinstance(effect, RouteRequest)
    assert (effect.envelope.mode, effect.envelope.route, effect.envelope.would_route) == (
        "active",
        "code",
        "",
    )


@pytest.mark.parametrize(
    ("error", "stage", "rule"),
    [
        (BadRequest("no"), "", ""),
        (UnknownModel("no"), "", ""),
        (Denied("no", rule="secrets"), "deny", "secrets"),
    ],
)
def test_a_refusal_that_is_only_observed_refuses_nobody(error: ClientError, stage: str, rule: str) -> None:
    effect = asked(terms=OBSERVING).receive(Refused(error))
    assert isinstance(effect, Proceed)
    envelope = effect.envelope
    assert envelope is not None
    assert (envelope.mode, envelope.stage, envelope.reason, envelope.rule) == (
        "observe", stage, error.label, rule,
    )  # fmt: skip
    assert (envelope.error, envelope.would_route, envelope.would_model) == ("", "", "")
    assert (envelope.model, envelope.upstream_model, envelope.provider) == ("mid", "llama-70b", "vllm")


@pytest.mark.parametrize("data", [b"", b"{", b'{"model":"auto"}'])
def test_a_body_that_cannot_be_read_is_the_providers_to_refuse_while_observing(data: bytes) -> None:
    machine = exchange(OBSERVING)
    admit(machine)
    effect = machine.receive(BodyReceived(data))
    assert isinstance(effect, Proceed)
    assert effect.envelope is not None
    assert (effect.envelope.reason, effect.envelope.model) == ("bad_request", "mid")


def test_a_call_without_a_body_goes_on_at_its_head_while_observing() -> None:
    machine = exchange(OBSERVING)
    effect = machine.receive(HeadReceived(msgspec.structs.replace(CHAT, has_body=False)))
    assert isinstance(effect, Proceed)
    assert effect.envelope is not None
    assert effect.envelope.reason == "bad_request"
    assert machine.done


def test_what_could_not_be_decided_while_observing_is_told_with_who_answers() -> None:
    effect = asked(terms=OBSERVING).receive(Undecided(Reason.UNKNOWN_VERSION))
    assert isinstance(effect, Proceed)
    assert effect.envelope is not None
    assert (effect.envelope.mode, effect.envelope.reason) == ("observe", "unknown_version")
    assert (effect.envelope.model, effect.envelope.would_model) == ("mid", "")


def test_giving_up_before_anything_is_known_claims_no_model() -> None:
    envelope = exchange(OBSERVING).give_up().envelope
    assert envelope is not None
    assert (envelope.mode, envelope.model, envelope.reason) == ("observe", "", "internal_error")


def test_the_conversation_is_told_to_the_pipeline_and_the_record_alike() -> None:
    machine = exchange(Terms(conversation_header="x-chat"))
    admit(machine, msgspec.structs.replace(CHAT, headers={"x-chat": "secret"}))
    effect = machine.receive(BodyReceived(DATA))
    assert isinstance(effect, AskDecision)
    routed = machine.receive(Decided(DECISION))
    assert isinstance(routed, RouteRequest)
    assert len(effect.question.conversation_id) == 32
    assert routed.envelope.conversation_id == effect.question.conversation_id


@given(st.lists(events, max_size=6))
def test_while_observing_nothing_is_changed_or_refused_whatever_comes(order: list[Event]) -> None:
    machine = exchange(OBSERVING)
    for event in order:
        if isinstance(event, Decided):
            event = Decided(msgspec.structs.replace(event.decision, mode=Mode.OBSERVE))
        with contextlib.suppress(ProtocolError):
            effect = machine.receive(event)
            assert isinstance(effect, Reserve | AskDecision | Proceed)


@pytest.mark.parametrize(
    ("machine", "checked"),
    [
        (exchange(), False),
        (asked(), False),
        (asked(terms=OBSERVING), True),  # where deny rules let pass what they name
    ],
    ids=["nothing is known", "asked", "asked, observing"],
)
def test_what_is_given_up_before_deny_rules_were_checked_is_unchecked(
    machine: DecideExchange, checked: bool
) -> None:
    assert machine.give_up().checked is checked


def test_what_nobody_can_decide_is_unchecked() -> None:
    effect = asked().receive(Undecided(Reason.UNKNOWN_VERSION))
    assert isinstance(effect, Proceed)
    assert not effect.checked


def test_what_is_given_up_after_a_decision_is_checked() -> None:
    machine = asked()
    machine.receive(Decided(DECISION))
    assert machine.give_up().checked
