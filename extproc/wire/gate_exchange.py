"""The gate of one answer as a state machine without I/O: events in, effects out.

One instance lives as long as one ext_proc stream of a hop, which is one model asked:

Asked ──Head, Body──> Asked                     Proceed
  └──AnswerHead that is not judged──> Done      Release
  └──AnswerHead that is──> Holding              Wait: Envoy holds the head until it is replied to
Holding ──AnswerPart──> Holding                 Wait
  ├──accepted, or too long to hold──> Done      Release: the head, and behind it all that came since
  ├──refused──> Done                            Reject: the provider is cut off, the next tier asked
  └──TimeUp──> Done                             Reject

Where the judge wants another model's opinion first:

Holding ──AnswerPart──> Holding                 Consult
  └──Advised──> Done                            Release or Reject

Released is an answer by a reply to its head alone, and the end of the stream: Envoy keeps what it
sent until that is replied to, and lets it go on when nobody will. So a release costs no copy of the
body, what comes after it never passes through the sidecar, and a sidecar that dies while it holds an
answer loses nothing: it goes on unjudged, as does whatever cannot be judged.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from extproc.errors import ProtocolError
from extproc.gate.second_answer import Advice, Consultation
from extproc.vocabulary import RequestHead, Ruling
from extproc.wire.decide_exchange import BodyReceived, HeadReceived

# Bytes of an answer that are held to be judged; a longer one is let go as it is.
HELD_LIMIT = 8 * 1024 * 1024


class AnswerWatch(Protocol):
    """The judge of one answer, as it comes."""

    def on_head(self, status: int, content_type: str) -> bool:
        """Whether this answer is judged; False lets it pass."""
        ...

    def on_body(self, data: bytes, ended: bool) -> Ruling | Consultation | None:
        """Reads the next bytes of the body. None: the gate needs more of it."""
        ...

    def on_second_answer(self, advice: Advice) -> Ruling:
        """The ruling, now that the other model has answered or failed."""
        ...

    def on_timeout(self) -> Ruling:
        """The ruling when the time ends before the answer does."""
        ...


class Gatekeeper(Protocol):
    """Knows what each tier asks of its answers."""

    def watch(self, tier: str, head: RequestHead, body: bytes) -> "Watched | None":
        """The judge of the answer that ``tier`` (CASCADE/TIER) is about to get; None: none is there."""
        ...


class Watched(msgspec.Struct, frozen=True):
    """A judge, and how long it may take: until when it must have ruled, by the clock of who drives."""

    watch: AnswerWatch
    seconds: float | None = None  # from the request on; None: as long as the answer takes


# --- Events, beside Head and Body of the exchange ------------------------------------------------


class AnswerHead(msgspec.Struct, frozen=True):
    """The answer's head came. ``ended``: it has no body."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    ended: bool = False


class AnswerPart(msgspec.Struct, frozen=True):
    """A part of its body came; ``ended``: there is no more, as trailers say too."""

    data: bytes
    ended: bool = False


class Advised(msgspec.Struct, frozen=True):
    """What came of a consultation."""

    advice: Advice


class TimeUp(msgspec.Struct, frozen=True):
    """It took longer than it may."""


Event = HeadReceived | BodyReceived | AnswerHead | AnswerPart | Advised | TimeUp


# --- Effects -------------------------------------------------------------------------------------


class PassRequest(msgspec.Struct, frozen=True):
    """Let the request go on as it is."""


class Wait(msgspec.Struct, frozen=True):
    """Answer nothing yet."""


class Consult(msgspec.Struct, frozen=True):
    """Ask another model, and tell what it said; the answer is held meanwhile."""

    consultation: Consultation


class ReleaseAnswer(msgspec.Struct, frozen=True):
    """Let the answer go on, and end the stream."""

    ruling: Ruling | None  # None: it was not judged


class Reject(msgspec.Struct, frozen=True):
    """Cut the provider off and ask the next one."""

    ruling: Ruling


Effect = PassRequest | Wait | Consult | ReleaseAnswer | Reject


class GateExchange:
    """One answer's way through its gate."""

    def __init__(self, tier: str, keeper: Gatekeeper, held_limit: int = HELD_LIMIT) -> None:
        """``tier`` is what the hop calls itself: CASCADE/TIER."""
        self._tier = tier
        self._keeper = keeper
        self._held_limit = held_limit
        self._head: RequestHead | None = None
        self._watched: Watched | None = None
        self._holding = False
        self._held = 0
        self.done = False

    @property
    def seconds(self) -> float | None:
        """How long after the request there must be a ruling; None: nobody waits for one, or not now.

        Before there is an answer Envoy keeps the time.
        """
        return self._watched.seconds if self._watched and self._holding else None

    @property
    def holding(self) -> bool:
        """Whether Envoy holds an answer back, and waits for a word on it."""
        return self._holding and not self.done

    def receive(self, event: Event) -> Effect:
        """What to do about ``event``.

        Raises:
            ProtocolError: the event does not fit what came before.
        """
        match event:
            case HeadReceived() if self._head is None:
                self._head = event.head
                return PassRequest() if event.head.has_body else self._on_request(event.head, b"")
            case BodyReceived() if self._head is not None and not self._holding:
                return self._on_request(self._head, event.data)
            case AnswerHead() if self._head is not None and not self._holding:
                return self._on_answer(event)
            case AnswerPart() if self._holding and self._watched is not None:
                return self._on_part(self._watched.watch, event)
            case Advised() if self._holding and self._watched is not None:
                return self._rule(self._watched.watch.on_second_answer(event.advice))
            case TimeUp() if self._holding and self._watched is not None:
                return self._end(Reject(self._watched.watch.on_timeout()))
        raise ProtocolError(f"{type(event).__name__} came to a gate that does not expect it")

    def give_up(self, event: Event) -> Effect:
        """After a defect of ours while ``event`` was received: all goes on, whatever it is worth."""
        if isinstance(event, HeadReceived | BodyReceived):
            return PassRequest()
        return self._end(ReleaseAnswer(None))

    def _on_request(self, head: RequestHead, body: bytes) -> Effect:
        self._watched = self._keeper.watch(self._tier, head, body)
        return PassRequest()

    def _on_answer(self, event: AnswerHead) -> Effect:
        if self._watched is None or not _readable(event):
            return self._end(ReleaseAnswer(None))
        watch = self._watched.watch
        self._holding = watch.on_head(event.status, event.headers.get("content-type", ""))
        if not self._holding:
            return self._end(ReleaseAnswer(None))
        return self._on_part(watch, AnswerPart(b"", ended=True)) if event.ended else Wait()

    def _on_part(self, watch: AnswerWatch, event: AnswerPart) -> Effect:
        self._held += len(event.data)
        found = watch.on_body(event.data, event.ended)
        if isinstance(found, Consultation):
            return Consult(found)
        if found is not None:
            return self._rule(found)
        if event.ended or self._held > self._held_limit:
            return self._end(ReleaseAnswer(None))
        return Wait()

    def _rule(self, ruling: Ruling) -> Effect:
        return self._end(Reject(ruling) if ruling.escalate else ReleaseAnswer(ruling))

    def _end(self, effect: Effect) -> Effect:
        self.done = True
        return effect


def _readable(answer: AnswerHead) -> bool:
    """An answer at all, which is not sent on for its status; and not compressed, as we ask of providers."""
    coding = answer.headers.get("content-encoding", "")
    return 200 <= answer.status < 300 and coding.lower() in ("", "identity")
