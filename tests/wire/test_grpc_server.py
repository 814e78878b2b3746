"""The server's life: it listens, serves what it promises, and drains."""

import asyncio
import contextlib
import grp
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
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
from extproc.wire.grpc_server import COMPONENT, Options, Server, bind
from extproc.wire.socket_files import Access, access_of
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


@pytest.fixture
async def server() -> grpc.aio.Server:
    return grpc.aio.server(options=[("grpc.so_reuseport", 0)])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that something else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "extproc.sock"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_port_0_is_a_free_one_and_is_told(server: grpc.aio.Server, host: str) -> None:
    bound_host, _, port = bind(server, f"{host}:0").rpartition(":")
    assert bound_host == host
    assert int(port) > 0


def test_a_port_is_free_again_while_old_connections_are_still_closing(server: grpc.aio.Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        address = before.getsockname()
        client = socket.create_connection(address)
        connection, _ = before.accept()
        connection.close()  # the side that closes first keeps the port in TIME_WAIT
        client.close()
    assert bind(server, f"127.0.0.1:{address[1]}") == f"127.0.0.1:{address[1]}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_told_with_what_to_do(server: grpc.aio.Server, taken: int, host: str) -> None:
    with pytest.raises(OperatorError, match=rf"{host}:{taken}: Address already in use; stop what uses it"):
        bind(server, f"{host}:{taken}")


def resolve_to(*hosts: str) -> Callable[..., list[Any]]:
    """A resolver that finds ``hosts`` for any name."""

    def getaddrinfo(_: str, port: int, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)) for host in hosts]

    return getaddrinfo


def test_a_name_with_two_addresses_is_taken_when_one_is(
    server: grpc.aio.Server, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("127.0.0.2", "127.0.0.1"))
    with pytest.raises(OperatorError, match="Address already in use"):
        bind(server, f"localhost:{taken}")


def test_a_name_may_have_an_address_that_this_machine_cannot_use(
    server: grpc.aio.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("192.0.2.1", "127.0.0.1"))
    assert bind(server, "localhost:0") != "localhost:0"


@pytest.mark.parametrize(
    "address", ["", "50051", ":50051", "localhost", "localhost:", "localhost:http", "127.0.0.1:65536"]
)
def test_a_malformed_address_is_told_with_what_it_must_be(server: grpc.aio.Server, address: str) -> None:
    with pytest.raises(OperatorError, match="it must be HOST:PORT"):
        bind(server, address)


def test_an_address_of_another_machine_is_told(server: grpc.aio.Server) -> None:
    with pytest.raises(OperatorError, match=r"192\.0\.2\.1:50051: Cannot assign requested address"):
        bind(server, "192.0.2.1:50051")


def test_a_free_path_is_bound(server: grpc.aio.Server, path: Path) -> None:
    assert bind(server, f"unix:{path}") == f"unix:{path}"
    assert path.is_socket()


def test_a_path_that_another_process_listens_on_is_left_to_it(server: grpc.aio.Server, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(OperatorError, match="Address already in use; stop what uses it"):
            bind(server, f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            assert client.connect_ex(str(path)) == 0


def test_a_listener_too_busy_to_answer_is_a_listener(server: grpc.aio.Server, path: Path) -> None:
    with ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(str(path))
        with pytest.raises(OperatorError, match="Address already in use"):
            bind(server, f"unix:{path}")


def test_what_a_killed_process_left_behind_is_replaced(server: grpc.aio.Server, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert bind(server, f"unix:{path}") == f"unix:{path}"


def test_a_file_in_the_place_of_the_socket_is_left_alone(server: grpc.aio.Server, path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(OperatorError, match="a file that is not a socket"):
        bind(server, f"unix:{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("umask", [0o000, 0o027])
def test_a_socket_and_its_directory_are_the_owners_alone_whatever_the_umask(
    server: grpc.aio.Server, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        bind(server, f"unix:{tmp_path}/run/extproc.sock")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert mode(tmp_path / "run") == 0o700
    assert mode(tmp_path / "run/extproc.sock") == 0o600


def test_a_group_that_is_named_may_reach_the_socket_too(server: grpc.aio.Server, tmp_path: Path) -> None:
    group = os.getgid()
    bind(server, f"unix:{tmp_path}/run/extproc.sock", access_of(group))
    assert mode(tmp_path / "run") == 0o2770
    assert mode(tmp_path / "run/extproc.sock") == 0o660
    assert (tmp_path / "run/extproc.sock").stat().st_gid == group


@pytest.mark.parametrize("weak", [0o777, 0o1777, 0o770])
def test_a_directory_where_others_could_replace_the_socket_is_refused(
    server: grpc.aio.Server, tmp_path: Path, weak: int
) -> None:
    tmp_path.chmod(weak)
    with pytest.raises(OperatorError, match=rf"{tmp_path} can be written to by others \(mode {weak:04o}\)"):
        bind(server, f"unix:{tmp_path}/extproc.sock")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_another_user_is_refused(
    server: grpc.aio.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path.stat().st_uid or 12345
    if os.geteuid() == 0:
        os.chown(tmp_path, theirs, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: theirs + 1)
    with pytest.raises(OperatorError, match=f"{tmp_path} belongs to user {theirs}"):
        bind(server, f"unix:{tmp_path}/extproc.sock")


def test_a_subdirectory_of_a_volume_that_is_open_to_everybody_is_good(
    server: grpc.aio.Server, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    bind(server, f"unix:{tmp_path}/router/extproc.sock")
    assert mode(tmp_path / "router") == 0o700


def test_a_directory_that_cannot_be_made_is_reported(server: grpc.aio.Server, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OperatorError, match=r"cannot create .*/run/router for the socket: "):
        bind(server, f"unix:{tmp_path}/run/router/extproc.sock")


def test_a_group_is_known_by_name_or_number() -> None:
    assert access_of("") == Access()
    assert access_of(7) == access_of("7") == Access(7)
    assert access_of(grp.getgrgid(0).gr_name) == Access(0)
    with pytest.raises(OperatorError, match=r"envoy\.socket_group: there is no group 'nobody-has-this'"):
        access_of("nobody-has-this")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_path_too_long_for_a_socket_is_told(server: grpc.aio.Server, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="too long"):
        bind(server, f"unix:{tmp_path}/{'x' * 120}")
