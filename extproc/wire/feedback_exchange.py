"""The feedback exchange as a state machine without I/O: it answers every request itself.

One instance lives as long as one ext_proc stream on the route for feedback:

AwaitingHead ──Head with the token──> AwaitingBody ──Body──> Done   Answer 202, 400, 413 or 503
    └──Head without it──────────────────────────────────────> Done   Answer 401, 404 or 503

Nothing is forwarded: the route has no upstream. Without a sidecar Envoy answers 503.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

import msgspec

from extproc import apis
from extproc.errors import ClientError, ProtocolError, Unauthorized
from extproc.vocabulary import Api
from extproc.wire.decide_exchange import BodyReceived, HeadReceived, Proceed

ROLE = "feedback"  # of the streams whose exchanges are these

_ACCEPTED = 202  # stored; joined with its answer when the records are read


class FeedbackHandler(Protocol):
    """Checks and stores feedback."""

    def admit(self, authorization: str) -> None:
        """Accept the header ``authorization``, or raise ``errors.ClientError``."""
        ...

    def take(self, body: bytes) -> str:
        """Store the feedback in ``body`` and return its id, or raise ``errors.ClientError``."""
        ...


class FeedbackResponse(msgspec.Struct, frozen=True):
    """Answer the client with ``status`` and a JSON body; nothing is forwarded."""

    status: int
    body: bytes
    details: str  # what Envoy's access logs call it
    headers: tuple[tuple[str, str], ...] = ()  # beside its content type


class FeedbackState(Enum):
    """What the exchange waits for."""

    AWAITING_HEAD = auto()
    AWAITING_BODY = auto()  # the head has the token
    DONE = auto()  # the last reply ended the exchange


_Reply = tuple[FeedbackState, Proceed | FeedbackResponse]


class FeedbackExchange:
    """One request with feedback."""

    def __init__(self, handler: FeedbackHandler) -> None:
        self._handler = handler
        self._state = FeedbackState.AWAITING_HEAD

    @property
    def done(self) -> bool:
        """Whether the last reply ended the exchange."""
        return self._state is FeedbackState.DONE

    def receive(self, event: HeadReceived | BodyReceived) -> Proceed | FeedbackResponse:
        """What to do about ``event``.

        Raises:
            ProtocolError: the event does not fit the state, which stays as it was.
        """
        step = _STEPS.get((self._state, type(event)))
        if step is None:
            raise ProtocolError(f"{type(event).__name__} came out of order on a feedback stream")
        try:
            self._state, reply = step(self, event)
        except ClientError as error:
            self._state, reply = FeedbackState.DONE, _refusal(error)
        return reply

    def _on_head(self, event: HeadReceived) -> _Reply:
        self._handler.admit(event.head.headers.get("authorization", ""))
        return (
            (FeedbackState.AWAITING_BODY, Proceed())
            if event.head.has_body
            else self._on_body(BodyReceived(b""))
        )

    def _on_body(self, event: BodyReceived) -> _Reply:
        answered = msgspec.json.encode({"id": self._handler.take(event.data), "accepted": True})
        return FeedbackState.DONE, FeedbackResponse(_ACCEPTED, answered, "router_feedback_accepted")


# A pair that is not here is a protocol error.
_STEPS: dict[tuple[FeedbackState, type], Callable[[FeedbackExchange, Any], _Reply]] = {
    (FeedbackState.AWAITING_HEAD, HeadReceived): FeedbackExchange._on_head,
    (FeedbackState.AWAITING_BODY, BodyReceived): FeedbackExchange._on_body,
}


def _refusal(error: ClientError) -> FeedbackResponse:
    body = apis.error_body(
        Api.OPENAI_CHAT, status=error.status, message=error.message, code=error.code, param=error.param
    )
    # RFC 9110, section 15.5.2, requires it on every 401.
    challenge = (("www-authenticate", "Bearer"),) if isinstance(error, Unauthorized) else ()
    return FeedbackResponse(error.status, body, f"router_feedback_{error.label}", challenge)
