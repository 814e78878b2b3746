"""The two services over a real gRPC channel."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from extproc._pb.access_log_pb2 import (
    AccessLogCommon,
    HTTPAccessLogEntry,
    HTTPRequestProperties,
    Metadata,
    StreamAccessLogsMessage,
)
from extproc._pb.ext_proc_pb2 import MessageResponse, ProcessingRequest, ProcessingResponse, Unread
from extproc.errors import Denied, Unauthorized, UnknownVersion
from extproc.vocabulary import Attempt, Exchange, Terms
from extproc.wire import access_log, ext_proc_service
from extproc.wire.body_admission import Admission, AdmissionLimits
from extproc.wire.ext_proc_service import AccessLog, ExternalProcessor
from tests.wire.conftest import STREAM_ACCESS_LOGS, FakeDecider, Stream

ASK = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'


@asynccontextmanager
async def serving(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[grpc.aio.Channel]:
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
def processor(decider: FakeDecider, failures: list[str]) -> ExternalProcessor:
    return ExternalProcessor(decider, version=lambda: "v1", count_failure=failures.append)


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
    admission, unread = Admission(limits), list[str]()
    processor = ExternalProcessor(
        decider,
        version=lambda: "v1",
        count_failure=pytest.fail,
        terms=lambda _: terms or Terms(),
        admission=admission,
        count_unread=lambda: unread.append("unread"),
    )
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
    async with crowded(decider, limits, Terms(denies=True)) as (channel, _, _, unread):
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


class FakeDesk:
    """Takes any opinion, or raises ``error``."""

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
    ("desk", "counted"), [(FakeDesk(), []), (None, []), (FakeDesk(RuntimeError("a defect")), ["feedback"])]
)
async def test_feedback_goes_to_the_desk_and_where_that_fails_envoy_is_left_to_say_so(
    decider: FakeDecider, failures: list[str], desk: FakeDesk | None, counted: list[str]
) -> None:
    processor = ExternalProcessor(decider, version=lambda: "v1", count_failure=failures.append, feedback=desk)
    async with serving(processor.handler()) as channel:
        stream = Stream(channel, FEEDBACK)
        if desk is not None:  # without one the stream has ended before anything is sent
            await stream.send_head("/v1/router/feedback", {"authorization": "good"})
            assert await stream.receive() == ProcessingResponse(request_headers=MessageResponse())
            await stream.send_body(b"e1")
        if desk is not None and desk.error is None:
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
    processor = ExternalProcessor(
        decider, version=lambda: "v1", count_failure=failures.append, feedback=FakeDesk()
    )
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


# --- The access log -----------------------------------------------------------------------------


MANY = [str(number) for number in range(1000)]


class Sink:
    """Keeps what it is given; fails on the exchanges that ``refuses`` names."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.exchanges: dict[str, Exchange] = {}
        self.refuses: set[str] = set()

    def accept(self, exchange: Exchange) -> None:
        if exchange.request_id in self.refuses:
            raise RuntimeError("a sink that breaks its contract")
        self.accepted.append(exchange.request_id)
        self.exchanges[exchange.request_id] = exchange

    def attempted(self, attempt: Attempt) -> None:
        self.accepted.append(f"{attempt.call.request_id}, attempt {attempt.number}")


def log_message(*request_ids: str) -> bytes:
    entries = [HTTPAccessLogEntry(request=HTTPRequestProperties(request_id=name)) for name in request_ids]
    logs = StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)
    return StreamAccessLogsMessage(http_logs=logs).SerializeToString()


def log_entry(request_id: str, common: AccessLogCommon) -> bytes:
    entry = HTTPAccessLogEntry(common_properties=common, request=HTTPRequestProperties(request_id=request_id))
    logs = StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=[entry])
    return StreamAccessLogsMessage(http_logs=logs).SerializeToString()


def hop(model: str, place: str) -> AccessLogCommon:
    asked = Struct()
    asked.update({"model": model})
    return AccessLogCommon(
        metadata=Metadata(filter_metadata={"router.hop": asked}), custom_tags={"place": place.encode()}
    )


async def send_log(sink: Sink, failures: list[str], *messages: bytes) -> grpc.StatusCode:
    async with serving(AccessLog(sink, count_failure=failures.append).handler()) as channel:
        call: Any = channel.stream_unary(STREAM_ACCESS_LOGS)()
        for message in messages:
            await call.write(message)
        await call.done_writing()
        await call
        code: grpc.StatusCode = await call.code()
        return code


async def test_every_entry_reaches_the_sink_in_order(failures: list[str]) -> None:
    sink = Sink()
    code = await send_log(sink, failures, log_message("a", "b"), log_message(), log_message("c"))
    assert sink.accepted == ["a", "b", "c"]
    assert code is grpc.StatusCode.OK
    assert not failures


async def test_attempts_of_hops_reach_the_sink_too(failures: list[str]) -> None:
    sink = Sink()
    await send_log(sink, failures, log_entry("a", hop("small", place="1")), log_message("a"))
    assert sink.accepted == ["a, attempt 1", "a"]


async def test_a_message_that_cannot_be_read_costs_only_itself(
    failures: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    await send_log(sink, failures, log_message("a"), b"\xff", log_message("b"))
    assert sink.accepted == ["a", "b"]
    assert failures == ["access_log"]
    assert len(caplog.records) == 1


async def test_a_sink_that_raises_does_not_end_the_stream(failures: list[str]) -> None:
    sink = Sink()
    sink.refuses = {"a"}
    await send_log(sink, failures, log_message("a"), log_message("b"))
    assert sink.accepted == ["b"]
    assert failures == ["access_log"]


async def test_an_entry_that_cannot_be_recorded_costs_only_itself(
    failures: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    sink.refuses = {"3", "4", "500"}
    await send_log(sink, failures, log_message(*MANY))
    assert sink.accepted == [name for name in MANY if name not in sink.refuses]
    assert failures == ["access_log"] * 3
    assert len(caplog.records) == 1  # and not a traceback for each


async def test_an_entry_that_cannot_be_read_costs_only_itself(
    failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = access_log.observed_in

    def observed_in(entry: HTTPAccessLogEntry) -> Exchange | Attempt:
        if entry.request.request_id == "3":
            raise RuntimeError("a defect")
        return read(entry)

    monkeypatch.setattr(access_log, "observed_in", observed_in)
    sink = Sink()
    await send_log(sink, failures, log_message(*MANY))
    assert sink.accepted == [name for name in MANY if name != "3"]
    assert failures == ["access_log"]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_end_of_one_stream_leaves_what_another_still_waits_for(
    failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each Envoy, and each of its threads, has a stream of its own."""
    monkeypatch.setattr(ext_proc_service, "_ATTEMPTS_LATE_S", 3600.0)
    sink = Sink()
    waits = log_entry("a", AccessLogCommon(upstream_cluster="chain-small", upstream_request_attempt_count=1))
    async with serving(AccessLog(sink, count_failure=failures.append).handler()) as channel:
        first: Any = channel.stream_unary(STREAM_ACCESS_LOGS)()
        await first.write(waits)
        await first.write(log_message("b"))
        await until(lambda: sink.accepted == ["b"])
        second: Any = channel.stream_unary(STREAM_ACCESS_LOGS)()
        await second.done_writing()
        await second
        assert sink.accepted == ["b"]
        await first.write(log_entry("a", hop("small", place="1")))
        await first.done_writing()
        await first
    assert sink.accepted == ["b", "a, attempt 1", "a"]
    assert [each.number for each in sink.exchanges["a"].tried] == [1]


class Pausing(Sink):
    """Notes how often others had their turn before each exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.seen: list[int] = []

    def accept(self, exchange: Exchange) -> None:
        super().accept(exchange)
        self.seen.append(self.turns)

    async def take_turns(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


class OneMessage:
    """A context that gives one message, and then nothing."""

    def __init__(self, message: bytes) -> None:
        self._message: bytes | None = message

    async def read(self) -> Any:
        message, self._message = self._message, None
        return grpc.aio.EOF if message is None else message


async def test_decisions_have_their_turn_while_a_long_message_is_read(failures: list[str]) -> None:
    sink = Pausing()
    others = asyncio.create_task(sink.take_turns())
    await AccessLog(sink, count_failure=failures.append)._stream(None, OneMessage(log_message(*MANY)))  # type: ignore[arg-type]
    others.cancel()
    assert sink.accepted == MANY
    assert max(after - before for before, after in pairwise(sink.seen)) <= 2
    assert len(set(sink.seen)) > 50


async def test_a_message_that_was_received_is_told_to_its_end_though_the_server_stops(
    failures: list[str],
) -> None:
    sink = Pausing()
    stream = AccessLog(sink, count_failure=failures.append)._stream(None, OneMessage(log_message(*MANY)))  # type: ignore[arg-type]
    reading = asyncio.create_task(stream)
    while not sink.accepted:
        await asyncio.sleep(0)
    assert len(sink.accepted) < len(MANY)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert sink.accepted == MANY
