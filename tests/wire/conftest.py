"""An Envoy as small as a test needs: it opens ext_proc streams and speaks its messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import grpc
import pytest

from extproc._pb.ext_proc_pb2 import (
    BUFFERED,
    HeaderMap,
    HeaderValue,
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)
from extproc.vocabulary import BodyPolicy, Decision, Question, Reason, Stage, Terms
from extproc.wire.body_admission import Admission, AdmissionLimits
from extproc.wire.decide_stream import DecideConversation
from extproc.wire.ext_proc_service import ExternalProcessor, FeedbackConversation
from extproc.wire.feedback_exchange import FeedbackHandler
from tests.releases import one_release

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
STREAM_ACCESS_LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
CHAT_PATH = "/v1/chat/completions"
EMPTY: Mapping[str, str] = MappingProxyType({})


class FakeDecider:
    """Answers with ``answer``, which may be an error, once ``gate`` is open; remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Decision | Exception = Decision(
            route="code",
            model="coder",
            policy=BodyPolicy(model="qwen-coder"),
            cluster="model-coder",
            stage=Stage.EMBEDDING,
            reason=Reason.MATCHED,
            version="v2",
        )
        self.asked: list[Question] = []
        self.busy = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def decide(self, question: Question, more_time: object = None) -> Decision:
        self.asked.append(question)
        self.busy.set()
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Stream:
    """One ext_proc stream, seen from Envoy."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.call: Any = channel.stream_stream(PROCESS)(metadata=metadata)

    async def send_head(
        self, path: str = CHAT_PATH, headers: Mapping[str, str] = EMPTY, *, end_of_stream: bool = False
    ) -> None:
        fields = {":method": "POST", ":path": path, **headers}
        values = [HeaderValue(key=name, raw_value=value.encode()) for name, value in fields.items()]
        head = HttpHeaders(headers=HeaderMap(headers=values), end_of_stream=end_of_stream)
        config = ProtocolConfiguration(request_body_mode=BUFFERED)
        await self.send(ProcessingRequest(request_headers=head, protocol_config=config))

    async def send_body(self, body: bytes) -> None:
        await self.send(ProcessingRequest(request_body=HttpBody(body=body, end_of_stream=True)))

    async def send(self, message: ProcessingRequest) -> None:
        await self.call.write(message.SerializeToString())

    async def receive(self) -> ProcessingResponse | None:
        """The next answer, or None when the stream ended without one."""
        data = await self.call.read()
        return None if data is grpc.aio.EOF else ProcessingResponse.FromString(data)

    async def ended_well(self) -> bool:
        """Whether the sidecar ends the stream here, in the way that lets Envoy go on."""
        return await self.receive() is None and await self.call.code() is grpc.StatusCode.OK

    async def exchange(self, body: bytes, headers: Mapping[str, str] = EMPTY) -> ProcessingResponse | None:
        """The answer to the body of an LLM call."""
        await self.send_head(headers=headers)
        head_answer = await self.receive()
        assert head_answer is not None
        assert head_answer.WhichOneof("response") == "request_headers"
        await self.send_body(body)
        return await self.receive()


def processor_of(
    decider: FakeDecider,
    count_failure: Callable[[str], None],
    *,
    admission: Admission | None = None,
    terms: Terms | None = None,
    feedback: FeedbackHandler | None = None,
) -> ExternalProcessor:
    """A service that decides by ``decider``, and accepts feedback if there is a handler of it."""
    return ExternalProcessor(
        DecideConversation(
            decider, one_release(terms), admission or Admission(AdmissionLimits()), count_failure
        ),
        feedback=FeedbackConversation(feedback, count_failure) if feedback else None,
        count_failure=count_failure,
    )


@asynccontextmanager
async def serving(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of these services."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


@pytest.fixture
def decider() -> FakeDecider:
    return FakeDecider()


@pytest.fixture
def failures() -> list[str]:
    """What the services counted."""
    return []
