"""The ext_proc service over a real gRPC channel."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.json_format import MessageToDict

from extproc._pb.ext_proc_pb2 import MessageResponse, ProcessingRequest, ProcessingResponse, Unread
from extproc.errors import Denied, Unauthorized, UnknownVersion
from extproc.vocabulary import Terms
from extproc.wire.body_admission import Admission, AdmissionLimits
from extproc.wire.ext_proc_service import ExternalProcessor
from tests.wire.conftest import FakeDecider, Stream, processor_of, serving

ASK = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'


@pytest.fixture
def processor(decider: FakeDecider, failures: list[str]) -> ExternalProcessor:
    return processor_of(decider, failures.append)


@pytest.fixture
async def channel(processor: ExternalProcessor) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(processor.handler()) as channel:
        yield channel


def envelope(response: ProcessingResponse | None) -> dict[str, Any]:
    assert response is not None
    return dict(MessageToDict(response.dynamic_metadata)["router"])


async def test_an_llm_call_is_routed_by_its_decision(channel: grpc.aio.Channel, decider: FakeDecider) -> None:
    stream = Stream(channel)
    response = await stream.exchange(ASK)
    assert response is not None
    common = response.request_body.response
    assert [option.header.raw_value for option in common.header_mutation.set_headers] == [
        b"model-coder",
        b"code",
        b"66",
    ]
    assert common.body_mutation.body == ASK.replace(b"auto", b"qwen-coder")
    assert envelope(response)["route"] == "code"
    assert [question.request.user_text for question in decider.asked] == ["hi"]
    assert await stream.ended_well()


async def test_any_other_request_is_let_go_at_its_head(
    channel: grpc.aio.Channel, decider: FakeDecider
) -> None:
    stream = Stream(channel)
    await stream.send_head("/v1/models")
    response = await stream.receive()
    assert response is not None
    assert response.WhichOneof("response") == "request_headers"
    assert not response.HasField("dynamic_metadata")
    assert await stream.ended_well()
    assert not decider.asked


async def test_a_refusal_reaches_the_client(channel: grpc.aio.Channel, decider: FakeDecider) -> None:
    decider.answer = Denied("not here", rule="secrets")
    stream = Stream(channel)
    response = await stream.exchange(ASK)
    assert response is not None
    assert response.immediate_response.status.code == 400
    assert b"not here" in response.immediate_response.body
    assert envelope(response)["rule"] == "secrets"
    assert envelope(response)["version"] == "v1"
    assert await stream.ended_well()


async def test_an_llm_call_without_a_body_is_refused_at_its_head(channel: grpc.aio.Channel) -> None:
    stream = Stream(channel)
    await stream.send_head(end_of_stream=True)
    response = await stream.receive()
    assert response is not None
    assert response.immediate_response.status.code == 400


async def test_exchanges_do_not_wait_for_each_other(channel: grpc.aio.Channel, decider: FakeDecider) -> None:
    decider.gate.clear()
    slow = [asyncio.create_task(Stream(channel).exchange(ASK)) for _ in range(20)]
    await decider.busy.wait()
    other = Stream(channel)
    await other.send_head("/v1/models")
    assert await other.receive() is not None
    decider.gate.set()
    assert all(response and response.HasField("request_body") for response in await asyncio.gather(*slow))


# --- Bytes in flight ----------------------------------------------------------------------------

MIB = 1024 * 1024
LARGE = {"content-length": str(MIB)}
ONE_AT_A_TIME = AdmissionLimits(bytes_in_flight=MIB, wait_s=60.0)  # which no test waits for


@asynccontextmanager
async def crowded(
    decider: FakeDecider, limits: AdmissionLimits, terms: Terms | None = None
) -> AsyncIterator[tuple[grpc.aio.Channel, Admission, Stream, list[str]]]:
    """A channel, on which one large body is admitted and has not come."""
    unread = list[str]()
    admission = Admission(limits, count_unread=lambda: unread.append("unread"))
    processor = processor_of(decider, pytest.fail, admission=admission, terms=terms)
    async with serving(processor.handler()) as channel:
        first = Stream(channel)
        await first.send_head(headers=LARGE)
        assert await first.receive() is not None
        yield channel, admission, first, unread


async def until_waiting(admission: Admission, count: int) -> None:
    async with asyncio.timeout(60):
        while admission.waiting != count:
            await asyncio.sleep(0.001)


async def test_a_large_body_waits_for_its_turn_and_a_small_one_does_not(decider: FakeDecider) -> None:
    async with crowded(decider, ONE_AT_A_TIME) as (channel, admission, first, unread):
        second = asyncio.create_task(Stream(channel).exchange(ASK, LARGE))
        await until_waiting(admission, 1)
        assert await Stream(channel).exchange(ASK, {"content-length": str(len(ASK))}) is not None
        assert not second.done()
        await first.send_body(ASK)
        assert await first.receive() is not None
        answer = await second
        assert answer is not None
        assert answer.request_body.response.HasField("body_mutation")
    assert (admission.bytes_in_flight, unread) == (0, [])


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_body_that_never_comes_gives_up_its_room_with_its_stream(
    decider: FakeDecider, how: str
) -> None:
    async with crowded(decider, ONE_AT_A_TIME) as (channel, admission, first, _):
        second = asyncio.create_task(Stream(channel).exchange(ASK, LARGE))
        await until_waiting(admission, 1)
        if how == "cancelled":
            first.call.cancel()
        else:
            await first.call.done_writing()
        assert await second is not None


async def test_a_body_that_waited_in_vain_goes_to_the_default_unread(decider: FakeDecider) -> None:
    limits = msgspec.structs.replace(ONE_AT_A_TIME, wait_s=0.0)
    async with crowded(decider, limits) as (channel, _, _, unread):
        stream = Stream(channel)
        await stream.send_head(headers=LARGE)
        answer = await stream.receive()
        assert answer is not None
        assert answer.WhichOneof("response") == "request_headers"
        assert envelope(answer)["reason"] == "bytes_in_flight"
        assert await stream.ended_well()
    assert unread == ["unread"]
    assert not decider.asked


async def test_a_body_that_waited_in_vain_is_refused_where_there_are_deny_rules(decider: FakeDecider) -> None:
    limits = msgspec.structs.replace(ONE_AT_A_TIME, wait_s=0.0)
    async with crowded(decider, limits, Terms(checks=True)) as (channel, _, _, unread):
        stream = Stream(channel)
        await stream.send_head()  # chunked: as large as any
        answer = await stream.receive()
        assert answer is not None
        assert answer.immediate_response.status.code == 503
        assert b"overloaded" in answer.immediate_response.body
        assert envelope(answer)["error"] == "bytes_in_flight"
    assert unread == ["unread"]


# --- The parent of the trace --------------------------------------------------------------------


async def test_the_trace_of_envoys_own_span_goes_before_the_clients(
    channel: grpc.aio.Channel, decider: FakeDecider
) -> None:
    response = await Stream(channel, (("traceparent", "00-envoy"),)).exchange(
        ASK, {"traceparent": "00-client"}
    )
    assert decider.asked[0].head.traceparent == "00-envoy"
    assert envelope(response)["traceparent"] == "00-envoy"


async def test_without_one_the_clients_counts(channel: grpc.aio.Channel, decider: FakeDecider) -> None:
    await Stream(channel).exchange(ASK, {"traceparent": "00-client"})
    assert decider.asked[0].head.traceparent == "00-client"


# --- The version by which Envoy routes ----------------------------------------------------------


async def test_the_decision_is_asked_for_by_the_version_that_envoy_holds(
    channel: grpc.aio.Channel, decider: FakeDecider
) -> None:
    await Stream(channel, (("x-router-config", "v0"),)).exchange(ASK)
    await Stream(channel).exchange(ASK)
    assert [question.head.config_version for question in decider.asked] == ["v0", ""]


async def test_a_refusal_bears_the_version_that_envoy_holds(
    channel: grpc.aio.Channel, decider: FakeDecider
) -> None:
    decider.answer = Denied("not here", rule="secrets")
    assert envelope(await Stream(channel, (("x-router-config", "v0"),)).exchange(ASK))["version"] == "v0"


async def test_what_cannot_be_decided_is_left_to_envoy_and_says_why(
    channel: grpc.aio.Channel, decider: FakeDecider, failures: list[str]
) -> None:
    decider.answer = UnknownVersion("v0")
    response = await Stream(channel, (("x-router-config", "v0"),)).exchange(ASK)
    assert response is not None
    assert not response.request_body.HasField("response")
    told = envelope(response)
    assert (told["stage"], told["reason"], told["version"]) == ("default", "unknown_version", "v0")
    assert failures == []


# --- What goes wrong never reaches the client ---------------------------------------------------


async def test_a_defect_lets_the_request_go_on_and_is_told_once(
    channel: grpc.aio.Channel, decider: FakeDecider, failures: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    decider.answer = RuntimeError("a defect")
    stream = Stream(channel)
    response = await stream.exchange(ASK)
    assert response is not None
    assert response.WhichOneof("response") == "request_body"
    assert not response.request_body.HasField("response")
    assert (envelope(response)["stage"], envelope(response)["reason"]) == ("default", "internal_error")
    assert await stream.ended_well()
    assert failures == ["decide"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "a defect" in str(record.exc_info[1])


async def test_an_answer_that_cannot_be_written_lets_the_request_go_on(
    channel: grpc.aio.Channel, decider: FakeDecider, failures: list[str]
) -> None:
    assert isinstance(decider.answer, msgspec.Struct)
    decider.answer = msgspec.structs.replace(decider.answer, route="\ud800")  # is not UTF-8
    response = await Stream(channel).exchange(ASK)
    assert envelope(response)["reason"] == "internal_error"
    assert failures == ["decide"]


@pytest.mark.parametrize(
    "message", [b"\xff", b"", ProcessingRequest(response_trailers=Unread()).SerializeToString()]
)
async def test_a_message_that_does_not_fit_ends_the_stream_in_peace(
    channel: grpc.aio.Channel, failures: list[str], caplog: pytest.LogCaptureFixture, message: bytes
) -> None:
    stream = Stream(channel)
    await stream.call.write(message)
    assert await stream.ended_well()
    assert failures == ["protocol"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_body_without_its_head_ends_the_stream_in_peace(
    channel: grpc.aio.Channel, failures: list[str], decider: FakeDecider
) -> None:
    stream = Stream(channel)
    await stream.send_body(ASK)
    assert await stream.ended_well()
    assert failures == ["protocol"]
    assert not decider.asked


async def test_an_envoy_that_leaves_between_head_and_body_is_no_failure(
    channel: grpc.aio.Channel, failures: list[str]
) -> None:
    stream = Stream(channel)
    await stream.send_head()
    await stream.receive()
    await stream.call.done_writing()
    assert await stream.ended_well()
    assert not failures


async def test_a_client_that_leaves_cancels_its_decision(
    channel: grpc.aio.Channel,
    processor: ExternalProcessor,
    decider: FakeDecider,
    failures: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    decider.gate.clear()
    stream = Stream(channel)
    await stream.send_head()
    await stream.receive()
    await stream.send_body(ASK)
    await decider.busy.wait()
    stream.call.cancel()
    await asyncio.wait_for(processor.finished(), 10)
    assert not failures
    assert not caplog.records


# --- Feedback -----------------------------------------------------------------------------------

FEEDBACK = (("x-router-role", "feedback"),)


class FakeHandler:
    """Accepts any feedback, or raises ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def admit(self, authorization: str) -> None:
        if authorization != "good":
            raise Unauthorized("no token")

    def take(self, body: bytes) -> str:
        if self.error is not None:
            raise self.error
        return body.decode()


@pytest.mark.parametrize(
    ("handler", "counted"),
    [(FakeHandler(), []), (None, []), (FakeHandler(RuntimeError("a defect")), ["feedback"])],
)
async def test_feedback_goes_to_its_handler_and_envoy_answers_when_that_fails(
    decider: FakeDecider, failures: list[str], handler: FakeHandler | None, counted: list[str]
) -> None:
    processor = processor_of(decider, failures.append, feedback=handler)
    async with serving(processor.handler()) as channel:
        stream = Stream(channel, FEEDBACK)
        if handler is not None:  # without one the stream has ended before anything is sent
            await stream.send_head("/v1/router/feedback", {"authorization": "good"})
            assert await stream.receive() == ProcessingResponse(request_headers=MessageResponse())
            await stream.send_body(b"e1")
        if handler is not None and handler.error is None:
            answer = await stream.receive()
            assert answer is not None
            assert answer.immediate_response.status.code == 202
            assert answer.immediate_response.body == b'{"id":"e1","accepted":true}'
        assert await stream.ended_well()
    assert failures == counted
    assert not decider.asked


async def test_feedback_that_is_refused_at_its_head_ends_there(
    decider: FakeDecider, failures: list[str]
) -> None:
    processor = processor_of(decider, failures.append, feedback=FakeHandler())
    async with serving(processor.handler()) as channel:
        stream = Stream(channel, FEEDBACK)
        await stream.send_head("/v1/router/feedback")
        answer = await stream.receive()
        assert answer is not None
        assert answer.immediate_response.status.code == 401
        assert await stream.ended_well()
        lost = Stream(channel, FEEDBACK)
        await lost.send_body(b"out of turn")
        assert await lost.ended_well()
    assert failures == ["protocol"]


async def test_it_is_finished_when_the_last_exchange_is(
    channel: grpc.aio.Channel, processor: ExternalProcessor, decider: FakeDecider
) -> None:
    await asyncio.wait_for(processor.finished(), 10)  # none was ever open
    decider.gate.clear()
    exchange = asyncio.create_task(Stream(channel).exchange(ASK))
    await decider.busy.wait()
    finished = asyncio.create_task(processor.finished())
    other = Stream(channel)  # a whole other exchange comes and goes meanwhile
    await other.send_head("/static/logo.png")
    assert await other.receive() is not None
    assert await other.ended_well()
    assert not finished.done()
    decider.gate.set()
    await asyncio.wait_for(finished, 60)
    await exchange
