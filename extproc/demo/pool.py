"""The fake model pool: OpenAI-compatible servers, one a model, that are strict and keep a journal.

Strict, so that a test may trust an answer: a model name that is not the server's own is a 404
(``auto`` must never reach a provider), another provider's key is a 401.

    async with Pool({"small": FakeModel("demo-small", key="k1"), "large": FakeModel("demo-large")}) as pool:
        ...                                        # send requests to pool["small"].url
        pool["large"].behaviour = Behaviour(status=503)
        assert pool["small"].journal[-1].key == "k1"
"""

import asyncio
import socket
import struct
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from extproc.demo import completions
from extproc.demo.behaviour import Behaviour, gzipped, rechunk
from extproc.demo.completions import ApiError, ChatBody, Identity
from extproc.errors import OperatorError

# As much as the largest body the router may be configured to pass on.
_MAX_BODY_BYTES = 256 * 1024 * 1024
# Seconds that open requests have to end when the pool stops: their clients are gone by then.
_SHUTDOWN_S = 0.1

_INJECTED: dict[int, tuple[str, str, str | None]] = {
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}
_SERVER_ERROR = (
    "The server had an error while processing your request. Sorry about that!",
    "server_error",
    None,
)


class Received(msgspec.Struct, frozen=True):
    """One request as a fake model got it, whether or not it was answered."""

    method: str
    path: str  # with its query string, undecoded
    headers: Mapping[str, str]  # names in lower case; values of a repeated name joined by ", "
    body: bytes
    model: str  # named in the body; empty when it names none
    key: str  # the bearer token; empty without one


class FakeModel:
    """One model behind one port. ``behaviour`` may be replaced at any time, for later requests.

    ``port`` 0 lets the system choose; it is known once the pool has started. ``keep`` bounds the
    journal to the latest requests (None: all of them). An empty ``key`` accepts any client.
    """

    def __init__(
        self,
        name: str,
        *,
        key: str = "",
        port: int = 0,
        host: str = "127.0.0.1",
        behaviour: Behaviour | None = None,
        keep: int | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.host = host
        self.port = port
        self.behaviour = behaviour or Behaviour()
        self.journal: deque[Received] = deque(maxlen=keep)
        self._started = int(time.time())

    @property
    def url(self) -> str:
        """The server's origin: what a registry calls ``base_url``."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> web.AppRunner:
        """Listens, and returns the runner that stops it. Raises OperatorError when the port is taken."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # handler_cancellation: a slow answer ends when its client goes away, as in a real server.
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"fake model {self.name} cannot listen on {self.url}: {error.strerror}"
            ) from error
        self.port = runner.addresses[0][1]
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        received = _received(request, body)
        self.journal.append(received)
        try:
            self._authorize(received.key)
            match request.method, request.path:
                case "GET", "/v1/models":
                    return _json(200, {"object": "list", "data": [self._card()]})
                case "POST", "/v1/chat/completions":
                    return await self._complete(request, completions.parse(body))
                case _, "/v1/models" | "/v1/chat/completions":
                    raise ApiError(405, f"Not allowed to {request.method} on {request.path}.")
            raise ApiError(404, f"Unknown request URL: {request.method} {request.path}.", code="unknown_url")
        except ApiError as error:
            return _json(error.status, error.body)

    def _authorize(self, key: str) -> None:
        if not self.key or key == self.key:
            return
        if not key:
            raise ApiError(401, "You didn't provide an API key.")
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._started, "owned_by": "demo"}

    async def _complete(self, http: web.Request, chat: ChatBody) -> web.StreamResponse:
        if chat.model != self.name:
            raise ApiError(
                404,
                f"The model `{chat.model}` does not exist or you do not have access to it.",
                code="model_not_found",
            )
        behaviour = self.behaviour
        await _pause(behaviour.delay_before_headers_s)
        if behaviour.status != 200:
            message, kind, code = _INJECTED.get(behaviour.status, _SERVER_ERROR)
            raise ApiError(behaviour.status, message, kind=kind, code=code)
        return await _send(http, behaviour, bool(chat.stream), self._body(chat, behaviour))

    def _body(self, chat: ChatBody, behaviour: Behaviour) -> list[bytes]:
        """The answer's body: one piece for JSON, one an event for SSE."""
        identity = Identity(f"chatcmpl-{uuid.uuid4().hex[:29]}", int(time.time()), self.name)
        answer = completions.reply(chat)
        if not chat.stream:
            document = completions.completion(identity, answer, with_usage=not behaviour.omit_usage)
            return [msgspec.json.encode(document)]
        asked = chat.stream_options is not None and chat.stream_options.include_usage
        events = completions.chunks(identity, answer, with_usage=asked and not behaviour.omit_usage)
        return [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


class Pool(Mapping[str, FakeModel]):
    """Fake models by their public names in a registry, running while the ``async with`` block lasts."""

    def __init__(self, models: Mapping[str, FakeModel]) -> None:
        self._models = dict(models)
        self._running = AsyncExitStack()

    def __getitem__(self, name: str) -> FakeModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    async def __aenter__(self) -> Self:
        """Raises OperatorError when a model's port is taken; those already started are stopped."""
        async with AsyncExitStack() as starting:
            for model in self.values():
                runner = await model.start()
                starting.push_async_callback(runner.cleanup)
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()


def _received(request: web.Request, body: bytes) -> Received:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else ""
    return Received(request.method, request.raw_path, headers, body, _model_in(body), key)


def _model_in(body: bytes) -> str:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # the journal keeps the bytes; the answer will say what is wrong with them
    model = document.get("model") if isinstance(document, dict) else None
    return model if isinstance(model, str) else ""


def _json(status: int, document: object) -> web.Response:
    headers = {"x-request-id": _request_id()}
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json", headers=headers
    )


def _request_id() -> str:
    """Providers name their answers too; a proxy in front must not confuse that name with its own."""
    return f"req_{uuid.uuid4().hex}"


async def _send(
    http: web.Request, behaviour: Behaviour, stream: bool, pieces: Iterable[bytes]
) -> web.StreamResponse:
    """Writes the answer as ``behaviour`` asks."""
    headers = {
        "content-type": "text/event-stream; charset=utf-8" if stream else "application/json",
        "x-request-id": _request_id(),
    }
    if behaviour.gzip and "gzip" in http.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        pieces = gzipped(pieces)
    writes = list(rechunk(pieces, behaviour.write_sizes))
    response = web.StreamResponse(headers=headers)
    if not stream:
        response.content_length = sum(map(len, writes))
    if behaviour.early_headers:
        await response.prepare(http)
    await _pause(behaviour.delay_before_body_s)
    for number, piece in enumerate(writes):
        if number == behaviour.reset_after_writes:
            _reset(http)
            return response
        if number:
            await _pause(behaviour.delay_between_writes_s)
        await response.prepare(http)  # sends the headers, once
        await response.write(piece)
    await response.write_eof()
    return response


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _reset(http: web.Request) -> None:
    """Ends the connection with a TCP RST, as a crashed server does."""
    transport = http.transport
    if transport is None:
        return  # the client was quicker
    linger_0 = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
    transport.abort()
