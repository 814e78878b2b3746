"""The gate of one answer as a state machine without I/O: events in, effects out.

One instance lives as long as one ext_proc stream of a hop, which is one call to a model:

AwaitingRequest ──Head──> AwaitingRequestBody ──Body──> AwaitingAnswer      PassRequest
    └──Head without a body────────────────────────────> AwaitingAnswer      PassRequest
AwaitingAnswer ──AnswerHead of a judged answer──> Holding                   Wait: Envoy holds the answer
    └──AnswerHead of any other──────────────────> Closed                    ReleaseAnswer
Holding ──AnswerPart──> Holding                                             Wait
    ├──AnswerPart, another model is needed──────> AwaitingConsultation      Consult
    ├──AnswerPart, accepted or too long to hold─> Closed                    ReleaseAnswer
    ├──AnswerPart, refused──────────────────────> Closed                    Reject
    └──TimeUp───────────────────────────────────> Closed                    Reject
AwaitingConsultation ──ConsultationEnded────────> Closed                    ReleaseAnswer or Reject

A release replies to the answer's head alone and ends the stream. Envoy keeps what it sent until that reply
and then sends it to the client. So a release copies no body, and what comes after it never passes through the
sidecar. When the stream ends without a reply, Envoy also sends the answer on: a sidecar that dies while it
holds an answer loses nothing.

A rejection cuts the provider off, and Envoy asks the next tier.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from extproc.errors import ProtocolError
from extproc.exchanges import Ruling
from extproc.gate.answer_watch import AnswerWatch
from extproc.gate.consultation import Consultation, ConsultationResult
from extproc.vocabulary import RequestHead
from extproc.wire.decide_exchange import BodyReceived, HeadReceived

# Bytes of an answer that are held to be judged. A longer one is released unjudged.
HELD_LIMIT = 8 * 1024 * 1024


class Watched(msgspec.Struct, frozen=True):
    """The judge of one answer, and its deadline."""

    watch: AnswerWatch
    seconds: float | None = None  # from the request until the ruling; None: no bound


# --- States: what the exchange waits for, with what is known by then ----------------------------


class AwaitingRequest(msgspec.Struct, frozen=True):
    """Nothing is known."""


class AwaitingRequestBody(msgspec.Struct, frozen=True):
    """The request's head came."""

    head: RequestHead


class AwaitingAnswer(msgspec.Struct, frozen=True):
    """The request went to the model. ``watched`` is None when the tier has no gate."""

    watched: Watched | None


class Holding(msgspec.Struct, frozen=True):
    """Envoy holds the answer until the ruling."""

    watched: Watched
    size: int = 0  # bytes of the body so far


class AwaitingConsultation(msgspec.Struct, frozen=True):
    """Envoy holds the answer while another model is asked about it."""

    watched: Watched


class Closed(msgspec.Struct, frozen=True):
    """The last effect ended the exchange."""


State = AwaitingRequest | AwaitingRequestBody | AwaitingAnswer | Holding | AwaitingConsultation | Closed


# --- Events, beside those of the request in ``decide_exchange`` ----------------------------------


class AnswerHead(msgspec.Struct, frozen=True):
    """The answer's head came. ``ended``: it has no body."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    ended: bool = False


class AnswerPart(msgspec.Struct, frozen=True):
    """A part of the answer's body came. ``ended``: it is the last one. Trailers end the body too."""

    data: bytes
    ended: bool = False


class ConsultationEnded(msgspec.Struct, frozen=True):
    """The other model answered, or failed to."""

    result: ConsultationResult


class TimeUp(msgspec.Struct, frozen=True):
    """The deadline passed."""


Event = HeadReceived | BodyReceived | AnswerHead | AnswerPart | ConsultationEnded | TimeUp


# --- Effects -------------------------------------------------------------------------------------


class PassRequest(msgspec.Struct, frozen=True):
    """Let the request go on as it is."""


class Wait(msgspec.Struct, frozen=True):
    """Reply nothing yet."""


class Consult(msgspec.Struct, frozen=True):
    """Ask another model, and come back with ``ConsultationEnded``. Envoy holds the answer meanwhile."""

    consultation: Consultation


class ReleaseAnswer(msgspec.Struct, frozen=True):
    """Let the answer go on, and end the stream."""

    ruling: Ruling | None  # None: it was not judged


class Reject(msgspec.Struct, frozen=True):
    """Cut the provider off. Envoy asks the next tier."""

    ruling: Ruling


Effect = PassRequest | Wait | Consult | ReleaseAnswer | Reject


# --- The machine ---------------------------------------------------------------------------------


class Gatekeeper(Protocol):
    """Knows the gate of each tier."""

    def watch(self, tier: str, head: RequestHead, body: bytes) -> Watched | None:
        """The judge of the answer that ``tier`` (CASCADE/TIER) is about to get; None: it has no gate."""
        ...


class GateExchange:
    """One answer's way through its gate."""

    def __init__(self, tier: str, keeper: Gatekeeper, held_limit: int = HELD_LIMIT) -> None:
        """``tier`` is the name by which the hop calls itself: CASCADE/TIER. ``held_limit`` is in bytes."""
        self._tier = tier
        self._keeper = keeper
        self._held_limit = held_limit
        self._state: State = AwaitingRequest()

    @property
    def done(self) -> bool:
        """Whether the last effect ended the exchange."""
        return isinstance(self._state, Closed)

    @property
    def holding(self) -> bool:
        """Whether Envoy holds an answer and waits for its ruling."""
        return isinstance(self._state, Holding | AwaitingConsultation)

    @property
    def seconds(self) -> float | None:
        """The deadline of the ruling, in seconds after the request. None: there is none, or none yet.

        Before the answer begins, Envoy keeps the time.
        """
        state = self._state
        return state.watched.seconds if isinstance(state, Holding | AwaitingConsultation) else None

    def receive(self, event: Event) -> Effect:
        """What to do about ``event``.

        Raises:
            ProtocolError: the event does not fit the state, which stays as it was.
        """
        step = _STEPS.get((type(self._state), type(event)))
        if step is None:
            raise ProtocolError(
                f"{type(event).__name__} came in state {type(self._state).__name__} of a gate"
            )
        self._state, effect = step(self, self._state, event)
        return effect

    def give_up(self, event: Event) -> Effect:
        """End the exchange after a defect of ours at ``event``. The answer goes on unjudged."""
        self._state = Closed()
        return PassRequest() if isinstance(event, HeadReceived | BodyReceived) else ReleaseAnswer(None)

    def _on_request_head(self, _: AwaitingRequest, event: HeadReceived) -> tuple[State, Effect]:
        if event.head.has_body:
            return AwaitingRequestBody(event.head), PassRequest()
        return self._on_request_body(AwaitingRequestBody(event.head), BodyReceived(b""))

    def _on_request_body(self, state: AwaitingRequestBody, event: BodyReceived) -> tuple[State, Effect]:
        return AwaitingAnswer(self._keeper.watch(self._tier, state.head, event.data)), PassRequest()

    def _on_early_answer(self, _: AwaitingRequestBody, event: AnswerHead) -> tuple[State, Effect]:
        """The provider answers before it has the request's body."""
        return Closed(), ReleaseAnswer(None)

    def _on_answer_head(self, state: AwaitingAnswer, event: AnswerHead) -> tuple[State, Effect]:
        watched = state.watched
        if watched is None or not _is_readable(event):
            return Closed(), ReleaseAnswer(None)
        if not watched.watch.on_head(event.status, event.headers.get("content-type", "")):
            return Closed(), ReleaseAnswer(None)
        if event.ended:
            return self._on_answer_part(Holding(watched), AnswerPart(b"", ended=True))
        return Holding(watched), Wait()

    def _on_answer_part(self, state: Holding, event: AnswerPart) -> tuple[State, Effect]:
        size = state.size + len(event.data)
        found = state.watched.watch.on_body(event.data, event.ended)
        if isinstance(found, Consultation):
            return AwaitingConsultation(state.watched), Consult(found)
        if found is not None:
            return Closed(), _carried_out(found)
        if event.ended or size > self._held_limit:
            return Closed(), ReleaseAnswer(None)
        return Holding(state.watched, size), Wait()

    def _on_consultation_ended(
        self, state: AwaitingConsultation, event: ConsultationEnded
    ) -> tuple[State, Effect]:
        return Closed(), _carried_out(state.watched.watch.on_second_answer(event.result))

    def _on_time_up(self, state: Holding, _: TimeUp) -> tuple[State, Effect]:
        return Closed(), Reject(state.watched.watch.on_timeout())


# A pair that is not here is a protocol error.
_STEPS: dict[tuple[type, type], Callable[[GateExchange, Any, Any], tuple[State, Effect]]] = {
    (AwaitingRequest, HeadReceived): GateExchange._on_request_head,
    (AwaitingRequestBody, BodyReceived): GateExchange._on_request_body,
    (AwaitingRequestBody, AnswerHead): GateExchange._on_early_answer,
    (AwaitingAnswer, AnswerHead): GateExchange._on_answer_head,
    (Holding, AnswerPart): GateExchange._on_answer_part,
    (Holding, TimeUp): GateExchange._on_time_up,
    (AwaitingConsultation, ConsultationEnded): GateExchange._on_consultation_ended,
}


def _carried_out(ruling: Ruling) -> Effect:
    return Reject(ruling) if ruling.escalate else ReleaseAnswer(ruling)


def _is_readable(answer: AnswerHead) -> bool:
    """Whether it is a success and not compressed. Envoy itself retries other statuses."""
    coding = answer.headers.get("content-encoding", "")
    return 200 <= answer.status < 300 and coding.lower() in ("", "identity")
