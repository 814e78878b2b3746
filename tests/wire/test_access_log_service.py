"""The access log service over a real gRPC channel."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from extproc._pb.access_log_pb2 import (
    AccessLogCommon,
    HTTPAccessLogEntry,
    HTTPRequestProperties,
    Metadata,
    StreamAccessLogsMessage,
)
from extproc.exchanges import Attempt, Exchange
from extproc.wire import access_log, access_log_service
from extproc.wire.access_log_service import AccessLog, Attempts
from tests.wire.conftest import STREAM_ACCESS_LOGS, serving

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
    monkeypatch.setattr(access_log_service, "_ATTEMPTS_LATE_S", 3600.0)
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


def exchange(request_id: str, attempts: int = 0, cluster: str = "chain-small|large") -> Exchange:
    return Exchange(
        request_id=request_id, started_at=0.0, duration=None, first_byte=None, status=200, flags=(),
        method="POST", path="/", cluster=cluster, request_bytes=0, response_bytes=0, envelope=None,
        attempts=attempts,
    )  # fmt: skip


def attempt(request_id: str, number: int) -> Attempt:
    return Attempt(exchange(request_id), number, "small")


def tried(told: Sequence[Exchange | Attempt]) -> dict[str, list[int]]:
    exchanges = [each for each in told if isinstance(each, Exchange)]
    return {each.request_id: [one.number for one in each.tried] for each in exchanges}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_exchange_has_what_was_told_of_it_before(size: int) -> None:
    entries = [attempt("a", 1), attempt("b", 1), attempt("a", 2), exchange("a"), exchange("b")]
    attempts = Attempts()
    told = [
        each
        for start in range(0, len(entries), size)
        for each in attempts.join(entries[start : start + size])
    ]
    assert tried(told) == {"a": [1, 2], "b": [1]}
    assert [each for each in told if isinstance(each, Attempt)] == entries[:3]


def test_within_a_message_the_order_does_not_matter() -> None:
    told = list(Attempts().join([exchange("a"), attempt("a", 2), attempt("a", 1)]))
    assert tried(told) == {"a": [1, 2]}
    assert isinstance(told[-1], Exchange)


def test_an_exchange_is_told_once_and_takes_its_attempts_along() -> None:
    attempts = Attempts()
    list(attempts.join([attempt("a", 1), exchange("a")]))
    assert tried(list(attempts.join([exchange("a")]))) == {"a": []}


def test_attempts_whose_exchange_never_comes_are_forgotten_the_oldest_first() -> None:
    attempts = Attempts(kept=3)
    list(attempts.join([attempt("a", 1), attempt("a", 2), attempt("b", 1), attempt("c", 1), attempt("d", 1)]))
    told = list(attempts.join([exchange(name) for name in "abcd"]))
    assert tried(told) == {"a": [], "b": [1], "c": [1], "d": [1]}


def test_an_exchange_that_lacks_an_attempt_is_held_until_it_comes() -> None:
    attempts = Attempts()
    assert tried(list(attempts.join([attempt("a", 1), exchange("a", attempts=2)]))) == {}
    assert attempts.held == {"a"}
    assert tried(list(attempts.join([exchange("b", attempts=1), attempt("b", 1)]))) == {"b": [1]}
    assert tried(list(attempts.join([attempt("a", 2)]))) == {"a": [1, 2]}
    assert attempts.held == frozenset()


def test_one_whose_attempt_never_comes_is_released_with_what_there_is() -> None:
    attempts = Attempts()
    list(attempts.join([attempt("a", 1), exchange("a", attempts=2)]))
    assert tried(list(attempts.release(["a", "b"]))) == {"a": [1]}
    assert tried(list(attempts.release(["a"]))) == {}


def test_an_exchange_that_met_no_hop_waits_for_none() -> None:
    entries = [
        exchange("a", attempts=3, cluster="model-small"),
        exchange("", cluster=""),
        exchange("", cluster=""),
    ]
    assert len(list(Attempts().join(entries))) == 3
