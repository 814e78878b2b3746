"""Driving one gate: Envoy's messages in, its replies out, and a clock."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import grpc

from extproc.cascade.consulting import Advice, Consultation, Trouble
from extproc.errors import ProtocolError
from extproc.wire import gate_messages
from extproc.wire.gating import Advised, Consult, Effect, Event, GateExchange, TimeUp
from extproc.wire.messages import StreamMetadata

log = logging.getLogger(__name__)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF


_NO_ADVICE = Advice(trouble=Trouble.FAILED)


class Adviser(Protocol):
    """Who asks other models."""

    async def ask(self, consultation: Consultation, within_s: float | None) -> Advice:
        """What came of it, within its own deadline and ``within_s``. Never raises."""
        ...


async def converse(
    context: _Context,
    stream: StreamMetadata,
    gate: GateExchange,
    count_failure: Callable[[str], None],
    adviser: Adviser | None,
) -> None:
    """Answer Envoy until the answer has gone on, or was refused.

    A defect of ours is logged and counted, and the answer goes on.

    Raises:
        ProtocolError: Envoy sends what it should not.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not gate.done:
        data = await _read(context, None if gate.seconds is None else began + gate.seconds)
        if data is grpc.aio.EOF:
            return
        event: Event = TimeUp() if data is None else gate_messages.decode(data, stream)
        effect = _settle(gate, event, count_failure)
        if isinstance(effect, Consult):
            # A client that leaves meanwhile has this cancelled, and so the call.
            left = None if gate.seconds is None else began + gate.seconds - loop.time()
            advice = await adviser.ask(effect.consultation, left) if adviser else _NO_ADVICE
            event = Advised(advice)
            effect = _settle(gate, event, count_failure)
        message = gate_messages.encode(event, effect)
        if message is not None:
            await context.write(message)


async def _read(context: _Context, until: float | None) -> Any:
    """The next message; None when the time is up first. After that nothing more is read."""
    try:
        async with asyncio.timeout_at(until):
            return await context.read()
    except TimeoutError:
        return None


def _settle(gate: GateExchange, event: Event, count_failure: Callable[[str], None]) -> Effect:
    try:
        return gate.receive(event)
    except ProtocolError:
        raise
    except Exception:
        log.exception("an answer could not be judged; it goes on")
        count_failure("gate")
        return gate.give_up(event)
