"""Serving gates: finds the gate of a tier, and drives its exchange with Envoy's messages and a clock.

While Envoy holds an answer, it waits only seconds for the reply to each part of it, so that a sidecar that
hangs does not hold the answer for long. A gate that needs longer asks for more time, once for each part.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import grpc

from extproc import apis
from extproc.errors import ProtocolError
from extproc.gate import judged_request
from extproc.gate.answer_watch import TierWatch
from extproc.gate.consultation import Consultation, ConsultationResult, FailureReason, ModelClient
from extproc.gate.judged_tier import JudgedTier
from extproc.routing.clearance import labels_in
from extproc.vocabulary import RequestHead, Version
from extproc.wire import gate_messages
from extproc.wire.decide_messages import CLEARANCE_HEADER, VERSION_KEY, StreamMetadata, more_time
from extproc.wire.gate_exchange import (
    Consult,
    ConsultationEnded,
    Effect,
    Event,
    GateExchange,
    Gatekeeper,
    TimeUp,
    Watched,
)

log = logging.getLogger(__name__)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF

# After so long without a part of a held answer, Envoy is asked to wait longer. It is well within Envoy's
# ``message_timeout`` (see ``envoyconf.http_filters``), and longer than most answers pause.
_QUIET_S = 1.5
# A consultation may take so much longer than its deadline on a busy machine.
_CONSULT_MARGIN_S = 1.0
_LEAST_S = 0.001  # what is left of a deadline that has passed

_NO_RESULT = ConsultationResult(failure=FailureReason.FAILED)


class Gatekeepers:
    """Judges each answer by the registry version that decided its request."""

    def __init__(
        self, tiers: Callable[[Version], Mapping[str, JudgedTier]], now: Callable[[], float] = time.time
    ) -> None:
        """``tiers`` gives those of a version; of the newest for an Envoy that does not say which it holds.

        ``now`` gives the time of day, in seconds since the epoch.
        """
        self._tiers = tiers
        self._now = now

    def watch(self, tier: str, head: RequestHead, body: bytes) -> Watched | None:
        """See ``gate_exchange.Gatekeeper``. A version that is not here judges nothing."""
        policy = self._tiers(Version(head.headers.get(VERSION_KEY, ""))).get(tier)
        api = apis.api_of(head.method, head.path)
        if policy is None or api is None:
            return None
        labels = labels_in(head.headers.get(CLEARANCE_HEADER, ""))
        watch = TierWatch(policy, judged_request.read(api, body), head, body, labels)
        return Watched(watch, self._seconds(policy, head))

    def _seconds(self, policy: JudgedTier, head: RequestHead) -> float | None:
        """The tier's own time or, if that is less, the rest of the time that all tiers share."""
        limits = [] if policy.timeout_s is None else [policy.timeout_s]
        began = head.headers.get(gate_messages.BEGAN_HEADER, "")
        if policy.deadline_s is not None and began.isdecimal():
            limits.append(max(_LEAST_S, int(began) / 1000 + policy.deadline_s - self._now()))
        return min(limits, default=None)


class GateConversation:
    """Judges answers: one stream of a hop, one ``GateExchange``.

    After a defect of the sidecar, the answer goes on unjudged.
    """

    def __init__(
        self,
        keeper: Gatekeeper,
        count_failure: Callable[[str], None],
        second_answers: ModelClient | None = None,
    ) -> None:
        """``count_failure`` is called with ``gate`` for each defect, which is logged too.

        Without ``second_answers``, no other model is asked.
        """
        self._keeper = keeper
        self._count_failure = count_failure
        self._second_answers = second_answers

    async def converse(self, context: _Context, stream: StreamMetadata) -> None:
        """Reply to Envoy until the answer is released or rejected.

        Raises:
            ProtocolError: Envoy sends a wrong message.
        """
        gate = GateExchange(stream.tier, self._keeper)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not gate.done:
            until = None if gate.seconds is None else began + gate.seconds
            data = await _next(context, until, stream.patience_s if gate.holding else 0.0)
            if data is grpc.aio.EOF:
                return
            event: Event = TimeUp() if data is None else gate_messages.decode(data, stream)
            effect = self._settle(gate, event)
            if isinstance(effect, Consult):
                longest = effect.consultation.deadline_s + _CONSULT_MARGIN_S
                await _ask_for_time(context, min(stream.patience_s, longest))
                # If the client disconnects meanwhile, this and the call are cancelled.
                left = None if gate.seconds is None else began + gate.seconds - loop.time()
                event = ConsultationEnded(await self._consult(effect.consultation, left))
                effect = self._settle(gate, event)
            message = gate_messages.encode(event, effect)
            if message is not None:
                await context.write(message)

    async def _consult(self, consultation: Consultation, within_s: float | None) -> ConsultationResult:
        if self._second_answers is None:
            return _NO_RESULT
        return await self._second_answers.ask(consultation, within_s)

    def _settle(self, gate: GateExchange, event: Event) -> Effect:
        try:
            return gate.receive(event)
        except ProtocolError:
            raise
        except Exception:
            log.exception("An answer could not be judged. It goes on unjudged.")
            self._count_failure("gate")
            return gate.give_up(event)


async def _next(context: _Context, until: float | None, patience_s: float) -> Any:
    """The next message; None if the time is up first. After that nothing more is read.

    When no message comes for ``_QUIET_S``, Envoy is asked to wait ``patience_s``.
    """
    now = asyncio.get_running_loop().time()
    quiet = now + _QUIET_S
    reading = asyncio.ensure_future(context.read())
    try:
        if patience_s and (until is None or quiet < until):
            if await _within(reading, quiet - now):
                return reading.result()
            await _ask_for_time(context, patience_s)
        left = None if until is None else until - asyncio.get_running_loop().time()
        return reading.result() if await _within(reading, left) else None
    finally:
        reading.cancel()


async def _within(reading: "asyncio.Future[Any]", seconds: float | None) -> bool:
    """Whether ``reading`` ends in time. If not, it goes on."""
    done, _ = await asyncio.wait([reading], timeout=seconds)
    return bool(done)


async def _ask_for_time(context: _Context, seconds: float) -> None:
    if seconds > 0:
        await context.write(more_time(seconds))
