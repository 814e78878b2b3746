"""Driving one gate: Envoy's messages in, its replies out, and a clock.

While an answer is held, Envoy waits only seconds for a word on the latest part of it, so that a sidecar
that hangs does not hold the answer for long. A gate that needs longer says so, again for each part.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import grpc

from extproc.errors import ProtocolError
from extproc.gate.consultation import Consultation, ConsultationResult, FailureReason
from extproc.wire import gate_messages
from extproc.wire.decide_messages import StreamMetadata
from extproc.wire.gate_exchange import Consult, ConsultationEnded, Effect, Event, GateExchange, TimeUp

log = logging.getLogger(__name__)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF

# How long nothing may come of a held answer before Envoy is asked to wait on: well within its own
# ``message_timeout`` (see ``envoyconf.http_filters``), and longer than most answers pause.
_QUIET_S = 1.5
# What a consultation may take beyond its deadline, on a busy machine.
_CONSULT_MARGIN_S = 1.0

_NO_RESULT = ConsultationResult(failure=FailureReason.FAILED)


class SecondAnswerClient(Protocol):
    """Asks another model for a second answer or a rating."""

    async def ask(self, consultation: Consultation, within_s: float | None) -> ConsultationResult:
        """The answer or why there is none, within the consultation's deadline and ``within_s`` seconds.

        Never raises.
        """
        ...


async def converse(
    context: _Context,
    stream: StreamMetadata,
    gate: GateExchange,
    count_failure: Callable[[str], None],
    second_answers: SecondAnswerClient | None,
) -> None:
    """Answer Envoy until the answer has gone on, or was refused.

    A defect of ours is logged and counted, and the answer goes on.

    Raises:
        ProtocolError: Envoy sends what it should not.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not gate.done:
        until = None if gate.seconds is None else began + gate.seconds
        data = await _next(context, until, stream.patience_s if gate.holding else 0.0)
        if data is grpc.aio.EOF:
            return
        event: Event = TimeUp() if data is None else gate_messages.decode(data, stream)
        effect = _settle(gate, event, count_failure)
        if isinstance(effect, Consult):
            longest = effect.consultation.deadline_s + _CONSULT_MARGIN_S
            await _ask_for_time(context, min(stream.patience_s, longest))
            # A client that leaves meanwhile has this cancelled, and so the call.
            left = None if gate.seconds is None else began + gate.seconds - loop.time()
            result = await second_answers.ask(effect.consultation, left) if second_answers else _NO_RESULT
            event = ConsultationEnded(result)
            effect = _settle(gate, event, count_failure)
        message = gate_messages.encode(event, effect)
        if message is not None:
            await context.write(message)


async def _next(context: _Context, until: float | None, patience_s: float) -> Any:
    """The next message; None when the time is up first. After that nothing more is read.

    When none comes for a while, Envoy is asked for ``patience_s`` of time.
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
    """Whether it is there in time; it goes on when it is not."""
    done, _ = await asyncio.wait([reading], timeout=seconds)
    return bool(done)


async def _ask_for_time(context: _Context, seconds: float) -> None:
    if seconds > 0:
        await context.write(gate_messages.more_time(seconds))


def _settle(gate: GateExchange, event: Event, count_failure: Callable[[str], None]) -> Effect:
    try:
        return gate.receive(event)
    except ProtocolError:
        raise
    except Exception:
        log.exception("an answer could not be judged; it goes on")
        count_failure("gate")
        return gate.give_up(event)
