"""Drives the exchanges in which requests are decided: Envoy's messages in, replies out."""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import grpc

from extproc.errors import ClientError, DecisionError, ProtocolError
from extproc.offloading import Offload
from extproc.registry.releases import Releases
from extproc.routing.pipeline import MoreTime
from extproc.vocabulary import Decision, Question
from extproc.wire import decide_messages
from extproc.wire.body_admission import Admission, Reservation
from extproc.wire.decide_exchange import (
    Admitted,
    AskDecision,
    Decided,
    DecideExchange,
    Effect,
    Event,
    NoRoom,
    Refused,
    Reply,
    Reserve,
    Undecided,
)
from extproc.wire.decide_messages import StreamMetadata

log = logging.getLogger(__name__)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF


class Decider(Protocol):
    """Decides requests: the pipeline."""

    async def decide(self, question: Question, more_time: MoreTime | None = None) -> Decision:
        """The decision. ``more_time`` asks Envoy to wait longer for it.

        Raises ``errors.ClientError`` to refuse, ``errors.DecisionError`` to leave it to Envoy.
        """
        ...


class DecideConversation:
    """Decides each request: one stream, one ``DecideExchange``.

    After a defect of the sidecar, the reply lets Envoy go on with its default.
    """

    def __init__(
        self,
        decider: Decider,
        releases: Releases,
        admission: Admission,
        count_failure: Callable[[str], None],
        *,
        offload: Offload | None = None,
        prompt_chars: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``admission`` bounds the bytes of bodies in flight. ``offload`` does the work on large bodies.

        ``count_failure`` is called with ``decide`` for each defect, which is logged too. The first
        ``prompt_chars`` characters of each prompt are recorded. ``clock`` counts seconds from anywhere.
        """
        self._decider = decider
        self._releases = releases
        self._admission = admission
        self._count_failure = count_failure
        self._offload = offload or Offload()
        self._prompt_chars = prompt_chars
        self._clock = clock

    async def converse(self, context: _Context, stream: StreamMetadata) -> None:
        """Reply to Envoy until the request is decided. Raises ``ProtocolError`` for a wrong message."""
        version = stream.config_version or self._releases.newest.version
        terms = self._releases.terms(version)
        exchange = DecideExchange(version, self._clock, prompt_chars=self._prompt_chars, terms=terms)

        async def more_time(seconds: float) -> None:
            await context.write(decide_messages.more_time(seconds))

        with Reservation(self._admission) as reservation:
            # Reading and writing by hand costs a tenth less than an async generator. The stream ends
            # with the last reply, so that Envoy need not end it.
            while not exchange.done:
                data = await context.read()
                if data is grpc.aio.EOF:
                    return
                await context.write(await self._answer(exchange, data, stream, reservation, more_time))

    async def _answer(
        self,
        exchange: DecideExchange,
        data: bytes,
        stream: StreamMetadata,
        reservation: Reservation,
        more_time: MoreTime,
    ) -> bytes:
        size = len(data)
        event = await self._offload.run(size, decide_messages.decode, data, stream)
        try:
            reply = await self._settle(exchange, event, size, reservation, more_time)
            return await self._offload.run(size, decide_messages.encode, event, reply)
        except ProtocolError:
            raise
        except Exception:
            log.exception("a request could not be decided; it goes to Envoy's default")
            self._count_failure("decide")
            return decide_messages.encode(event, exchange.give_up())

    async def _settle(
        self,
        exchange: DecideExchange,
        event: Event,
        size: int,
        reservation: Reservation,
        more_time: MoreTime,
    ) -> Reply:
        """The reply to ``event``, whose message has ``size`` bytes."""
        while True:
            effect: Effect = await self._offload.run(size, exchange.receive, event)
            match effect:
                case Reserve():
                    event = Admitted() if await reservation.take(effect.size) else NoRoom()
                case AskDecision():
                    event = await self._ask(effect.question, more_time)
                case _:
                    return effect

    async def _ask(self, question: Question, more_time: MoreTime) -> Decided | Refused | Undecided:
        try:
            return Decided(await self._decider.decide(question, more_time))
        except ClientError as error:
            return Refused(error)
        except DecisionError as error:
            return Undecided(error.reason)
