"""The feedback exchange as a state machine without I/O: whatever comes is answered here.

One instance lives as long as one ext_proc stream on the route for feedback:

AwaitingHead ──Head with the token──> AwaitingBody ──Body──> Done   Answer 202, 400, 413 or 503
    └──Head without it──────────────────────────────────────> Done   Answer 401, 404 or 503

Nothing is forwarded: the route leads nowhere, and Envoy answers 503 for a sidecar that does not.
"""

from typing import Protocol

import msgspec

from extproc import apis
from extproc.errors import ClientError, ProtocolError, Unauthorized
from extproc.vocabulary import Api
from extproc.wire.decide_exchange import BodyReceived, HeadReceived, Proceed

ROLE = "feedback"  # of the streams whose exchanges are these

_ACCEPTED = 202  # it is kept, and joined with its answer when somebody reads the records


class Desk(Protocol):
    """Who takes feedback."""

    def admit(self, authorization: str) -> None:
        """Returns when the header ``authorization`` is good; raises ``errors.ClientError`` else."""
        ...

    def take(self, body: bytes) -> str:
        """The id of the opinion in ``body``, which is kept; raises ``errors.ClientError``."""
        ...


class FeedbackResponse(msgspec.Struct, frozen=True):
    """Answer the client with ``status`` and a JSON body; nothing is forwarded."""

    status: int
    body: bytes
    details: str  # what Envoy's access logs call it
    headers: tuple[tuple[str, str], ...] = ()  # beside its content type


class FeedbackExchange:
    """One request's way to the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._admitted = False
        self._done = False

    @property
    def done(self) -> bool:
        """Whether the last reply ended the exchange."""
        return self._done

    def receive(self, event: HeadReceived | BodyReceived) -> Proceed | FeedbackResponse:
        """What to do about ``event``.

        Raises:
            ProtocolError: the event does not fit what came before.
        """
        if isinstance(event, HeadReceived) is self._admitted:
            raise ProtocolError(f"{type(event).__name__} came on a stream of feedback out of turn")
        try:
            return self._on_head(event) if isinstance(event, HeadReceived) else self._on_body(event.data)
        except ClientError as error:
            self._done = True
            return _refusal(error)

    def _on_head(self, event: HeadReceived) -> Proceed | FeedbackResponse:
        self._desk.admit(event.head.headers.get("authorization", ""))
        if not event.head.has_body:
            return self._on_body(b"")
        self._admitted = True
        return Proceed()

    def _on_body(self, body: bytes) -> FeedbackResponse:
        answered = msgspec.json.encode({"id": self._desk.take(body), "accepted": True})
        self._done = True
        return FeedbackResponse(_ACCEPTED, answered, "router_feedback_accepted")


def _refusal(error: ClientError) -> FeedbackResponse:
    body = apis.error_body(
        Api.OPENAI_CHAT, status=error.status, message=error.message, code=error.code, param=error.param
    )
    # As RFC 9110 wants of every 401, section 15.5.2.
    challenge = (("www-authenticate", "Bearer"),) if isinstance(error, Unauthorized) else ()
    return FeedbackResponse(error.status, body, f"router_feedback_{error.label}", challenge)
