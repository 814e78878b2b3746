"""The server's life: it listens, serves what it promises, and drains."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from extproc._pb.access_log_pb2 import StreamAccessLogsMessage
from extproc.errors import OperatorError
from extproc.exchanges import Attempt, Exchange
from extproc.health import Components
from extproc.wire.access_log_service import AccessLog
from extproc.wire.grpc_server import COMPONENT, Options, Server
from tests.wire.conftest import STREAM_ACCESS_LOGS, FakeDecider, Stream, processor_of

MIB = 1024 * 1024
DEADLINE_S = 60.0  # only ever reached by what hangs


class NoSink:
    def accept(self, exchange: Exchange) -> None:
        """Nobody asks."""

    def attempted(self, attempt: Attempt) -> None:
        """Nobody asks."""


class Sidecar:
    """A running server, and what controls it."""

    def __init__(self, decider: FakeDecider, options: Options) -> None:
        self.components = Components(COMPONENT, "encoder")
        self.components.report("encoder", ready=True)
        self.stop = asyncio.Event()
        self.address = ""
        self.server = Server(
            options,
            processor_of(decider, pytest.fail),
            AccessLog(NoSink(), count_failure=pytest.fail),
            self.components,
            versions=lambda: ["v1"],
            refused=dict,
        )
        self.run: asyncio.Task[None] | None = None
        self.health: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.address = await self.server.start()
        self.run = asyncio.create_task(self.server.run(self.stop))
        self.health = asyncio.create_task(self.server.show_health())

    async def stopped(self) -> None:
        """Return when the server has drained; fails when that takes too long."""
        assert self.run is not None
        await asyncio.wait_for(asyncio.shield(self.run), DEADLINE_S)

    async def close(self) -> None:
        if self.run is not None:
            self.run.cancel()
            await asyncio.wait({self.run})
        if self.health is not None:
            self.health.cancel()
            await asyncio.wait({self.health})


Start = Callable[..., Any]


@pytest.fixture
async def start(decider: FakeDecider) -> AsyncIterator[Start]:
    """Starts a sidecar that ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(
            address: str = "127.0.0.1:0", max_body_bytes: int = MIB, grace_s: float = 60.0
        ) -> Sidecar:
            sidecar = Sidecar(
                decider, Options(address=address, max_body_bytes=max_body_bytes, grace_s=grace_s)
            )
            stack.push_async_callback(sidecar.close)
            await sidecar.start()
            return sidecar

        yield start


@asynccontextmanager
async def envoy(address: str) -> AsyncIterator[grpc.aio.Channel]:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=unlimited) as channel:
        yield channel


def ask(content: bytes = b"hi") -> bytes:
    return b'{"model":"auto","messages":[{"role":"user","content":"' + content + b'"}]}'


async def deciding(channel: grpc.aio.Channel, decider: FakeDecider) -> Stream:
    """A stream that waits for its decision."""
    decider.gate.clear()
    stream = Stream(channel)
    await stream.send_head()
    await stream.receive()
    await stream.send_body(ask())
    await decider.busy.wait()
    return stream


async def refused(channel: grpc.aio.Channel) -> None:
    """Return once the sidecar takes nothing new."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await HealthStub(channel).Check(HealthCheckRequest())


async def ready(channel: grpc.aio.Channel) -> Any:
    """A watch on readiness, once the sidecar is ready."""
    watch = HealthStub(channel).Watch(HealthCheckRequest(service="readiness"))
    async with asyncio.timeout(DEADLINE_S):
        while (await watch.read()).status != HealthCheckResponse.SERVING:
            pass
    return watch


# --- Listening ----------------------------------------------------------------------------------


async def test_it_is_ready_once_it_listens(start: Start) -> None:
    sidecar = await start()
    assert sidecar.components.snapshot()[COMPONENT] == (True, sidecar.address)
    async with envoy(sidecar.address) as channel:
        watch = await ready(channel)
        watch.cancel()


async def test_until_every_component_is_ready_it_says_so(decider: FakeDecider) -> None:
    sidecar = Sidecar(decider, Options(address="127.0.0.1:0", max_body_bytes=MIB))
    sidecar.components.report("encoder", ready=False)
    address = await sidecar.server.start()  # and no more: the first answer must be right already
    async with envoy(address) as channel:
        answer = await HealthStub(channel).Check(HealthCheckRequest())
        assert answer.status == HealthCheckResponse.NOT_SERVING
    sidecar.stop.set()
    await sidecar.server.run(sidecar.stop)


async def test_it_serves_over_a_unix_socket(start: Start, tmp_path: Path) -> None:
    sidecar = await start(f"unix:{tmp_path}/extproc.sock")
    assert sidecar.address == f"unix:{tmp_path}/extproc.sock"
    async with envoy(sidecar.address) as channel:
        response = await Stream(channel).exchange(ask())
        assert response is not None
        assert response.request_body.response.clear_route_cache


async def test_two_servers_cannot_share_an_address(start: Start) -> None:
    sidecar = await start()
    with pytest.raises(OperatorError, match=f"cannot listen on {sidecar.address}: Address already in use"):
        await start(sidecar.address)


async def test_a_server_that_cannot_listen_is_not_ready(decider: FakeDecider) -> None:
    sidecar = Sidecar(decider, Options(address="nowhere", max_body_bytes=MIB))
    with pytest.raises(OperatorError):
        await sidecar.start()
    assert not sidecar.components.ready


# --- Sizes --------------------------------------------------------------------------------------


async def test_a_body_of_5_megabytes_is_routed(start: Start) -> None:
    sidecar = await start(max_body_bytes=16 * MIB)
    body = ask(b"x" * 5_000_000)
    async with envoy(sidecar.address) as channel:
        response = await Stream(channel).exchange(body)
    assert response is not None
    assert response.request_body.response.body_mutation.body == body.replace(b"auto", b"qwen-coder")


async def test_a_body_as_large_as_envoy_lets_through_is_routed(start: Start) -> None:
    sidecar = await start(max_body_bytes=MIB)
    body = ask(b"x" * (MIB - len(ask(b""))))
    assert len(body) == MIB
    async with envoy(sidecar.address) as channel:
        response = await Stream(channel).exchange(body)
    assert response is not None
    assert response.request_body.response.clear_route_cache


async def test_a_message_far_beyond_that_is_refused_before_it_is_read(
    start: Start, decider: FakeDecider
) -> None:
    sidecar = await start(max_body_bytes=8 * MIB)
    async with envoy(sidecar.address) as channel:
        stream = Stream(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.exchange(ask(b"x" * 9 * MIB))
        assert await stream.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not decider.asked


# --- Draining -----------------------------------------------------------------------------------


async def test_an_exchange_in_flight_finishes_and_a_new_one_is_refused(
    start: Start, decider: FakeDecider
) -> None:
    sidecar = await start()
    async with envoy(sidecar.address) as channel, envoy(sidecar.address) as later:
        stream = await deciding(channel, decider)
        sidecar.stop.set()
        await refused(later)
        assert not sidecar.run.done()
        decider.gate.set()
        response = await stream.receive()
        assert response is not None
        assert response.request_body.response.clear_route_cache
        assert await stream.ended_well()
        await sidecar.stopped()


async def test_it_is_unready_before_it_refuses(decider: FakeDecider) -> None:
    sidecar = Sidecar(decider, Options(address="127.0.0.1:0", max_body_bytes=MIB, notice_s=60.0))
    await sidecar.start()
    async with envoy(sidecar.address) as channel:
        watch = await ready(channel)
        sidecar.stop.set()
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        assert sidecar.components.snapshot()["draining"] == (False, "shutting down")
        response = await Stream(channel).exchange(ask())
        assert response is not None
        assert response.request_body.response.clear_route_cache
        watch.cancel()
    await sidecar.close()


async def test_streams_that_never_end_do_not_hold_it_up(start: Start) -> None:
    sidecar = await start(grace_s=3600.0)
    async with envoy(sidecar.address) as channel:
        log: Any = channel.stream_unary(STREAM_ACCESS_LOGS)()
        await log.write(StreamAccessLogsMessage().SerializeToString())
        watch = HealthStub(channel).Watch(HealthCheckRequest(service=""))
        await watch.read()
        sidecar.stop.set()
        await sidecar.stopped()
        assert await log.code() is not grpc.StatusCode.OK


async def test_an_exchange_that_outlasts_the_grace_is_cut_off(start: Start, decider: FakeDecider) -> None:
    sidecar = await start(grace_s=0.05)
    async with envoy(sidecar.address) as channel:
        stream = await deciding(channel, decider)
        sidecar.stop.set()
        await sidecar.stopped()
        assert await stream.call.code() is not grpc.StatusCode.OK


async def test_a_server_that_is_cancelled_stops_at_once(start: Start, decider: FakeDecider) -> None:
    sidecar = await start(grace_s=3600.0)
    async with envoy(sidecar.address) as channel:
        stream = await deciding(channel, decider)
        sidecar.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sidecar.run, DEADLINE_S)
        assert await stream.call.code() is not grpc.StatusCode.OK


async def test_nothing_is_left_afterwards(start: Start) -> None:
    sidecar = await start()
    sidecar.stop.set()
    await sidecar.stopped()
    await sidecar.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (await start(sidecar.address)).address == sidecar.address
