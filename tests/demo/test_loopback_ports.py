import socket
from collections.abc import Iterator

import pytest

from extproc.demo import loopback_ports
from extproc.demo.loopback_ports import Claim
from extproc.errors import OperatorError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((loopback_ports.HOST, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_comes_from_its_variable_else_from_the_default() -> None:
    assert loopback_ports.from_environment({"PORT": "8080"}, "PORT", 10000) == 8080
    assert loopback_ports.from_environment({}, "PORT", 10000) == 10000
    assert loopback_ports.from_environment({"PORT": ""}, "PORT", 10000) == 10000


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "80 80", "١٢"])
def test_what_is_no_port_is_refused_by_the_variables_name(text: str) -> None:
    with pytest.raises(OperatorError, match=f"^PORT={text} is not a port"):
        loopback_ports.from_environment({"PORT": text}, "PORT", 10000)


def test_free_ports_pass_the_check_and_are_distinct() -> None:
    chosen = loopback_ports.free(5)
    assert len(set(chosen)) == 5
    loopback_ports.check([Claim(port, "someone", "choose another") for port in chosen])


def test_every_taken_port_is_named_with_its_remedy(taken: int) -> None:
    [free] = loopback_ports.free(1)
    with pytest.raises(OperatorError) as error:
        loopback_ports.check(
            [
                Claim(taken, "Envoy", "set PORT"),
                Claim(free, "the sidecar", "set ADMIN_PORT"),
            ]
        )
    assert str(error.value) == f"port {taken} for Envoy is taken: set PORT"


def test_a_listener_on_every_address_takes_the_port_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OperatorError, match="is taken"):
            loopback_ports.check([Claim(port, "Envoy", "set PORT")])


def test_a_listener_that_would_share_its_port_still_takes_it() -> None:
    with socket.create_server((loopback_ports.HOST, 0), reuse_port=True) as server:
        port = server.getsockname()[1]
        with pytest.raises(OperatorError, match="is taken"):
            loopback_ports.check([Claim(port, "Envoy", "set PORT")])


def test_a_port_that_is_set_twice_is_an_error() -> None:
    [port] = loopback_ports.free(1)
    with pytest.raises(
        OperatorError, match=f"^port {port} is set for Envoy and the sidecar: set ADMIN_PORT$"
    ):
        loopback_ports.check([Claim(port, "Envoy", "set PORT"), Claim(port, "the sidecar", "set ADMIN_PORT")])


def test_a_connection_that_lingers_after_a_restart_does_not_count() -> None:
    with socket.create_server((loopback_ports.HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((loopback_ports.HOST, port)):
            accepted, _ = server.accept()
            accepted.close()  # closing first leaves our side in TIME_WAIT
    loopback_ports.check([Claim(port, "Envoy", "set PORT")])
