"""The decide exchange as a state machine without I/O: events in, effects out.

One instance lives as long as one ext_proc stream, which is one HTTP request:

AwaitingHead ──Head──> AwaitingRoom ──Admitted──> AwaitingBody ──Body──> AwaitingDecision
    │                      │                          │                    ├─────Decided──> Done   Route
    │                      │                          │                    ├─────Refused──> Done   Refuse
    │                      │                          │                    └───Undecided──> Done   Proceed
    │                      │                          └──Body that cannot be read─────────> Done   Refuse
    │                      └──Overloaded, the body must be checked   ───────────────────> Done   Refuse
    │                      └──Overloaded, there are none──────────────────────────────────> Done   Proceed
    ├──Head of an LLM call without a body─────────────────────────────────────────────────> Done   Refuse
    └──Head of anything else──────────────────────────────────────────────────────────────> Done   Proceed

In mode observe every end is to Proceed, with an envelope that says what would have been done.

Envoy refuses a request of an API with ``without_sidecar: refuse`` unless it was routed, or may proceed as
checked: no rule forbids it, or rules do not count for it. A stream that ends in any other way leaves it
unchecked.

Nothing here knows gRPC, protobuf or asyncio: the caller carries out its effects.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from extproc import apis
from extproc.apis.body_redaction import without_findings
from extproc.apis.conversation import conversation_id
from extproc.apis.refusal_answers import RefusalAnswer
from extproc.errors import BadRequest, ClientError, NotCleared, ProtocolError, TooBusy, Unsafe
from extproc.exchanges import Envelope
from extproc.safety.redaction import Redactor
from extproc.vocabulary import (
    Api,
    Decision,
    Mode,
    ModelName,
    Question,
    Reason,
    RequestHead,
    Served,
    Span,
    Stage,
    Terms,
    UpstreamName,
    Version,
)
from extproc.wire.envelope_building import as_observed, with_decision, with_refusal

# --- States: what the exchange waits for, with what is known by then ----------------------------


class AwaitingHead(msgspec.Struct, frozen=True):
    """Nothing is known."""


class AwaitingRoom(msgspec.Struct, frozen=True):
    """The request is an LLM call, whose body Envoy sends once its head is replied to."""

    api: Api
    head: RequestHead


class AwaitingBody(msgspec.Struct, frozen=True):
    """The body may come."""

    api: Api
    head: RequestHead


class AwaitingDecision(msgspec.Struct, frozen=True):
    """The request is read, and the pipeline was asked."""

    question: Question
    body: bytes
    asked_at: float  # by the exchange's clock


class Done(msgspec.Struct, frozen=True):
    """The last effect ended the exchange."""


State = AwaitingHead | AwaitingRoom | AwaitingBody | AwaitingDecision | Done


# --- Events -------------------------------------------------------------------------------------


class HeadReceived(msgspec.Struct, frozen=True):
    """The request's head came. ``buffered``: will its body come whole, in one message?"""

    head: RequestHead
    buffered: bool = True


class Admitted(msgspec.Struct, frozen=True):
    """There is room for the body."""


class NoRoom(msgspec.Struct, frozen=True):
    """There was no room for the body for as long as it may wait."""


class BodyReceived(msgspec.Struct, frozen=True):
    """The request's whole body came."""

    data: bytes


class Decided(msgspec.Struct, frozen=True):
    """The pipeline answered the question."""

    decision: Decision


class Refused(msgspec.Struct, frozen=True):
    """The pipeline refused the request."""

    error: ClientError


class Undecided(msgspec.Struct, frozen=True):
    """The pipeline cannot decide the request."""

    reason: Reason


Event = HeadReceived | Admitted | NoRoom | BodyReceived | Decided | Refused | Undecided


JSON = "application/json"
EVENTS = "text/event-stream"

# --- Effects ------------------------------------------------------------------------------------


class Proceed(msgspec.Struct, frozen=True):
    """Let the request go on as it is. The envelope, if any, has the reason why it was not routed.

    In mode observe this is the only end, and the envelope has what would have been done.
    ``checked`` says that the API's default may answer it, as far as deny rules are concerned.
    """

    envelope: Envelope | None = None
    checked: bool = False


class Reserve(msgspec.Struct, frozen=True):
    """Reserve room for the body, and come back with ``Admitted`` or ``NoRoom``."""

    size: int | None  # bytes; None: the head does not say


class AskDecision(msgspec.Struct, frozen=True):
    """Ask the pipeline, and come back with ``Decided``, ``Refused`` or ``Undecided``."""

    question: Question


class RouteRequest(msgspec.Struct, frozen=True):
    """Send the request to ``cluster``, with another body unless that is None.

    ``model_span`` is where the body names the model, for those that may be asked in its place. They must be
    of the ``clearance``, unless it is empty.
    """

    cluster: str
    body: bytes | None
    envelope: Envelope
    model_span: Span | None = None
    clearance: str = ""


class Refuse(msgspec.Struct, frozen=True):
    """Answer the client with ``status`` and ``body``; nothing is forwarded."""

    status: int
    body: bytes
    envelope: Envelope
    content_type: str = JSON


Reply = Proceed | RouteRequest | Refuse
Effect = Reply | Reserve | AskDecision


# --- The machine --------------------------------------------------------------------------------

_TRACEPARENT_LIMIT = 128  # characters of an envelope; W3C's version 00 has 55

_TOO_BUSY = "The router is reading as many large requests as it can; try again in a moment."

_USUAL = Terms()
_NOBODY = Served(ModelName(""), UpstreamName(""))


class DecideExchange:
    """One request's way through the decision."""

    def __init__(
        self,
        version: Version,
        clock: Callable[[], float],
        now: Callable[[], float] = time.time,
        *,
        prompt_chars: int = 0,
        terms: Terms = _USUAL,
    ) -> None:
        """``version`` is that of the registry by which Envoy routes the request, and ``terms`` are its.

        ``clock`` counts seconds. ``now`` gives the time of day, in seconds since the epoch.
        ``prompt_chars`` of the latest user turn go into the envelope: none, unless the operator opted in.
        """
        self._clock = clock
        self._now = now
        self._prompt_chars = prompt_chars
        self._state: State = AwaitingHead()
        self._terms = terms
        self._checked = terms.mode is Mode.OBSERVE  # which lets pass what deny rules name
        self._known = Envelope(version=version, mode=terms.mode)  # of this request, so far

    @property
    def state(self) -> State:
        """What the exchange waits for."""
        return self._state

    @property
    def done(self) -> bool:
        """Whether the last effect ended the exchange."""
        return isinstance(self._state, Done)

    def receive(self, event: Event) -> Effect:
        """What to do about ``event``.

        Raises:
            ProtocolError: the event does not fit the state, which stays as it was.
        """
        step = _STEPS.get((type(self._state), type(event)))
        if step is None:
            raise ProtocolError(f"{type(event).__name__} came in state {type(self._state).__name__}")
        self._state, effect = step(self, self._state, event)
        return effect

    def give_up(self) -> Proceed:
        """End the exchange after a defect of ours: Envoy's default answers, and the record says why."""
        self._state = Done()
        return self._let_go(Reason.INTERNAL_ERROR)

    def _on_head(self, _: AwaitingHead, event: HeadReceived) -> tuple[State, Effect]:
        head = event.head
        api = apis.api_of(head.method, head.path)
        if api is None:
            return Done(), Proceed()
        self._known = replace(self._known, api=api, traceparent=head.traceparent[:_TRACEPARENT_LIMIT])
        if not head.has_body:
            return self._on_body(AwaitingBody(api, head), BodyReceived(b""))
        if not event.buffered:
            raise ProtocolError("the body will not come whole: ext_proc's request_body_mode must be BUFFERED")
        return AwaitingRoom(api, head), Reserve(_declared_size(head))

    def _on_admitted(self, state: AwaitingRoom, _: Admitted) -> tuple[State, Effect]:
        return AwaitingBody(state.api, state.head), Proceed()

    def _on_overloaded(self, state: AwaitingRoom, _: NoRoom) -> tuple[State, Effect]:
        if self._terms.checks:
            return Done(), self._refuse(state.api, TooBusy(_TOO_BUSY))
        return Done(), self._let_go(Reason.BYTES_IN_FLIGHT)

    def _on_body(self, state: AwaitingBody, event: BodyReceived) -> tuple[State, Effect]:
        self._known = replace(self._known, began_us=round(self._now() * 1e6))
        started = self._clock()
        try:
            _require_uncompressed(state.head)
            request = apis.parse(state.api, event.data)
            reask = apis.asks_again(request.user_text, request.earlier)
        except BadRequest as error:
            return Done(), self._refuse(state.api, error)
        parsed = self._clock()
        self._known = replace(
            self._known,
            original_model=request.model,
            stream=request.stream,
            reask=reask,
            parse_us=_microseconds(parsed - started),
            prompt=self._recorded(request.user_text),
            conversation_id=conversation_id(request, state.head, self._terms.conversation_header),
        )
        read_all = partial(apis.everything, state.api, event.data)
        question = Question(request, state.head, self._known.conversation_id, read_all)
        return AwaitingDecision(question, event.data, parsed), AskDecision(question)

    def _on_decided(self, state: AwaitingDecision, event: Decided) -> tuple[State, Effect]:
        decision = event.decision
        self._checked = True  # by deny rules, before anything was decided
        if decision.mode is Mode.OBSERVE:
            return Done(), self._proceed(as_observed(with_decision(self._known, decision), self._served()))
        body = apis.with_policy(state.body, state.question.request, decision.policy)
        try:
            body = without_findings(state.question.request.api, body, decision)
        except NotCleared as error:
            return Done(), self._refuse(state.question.request.api, error)
        changed = body if body is not state.body else None
        envelope = with_decision(self._known, decision)
        if not decision.fallback:
            return Done(), RouteRequest(decision.cluster, changed, envelope)
        span = apis.model_span(body)
        return Done(), RouteRequest(decision.cluster, changed, envelope, span, decision.clearance)

    def _on_refused(self, state: AwaitingDecision, event: Refused) -> tuple[State, Effect]:
        # Most refusals come from rules and pins, before anything waits.
        took = _microseconds(self._clock() - state.asked_at)
        self._known = replace(self._known, rules_us=took, total_us=took)
        if isinstance(event.error, Unsafe) and event.error.as_answer and self._known.mode != Mode.OBSERVE:
            return Done(), self._answer_as_refusal(state, event.error)
        return Done(), self._refuse(state.question.request.api, event.error)

    def _answer_as_refusal(self, state: AwaitingDecision, error: Unsafe) -> Refuse:
        request = state.question.request
        answer = RefusalAnswer(
            api=request.api,
            model=request.model,
            name=state.question.request_id or "router",
            created=round(self._now()),
            text=error.message,
            with_usage=apis.asks_for_usage(state.body, request),
        )
        body, kind = (answer.stream(), EVENTS) if request.stream else (answer.document(), JSON)
        return Refuse(200, body, replace(with_refusal(self._known, error), error=error.label), kind)

    def _on_undecided(self, _: AwaitingDecision, event: Undecided) -> tuple[State, Effect]:
        return Done(), self._let_go(event.reason)

    def _recorded(self, text: str) -> str:
        """The beginning of the prompt, as far as the operator opted in, without what may not be recorded."""
        shown = text[: self._prompt_chars]
        if not shown or not self._terms.unrecorded:
            return shown
        # A value may go on behind the beginning, so the whole text is redacted.
        return Redactor(self._terms.unrecorded).redacted(text)[: self._prompt_chars]

    def _let_go(self, reason: Reason) -> Proceed:
        known = replace(self._known, stage=Stage.DEFAULT, reason=reason)
        return self._proceed(as_observed(known, self._served()) if known.mode == Mode.OBSERVE else known)

    def _proceed(self, envelope: Envelope) -> Proceed:
        return Proceed(envelope, self._checked)

    def _served(self) -> Served:
        """Who answers when Envoy alone decides, as far as that is known."""
        api = self._known.api
        return self._terms.defaults.get(Api(api), _NOBODY) if api else _NOBODY

    def _refuse(self, api: Api, error: ClientError) -> Refuse | Proceed:
        known = with_refusal(self._known, error)
        if known.mode == Mode.OBSERVE:
            return self._proceed(as_observed(known, self._served()))
        body = apis.error_body(
            api, status=error.status, message=error.message, code=error.code, param=error.param
        )
        return Refuse(error.status, body, replace(known, error=error.label))


# A pair that is not here is a protocol error.
_STEPS: dict[tuple[type, type], Callable[[DecideExchange, Any, Any], tuple[State, Effect]]] = {
    (AwaitingHead, HeadReceived): DecideExchange._on_head,
    (AwaitingRoom, Admitted): DecideExchange._on_admitted,
    (AwaitingRoom, NoRoom): DecideExchange._on_overloaded,
    (AwaitingBody, BodyReceived): DecideExchange._on_body,
    (AwaitingDecision, Decided): DecideExchange._on_decided,
    (AwaitingDecision, Refused): DecideExchange._on_refused,
    (AwaitingDecision, Undecided): DecideExchange._on_undecided,
}


def _declared_size(head: RequestHead) -> int | None:
    declared = head.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else None


def _require_uncompressed(head: RequestHead) -> None:
    encoding = head.headers.get("content-encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise BadRequest("The request body is compressed; it must be sent without content-encoding.")


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
