"""The admin page: metrics, liveness and readiness over HTTP, on a port of its own.

It runs on its own threads, so that it answers while the event loop is busy. It gets what it shows as
callables.
"""

import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Protocol

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from extproc.errors import OperatorError

log = logging.getLogger(__name__)

_CONNECTION_TIMEOUT_S = 10.0
_CLOSE_POLL_S = 0.1  # how long close may wait; the standard library polls
_JSON = "application/json"


class HealthSource(Protocol):
    """The named components of the process, each with its state."""

    def snapshot(self) -> Mapping[str, tuple[bool, str]]:
        """Component name to (ready, detail)."""
        ...


class AdminResponse(msgspec.Struct, frozen=True):
    """One HTTP answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


class AdminServer:
    """Serves ``/metrics``, ``/healthz``, ``/readyz`` and an index from construction until ``close``."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[], bytes],
        health: HealthSource,
        registry_version: Callable[[], str],
    ) -> None:
        """Bind and start. ``port`` 0 takes a free one. Raises ``OperatorError`` if it cannot be bound."""
        pages = Pages(metrics, health, registry_version)
        try:
            self._server = _Server(host, port, partial(_Handler, pages))
        except OSError as error:
            raise OperatorError(_cannot_bind(host, port, error)) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_CLOSE_POLL_S,), name="admin", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._server.server_port

    def close(self) -> None:
        """Stop, cutting connections that are open; returns when no thread is left."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut_connections()
        self._server.server_close()


class Pages:
    """The page at each path."""

    def __init__(
        self, metrics: Callable[[], bytes], health: HealthSource, registry_version: Callable[[], str]
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._registry_version = registry_version
        self._by_path = {
            "/": self._index,
            "/metrics": self._show_metrics,
            "/healthz": self._alive,
            "/readyz": self._ready,
        }

    def answer(self, path: str) -> AdminResponse:
        """The answer to GET ``path``; a page that raises is a 500, and its traceback is logged."""
        page = self._by_path.get(path.partition("?")[0])
        if page is None:
            return refusal(HTTPStatus.NOT_FOUND, f"no such page; expected one of {', '.join(self._by_path)}")
        try:
            return page()
        except Exception:
            log.exception("an admin page failed")
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the page failed; see the log")

    def _index(self) -> AdminResponse:
        return _text("".join(f"{path}\n" for path in self._by_path if path != "/").encode())

    def _show_metrics(self) -> AdminResponse:
        return AdminResponse(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, self._metrics())

    def _alive(self) -> AdminResponse:
        return _text(b"ok\n")

    def _ready(self) -> AdminResponse:
        components = self._health.snapshot()
        ready = all(is_ready for is_ready, _ in components.values())
        return _json(
            HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
            {
                "ready": ready,
                "registry_version": self._registry_version(),
                "components": {
                    name: {"ready": is_ready, "detail": detail}
                    for name, (is_ready, detail) in components.items()
                },
            },
        )


def refusal(status: HTTPStatus, message: str) -> AdminResponse:
    """An error as JSON."""
    return _json(status, {"error": message})


def _text(body: bytes) -> AdminResponse:
    return AdminResponse(HTTPStatus.OK, "text/plain; charset=utf-8", body)


def _json(status: HTTPStatus, value: Mapping[str, Any]) -> AdminResponse:
    return AdminResponse(status, _JSON, msgspec.json.encode(value) + b"\n")


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request (HTTP/1.0), so no idle connection holds a thread."""

    timeout = _CONNECTION_TIMEOUT_S
    server_version = "extproc"
    sys_version = ""

    def __init__(self, pages: Pages, *connection: Any) -> None:
        self._pages = pages
        super().__init__(*connection)  # which reads the request and answers it

    def do_GET(self) -> None:
        self._send(self._pages.answer(self.path))

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers requests that the base class rejects (malformed, other methods) as JSON, too."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(refusal(status, message or status.phrase))

    def log_message(self, template: str, *args: object) -> None:
        """Logs at level debug, because probes and scrapes come every few seconds."""
        log.debug("admin request", extra={"client": self.client_address[0], "request": template % args})

    def _send(self, answer: AdminResponse) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


class _Server(ThreadingHTTPServer):
    """A threading server that can be closed while clients hold connections open."""

    daemon_threads = False  # so that server_close waits for them

    def __init__(self, host: str, port: int, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._connections: set[socket.socket] = set()
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """As the base class, without its reverse DNS lookup, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log all errors but that of a client that disconnected in the middle of its answer."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        log.log(level, "an admin connection failed", exc_info=True)

    def cut_connections(self) -> None:
        """End every open connection, so that the threads that serve them end."""
        for connection in self._connections.copy():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("an admin connection had ended", extra={"error": error.strerror})


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    problem = f"the admin page cannot be served on {host}:{port}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EADDRINUSE:
        return f"{problem}; stop what uses that port or choose another for the admin page"
    return problem
