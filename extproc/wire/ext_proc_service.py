"""The ext_proc gRPC service: one stream per conversation with Envoy, of three kinds.

It is registered by Envoy's full method name and takes and gives bytes: the usual replies are constants,
and grpc's own serialisation would only add calls.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import grpc

from extproc.errors import ProtocolError
from extproc.wire import decide_messages
from extproc.wire.decide_messages import StreamMetadata
from extproc.wire.feedback_exchange import ROLE as FEEDBACK
from extproc.wire.feedback_exchange import FeedbackExchange, FeedbackHandler

log = logging.getLogger(__name__)

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF
_Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Conversation(Protocol):
    """Replies to Envoy on streams of one kind."""

    async def converse(self, context: _Context, stream: StreamMetadata) -> None:
        """Reply on one stream until its exchange is over. Raises ``ProtocolError`` for a wrong message."""
        ...


class ExternalProcessor:
    """Gives each ext_proc stream to its conversation: decide, gate or feedback.

    Where no reply is possible, the stream ends cleanly. Then Envoy goes on with its default, whatever
    ``failure_mode_allow`` says. With ``without_sidecar: refuse`` Envoy's routes answer 503, unless a reply
    has said that the request was checked.
    """

    def __init__(
        self,
        decide: Conversation,
        gate: Conversation | None = None,
        feedback: Conversation | None = None,
        *,
        count_failure: Callable[[str], None],
    ) -> None:
        """Without ``gate``, all answers pass. Without ``feedback``, Envoy answers feedback with 503.

        ``count_failure`` is called with ``protocol`` when Envoy sends a wrong message, which is logged too.
        """
        self._decide = decide
        self._gate = gate
        self._feedback = feedback
        self._count_failure = count_failure
        self._open = 0
        self._none_open = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio`` server registers."""
        method: _Method = grpc.stream_stream_rpc_method_handler(self._process)
        return grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": method})

    async def finished(self) -> None:
        """Return once no exchange is open."""
        while self._open:
            self._none_open.clear()
            await self._none_open.wait()

    async def _process(self, _: object, context: _Context) -> None:
        self._open += 1
        try:
            stream = decide_messages.stream_metadata(context.invocation_metadata() or ())
            conversation = self._conversation(stream)
            if conversation is not None:
                await conversation.converse(context, stream)
        except ProtocolError as error:
            log.warning("an exchange is not routed: %s", error)
            self._count_failure("protocol")
        finally:
            self._open -= 1
            if not self._open:
                self._none_open.set()

    def _conversation(self, stream: StreamMetadata) -> Conversation | None:
        if stream.role == FEEDBACK:
            return self._feedback
        return self._gate if stream.tier else self._decide


class FeedbackConversation:
    """Accepts feedback: one stream, one ``FeedbackExchange``.

    A defect of the sidecar ends the stream, and Envoy answers 503.
    """

    def __init__(self, handler: FeedbackHandler, count_failure: Callable[[str], None]) -> None:
        """``count_failure`` is called with ``feedback`` for each defect, which is logged too."""
        self._handler = handler
        self._count_failure = count_failure

    async def converse(self, context: _Context, stream: StreamMetadata) -> None:
        """See ``Conversation``."""
        exchange = FeedbackExchange(self._handler)
        while not exchange.done:
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            event = decide_messages.decode(data, stream)
            try:
                reply = exchange.receive(event)
            except ProtocolError:
                raise
            except Exception:
                log.exception("feedback could not be accepted")
                self._count_failure(FEEDBACK)
                return
            await context.write(decide_messages.encode(event, reply))
