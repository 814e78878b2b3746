"""A local server that answers as an LLM does, by a rule of the test: figures with it are of plumbing only."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """What the server sends."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    silent: bool = False  # until the test is over


class RuleServer:
    """Its ``journal`` has the headers and the body of each request."""

    def __init__(self, rule: Callable[[str], Reply]) -> None:
        self.rule = rule
        self.over = Event()
        self.journal: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.journal.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                reply = outer.rule(json.loads(body["messages"][1]["content"])["text"])
                if reply.silent:
                    outer.over.wait(60)
                    return
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *args: Any) -> None:
                """The test's output is not for it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["RuleServer"]:
        """It, while it listens."""
        thread = Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def says(route: str, why: str = "by rule", *, usage: bool = True) -> Reply:
    """A completion that names ``route``, with 100 input and 10 output tokens."""
    content = json.dumps({"route": route, "why": why})
    tokens = {"usage": {"prompt_tokens": 100, "completion_tokens": 10}} if usage else {}
    return Reply(json.dumps({"choices": [{"message": {"content": content}}], **tokens}).encode())
