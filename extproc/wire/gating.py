"""The gate of one answer as a state machine without I/O: events in, effects out.

One instance lives as long as one ext_proc stream of a hop, which is one model asked:

AwaitingRequest ──Head, Body──> AwaitingRequest   Proceed
    └──AnswerHead that is not judged──> Passing   LetPass
    └──AnswerHead that is──> Holding              (nothing: Envoy waits for the head's reply)
Holding ──AnswerPart, AnswerTrailers──> Holding   (nothing)
    ├──────accepted──> Passing                    Release: the head and all that was held
    ├──────not──────> Done                        Reject: the provider is cut off, the next tier asked
    └──TimeUp───────> Done                        Reject
Passing ──AnswerPart, AnswerTrailers──> Passing   Relay

Whatever cannot be judged passes: a gate that fails must not cost the client an answer.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from extproc.errors import ProtocolError
from extproc.vocabulary import RequestHead, Ruling
from extproc.wire.exchange import Body, Head
from extproc.wire.gates import ESCALATE_HEADER

# Of an answer that is judged as a whole: more than this is let go as it is.
HELD_LIMIT = 8 * 1024 * 1024


class Watch(Protocol):
    """The judge of one answer, as it comes."""

    def begins(self, status: int, content_type: str) -> bool:
        """Whether the answer is to be judged at all; False lets it pass."""
        ...

    def sees(self, data: bytes, ended: bool) -> Ruling | None:
        """The next bytes of its body; None asks for more, but not when it has ended."""
        ...

    def late(self) -> Ruling:
        """Its time is up before there was a ruling."""
        ...


class Gatekeeper(Protocol):
    """Knows what each tier asks of its answers."""

    def watch(self, tier: str, head: RequestHead, body: bytes) -> "Watched | None":
        """The judge of the answer that ``tier`` (CASCADE/TIER) is about to get; None: none is there."""
        ...


class Watched(msgspec.Struct, frozen=True):
    """A judge, and how long it may take: until when it must have ruled, by the clock of who drives."""

    watch: Watch
    seconds: float | None = None  # from the request on; None: as long as the answer takes


# --- Events, beside Head and Body of the exchange ------------------------------------------------


class AnswerHead(msgspec.Struct, frozen=True):
    """The answer's head came. ``ended``: it has no body."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    ended: bool = False


class AnswerPart(msgspec.Struct, frozen=True):
    """A part of its body came; ``ended``: the last one, and no trailers follow."""

    data: bytes
    ended: bool = False


class AnswerTrailers(msgspec.Struct, frozen=True):
    """Trailers ended it."""


class TimeUp(msgspec.Struct, frozen=True):
    """It took longer than it may."""


Event = Head | Body | AnswerHead | AnswerPart | AnswerTrailers | TimeUp


# --- Effects -------------------------------------------------------------------------------------


class Proceed(msgspec.Struct, frozen=True):
    """Let the request go on as it is."""


class Wait(msgspec.Struct, frozen=True):
    """Answer nothing yet."""


class LetPass(msgspec.Struct, frozen=True):
    """Let the head go on."""


class Relay(msgspec.Struct, frozen=True):
    """Let what just came go on."""


class Release(msgspec.Struct, frozen=True):
    """Let the head go on and all of the body that was held."""

    body: bytes
    ended: bool
    trailers: bool  # that ended it
    ruling: Ruling | None


class Reject(msgspec.Struct, frozen=True):
    """Cut the provider off and ask the next one."""

    ruling: Ruling


Effect = Proceed | Wait | LetPass | Relay | Release | Reject


class GateExchange:
    """One answer's way through its gate."""

    def __init__(self, tier: str, keeper: Gatekeeper, held_limit: int = HELD_LIMIT) -> None:
        """``tier`` is what the hop calls itself: CASCADE/TIER."""
        self._tier = tier
        self._keeper = keeper
        self._held_limit = held_limit
        self._head: RequestHead | None = None
        self._watched: Watched | None = None
        self._answered = False
        self._holding = False
        self._held = bytearray()
        self.done = False

    @property
    def seconds(self) -> float | None:
        """How long after the request there must be a ruling; None: nobody waits for one."""
        return self._watched.seconds if self._watched and not self._over else None

    @property
    def _over(self) -> bool:
        return self._answered and not self._holding

    def receive(self, event: Event) -> Effect:
        """What to do about ``event``.

        Raises:
            ProtocolError: the event does not fit what came before.
        """
        match event:
            case Head() if self._head is None:
                return self._on_request(event)
            case Body() if self._head is not None and not self._answered:
                self._watched = self._keeper.watch(self._tier, self._head, event.data)
                return Proceed()
            case AnswerHead() if not self._answered:
                return self._on_answer(event)
            case AnswerPart() if self._answered:
                return self._on_part(event.data, ended=event.ended)
            case AnswerTrailers() if self._answered:
                return self._on_end()
            case TimeUp() if self._watched is not None and not self._over:
                return self._on_late(self._watched.watch)
        raise ProtocolError(f"{type(event).__name__} came to a gate that does not expect it")

    def give_up(self, event: Event) -> Effect:
        """After a defect of ours while ``event`` was received: all goes on, whatever it is worth."""
        self._watched = None
        if isinstance(event, AnswerHead):
            self.done = event.ended
            return LetPass()
        if not self._holding:
            return Relay() if self._answered else Proceed()
        # What came last is held already.
        ended = isinstance(event, AnswerPart) and event.ended
        return self._release(None, ended=ended, trailers=isinstance(event, AnswerTrailers))

    def _on_request(self, event: Head) -> Effect:
        self._head = event.head
        if not event.head.has_body:
            self._watched = self._keeper.watch(self._tier, event.head, b"")
        return Proceed()

    def _on_answer(self, event: AnswerHead) -> Effect:
        self._answered = True
        if event.ended:
            self.done = True
            return LetPass()
        if self._watched is None or ESCALATE_HEADER in event.headers:
            return LetPass()
        self._holding = _readable(event) and self._watched.watch.begins(
            event.status, event.headers.get("content-type", "")
        )
        return Wait() if self._holding else LetPass()

    def _on_part(self, data: bytes, *, ended: bool) -> Effect:
        if not self._holding:
            self.done = ended
            return Relay()
        self._held += data
        ruling = self._rule(data, ended=ended)
        if ruling is not None and ruling.escalate:
            return self._reject(ruling)
        if ruling is None and not ended and len(self._held) <= self._held_limit:
            return Wait()
        return self._release(ruling, ended=ended)

    def _on_end(self) -> Effect:
        self.done = True
        if not self._holding:
            return Relay()
        ruling = self._rule(b"", ended=True)
        if ruling is not None and ruling.escalate:
            return self._reject(ruling)
        return self._release(ruling, ended=False, trailers=True)

    def _rule(self, data: bytes, *, ended: bool) -> Ruling | None:
        return self._watched.watch.sees(data, ended) if self._watched else None

    def _on_late(self, watch: Watch) -> Effect:
        return self._reject(watch.late())

    def _reject(self, ruling: Ruling) -> Effect:
        self.done, self._holding, self._answered = True, False, True
        return Reject(ruling)

    def _release(self, ruling: Ruling | None, *, ended: bool, trailers: bool = False) -> Effect:
        self._holding = False
        self.done = self.done or ended
        return Release(bytes(self._held), ended, trailers, ruling)


def _readable(answer: AnswerHead) -> bool:
    """Providers are asked not to compress; what one compresses all the same passes."""
    coding = answer.headers.get("content-encoding", "")
    return 200 <= answer.status < 300 and coding.lower() in ("", "identity")
