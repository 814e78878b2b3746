import gc
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from extproc.errors import OperatorError
from extproc.telemetry.admin_server import AdminServer


class Components:
    def __init__(self) -> None:
        self.state = {"registry": (True, "version v1"), "encoder": (True, "cpu")}

    def snapshot(self) -> Mapping[str, tuple[bool, str]]:
        return self.state


@pytest.fixture
def health() -> Components:
    return Components()


@pytest.fixture
def server(health: Components) -> Iterator[AdminServer]:
    made = serve(health)
    yield made
    made.close()


def serve(health: Components, host: str = "127.0.0.1", port: int = 0) -> AdminServer:
    return AdminServer(host, port, metrics=lambda: b"up 1\n", health=health, registry_version=lambda: "v1")


def ask(
    server: AdminServer, path: str, method: str = "GET", host: str = "127.0.0.1"
) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection(host, server.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type"), answer.read()
    finally:
        connection.close()


def test_metrics_are_the_page_in_the_text_format(server: AdminServer) -> None:
    assert ask(server, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"up 1\n")
    assert ask(server, "/metrics?name[]=up")[0] == 200


def test_the_process_is_alive_though_nothing_is_ready(server: AdminServer, health: Components) -> None:
    health.state = {"encoder": (False, "loading")}
    assert ask(server, "/healthz")[0] == 200


def test_readiness_is_the_conjunction_of_the_components(server: AdminServer, health: Components) -> None:
    status, kind, body = ask(server, "/readyz")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {
        "ready": True,
        "registry_version": "v1",
        "components": {
            "registry": {"ready": True, "detail": "version v1"},
            "encoder": {"ready": True, "detail": "cpu"},
        },
    }
    health.state = {"registry": (True, "version v1"), "encoder": (False, "loading")}
    status, _, body = ask(server, "/readyz")
    assert status == 503
    assert json.loads(body)["ready"] is False
    assert json.loads(body)["components"]["encoder"] == {"ready": False, "detail": "loading"}


def test_the_index_names_the_pages(server: AdminServer) -> None:
    status, _, body = ask(server, "/")
    assert (status, body) == (200, b"/metrics\n/healthz\n/readyz\n")


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/../etc/passwd", "*"])
def test_any_other_path_is_a_404_in_json(server: AdminServer, path: str) -> None:
    status, kind, body = ask(server, path)
    assert (status, kind) == (404, "application/json")
    assert "/metrics" in json.loads(body)["error"]


def test_head_is_answered_without_a_body(server: AdminServer) -> None:
    assert ask(server, "/healthz", "HEAD") == (200, "text/plain; charset=utf-8", b"")


def test_other_methods_are_refused_in_json(server: AdminServer) -> None:
    status, kind, body = ask(server, "/metrics", "POST")
    assert (status, kind) == (501, "application/json")
    assert "error" in json.loads(body)


def test_a_page_that_fails_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("a defect")

    server = AdminServer("127.0.0.1", 0, metrics=broken, health=Components(), registry_version=lambda: "v1")
    with caplog.at_level(logging.ERROR):
        status, kind, _ = ask(server, "/metrics")
    assert (status, kind) == (500, "application/json")
    assert ask(server, "/healthz")[0] == 200
    assert caplog.messages == ["an admin page failed"]
    server.close()


def test_a_taken_port_is_an_operators_error(server: AdminServer, health: Components) -> None:
    with pytest.raises(
        OperatorError, match=rf"127\.0\.0\.1:{server.port}: Address already in use; .*another"
    ):
        serve(health, port=server.port)


def test_an_address_of_another_machine_is_an_operators_error(health: Components) -> None:
    with pytest.raises(OperatorError, match=r"192\.0\.2\.1:9902: Cannot assign"):
        serve(health, host="192.0.2.1", port=9902)


def test_closing_leaves_no_thread_and_no_port_though_a_client_keeps_its_connection(
    health: Components,
) -> None:
    before = threading.active_count()
    server = serve(health)
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        ask(server, "/healthz")  # by now the idle connection has been accepted too
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 9  # it would time out after 10
        assert idle.recv(1) == b""
    assert threading.active_count() == before
    serve(health, port=server.port).close()


def test_connections_that_ended_are_forgotten(server: AdminServer) -> None:
    def sockets() -> int:
        return sum(isinstance(thing, socket.socket) for thing in gc.get_objects())

    ask(server, "/healthz")
    before = sockets()
    for _ in range(50):
        ask(server, "/healthz")
    assert sockets() < before + 25


def test_a_client_that_leaves_before_its_answer_is_no_news(
    server: AdminServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
                )  # close by reset
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ask(server, "/healthz")[0] == 200
    assert caplog.messages == []


def test_a_malformed_request_is_refused(server: AdminServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/nonsense\r\n\r\n")
        assert b'{"error":' in client.recv(4096)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_it_listens_on_an_ipv6_address(health: Components) -> None:
    server = serve(health, host="::1")
    assert ask(server, "/healthz", host="::1")[0] == 200
    server.close()
