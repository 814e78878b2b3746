"""Where the server can listen, and what the operator is told where it cannot."""

import grp
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from extproc.errors import OperatorError
from extproc.wire.grpc_binding import bind
from extproc.wire.socket_files import Access, access_of


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
    with pytest.raises(OperatorError, match="a file that is no socket"):
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
    with pytest.raises(OperatorError, match=r"cannot make .*/run/router for the socket: "):
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
