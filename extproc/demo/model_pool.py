"""The pool of fake models: one server per model that supports the LLM APIs and keeps a journal of requests.

The servers are strict, so that a test can trust an answer. Another model's name is a 404 (``auto`` must never
reach a provider), another provider's key is a 401, an API that the model does not support is a 404, and a
body or header that the real API rejects is rejected.

    async with Pool({"small": FakeModel("demo-small", key="k1"), "large": FakeModel("demo-large")}) as pool:
        ...                                        # send requests to pool["small"].url
        pool["large"].behaviour = Behaviour(status=503)
        assert pool["small"].journal[-1].key == "k1"
"""

import asyncio
import itertools
import socket
import struct
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from extproc.demo.fake_answers import ApiError, Ask, Identity, reply
from extproc.demo.fake_apis import (
    FakeApi,
    ProviderConventions,
    api_at,
    carries_usage,
    conventions_at,
    failure,
)
from extproc.errors import OperatorError
from extproc.vocabulary import Api

# As much as the largest body the router may be configured to pass on.
_MAX_BODY_BYTES = 256 * 1024 * 1024
# Seconds that open requests have to end when the pool stops: their clients are gone by then.
_SHUTDOWN_S = 0.1


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What a fake model does with a *valid* call of any API. By default, it answers at once.

    A request that the real API rejects (wrong key, unknown model, bad JSON) is always rejected, so that an
    injected failure never hides a routing defect.
    """

    status: int = 200  # anything else: the API's error object with that status
    delay_before_headers_s: float = 0.0
    early_headers: bool = False  # send the headers before the body is ready
    delay_before_body_s: float = 0.0  # after the headers, if they are early
    delay_between_writes_s: float = 0.0
    write_sizes: tuple[int, ...] = ()  # body bytes per write, repeated; empty: one write an event
    reset_after_writes: int | None = None  # body writes before a TCP reset; 0: not one byte of the body
    end_after_writes: int | None = None  # body writes before the answer ends without an error
    text: str = ""  # the text of every answer, in place of a made one
    in_prose: bool = False  # ignore the JSON object or schema that the client asks for
    omit_usage: bool = False
    delay_before_usage_s: float = 0.0  # before the last event of a stream with token usage
    gzip: bool = False  # compress if the request accepts it


class Received(msgspec.Struct, frozen=True):
    """One request that a fake model got, answered or not."""

    method: str
    path: str  # with its query string, undecoded
    headers: Mapping[str, str]  # names in lower case; repeated values joined by ", "
    body: bytes
    model: str  # from the body; empty without one
    key: str  # the bearer token, or x-api-key on Anthropic's paths; empty without one


class FakeModel:
    """One model on one port. A new ``behaviour`` may be set at any time and applies to later requests.

    With ``port`` 0, the system chooses the port when the pool starts. ``keep`` is the greatest number of
    requests in the journal (None: no limit). An empty ``key`` accepts any client. ``apis`` are the supported
    APIs.
    """

    def __init__(
        self,
        name: str,
        *,
        key: str = "",
        apis: Iterable[Api] = Api,
        port: int = 0,
        host: str = "127.0.0.1",
        behaviour: Behaviour | None = None,
        keep: int | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.apis = frozenset(apis)
        self.host = host
        self.port = port
        self.behaviour = behaviour or Behaviour()
        self.journal: deque[Received] = deque(maxlen=keep)
        self._started = int(time.time())

    @property
    def url(self) -> str:
        """The server's origin, which is the ``base_url`` in a registry."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> web.AppRunner:
        """Listen. Returns the runner that stops it. Raises OperatorError if the port is taken."""
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
        if request.path == "/health":
            return web.Response()  # as in vLLM: without a key, and not in the journal
        body = await request.read()
        conventions = conventions_at(request.path)
        received = _received(request, body, conventions)
        self.journal.append(received)
        request_id = {conventions.request_id_header: _request_id()}
        try:
            self._authorize(conventions, received.key)
            return await self._answer(request, conventions, received, request_id)
        except ApiError as error:
            document = conventions.error_object(error, *request_id.values())
            return _json(error.status, document, request_id)

    def _authorize(self, conventions: ProviderConventions, key: str) -> None:
        if self.key and key != self.key:
            raise conventions.wrong_key() if key else conventions.no_key()

    async def _answer(
        self,
        http: web.Request,
        conventions: ProviderConventions,
        received: Received,
        request_id: Mapping[str, str],
    ) -> web.StreamResponse:
        found = api_at(http.path)
        if found is not None and found[0] in self.apis:
            if http.method != "POST":
                raise ApiError(405, f"Not allowed to {http.method} on {http.path}.")
            fake_api = found[1]
            ask = fake_api.parse(received.body, received.headers)
            return await self._reply(http, fake_api, ask, request_id)
        if http.path == "/v1/models":
            if http.method != "GET":
                raise ApiError(405, f"Not allowed to {http.method} on {http.path}.")
            return _json(200, {"object": "list", "data": [self._card()]}, request_id)
        raise ApiError(404, f"Unknown request URL: {http.method} {http.path}.", code="unknown_url")

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._started, "owned_by": "demo"}

    async def _reply(
        self, http: web.Request, fake_api: FakeApi, ask: Ask, request_id: Mapping[str, str]
    ) -> web.StreamResponse:
        if ask.model != self.name:
            raise fake_api.conventions.unknown_model(ask.model)
        behaviour = self.behaviour
        await _pause(behaviour.delay_before_headers_s)
        if behaviour.status != 200:
            raise failure(fake_api.conventions, behaviour.status)
        return await _send(http, behaviour, ask.stream, self._pieces(fake_api, ask, behaviour), request_id)

    def _pieces(self, fake_api: FakeApi, ask: Ask, behaviour: Behaviour) -> tuple[list[bytes], list[bytes]]:
        """The answer's body, before and after its usage: one piece for JSON, one piece per event for SSE."""
        identity = Identity(uuid.uuid4().hex, int(time.time()), self.name)
        answer = reply(
            msgspec.structs.replace(ask, schema=None) if behaviour.in_prose else ask, behaviour.text
        )
        with_usage = not behaviour.omit_usage
        if not ask.stream:
            return [msgspec.json.encode(fake_api.document(identity, ask, answer, with_usage=with_usage))], []
        events = list(fake_api.events(identity, ask, answer, with_usage=with_usage and ask.include_usage))
        last = max((number for number, event in enumerate(events) if carries_usage(event)), default=0)
        pieces = [fake_api.event(event) for event in events] + ([fake_api.end] if fake_api.end else [])
        return pieces[:last], pieces[last:]


class Pool(Mapping[str, FakeModel]):
    """Fake models by their public names. They run while the ``async with`` block lasts."""

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
        """Raises OperatorError if a model's port is taken. Models that have started are then stopped."""
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


def _received(request: web.Request, body: bytes, conventions: ProviderConventions) -> Received:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    return Received(
        request.method, request.raw_path, headers, body, _model_in(body), conventions.key(headers)
    )


def _model_in(body: bytes) -> str:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # the answer will report the error, and the journal keeps the bytes
    model = document.get("model") if isinstance(document, dict) else None
    return model if isinstance(model, str) else ""


def _json(status: int, document: object, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json", headers=headers
    )


def _request_id() -> str:
    """The provider's id of an answer. A proxy must not confuse it with its own."""
    return f"req_{uuid.uuid4().hex}"


async def _send(
    http: web.Request,
    behaviour: Behaviour,
    stream: bool,
    pieces: tuple[list[bytes], list[bytes]],
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Write the answer with ``behaviour``."""
    content_type = "text/event-stream; charset=utf-8" if stream else "application/json"
    compress = behaviour.gzip and "gzip" in http.headers.get("accept-encoding", "")
    encoding = {"content-encoding": "gzip"} if compress else {}
    response = web.StreamResponse(headers={"content-type": content_type, **headers, **encoding})
    writes, late = _writes(pieces, behaviour, compress)
    writes = writes[: behaviour.end_after_writes]
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
        if stream and number == late:
            await _pause(behaviour.delay_before_usage_s)
        await response.prepare(http)  # sends the headers, once
        await response.write(piece)
    await response.prepare(http)
    await response.write_eof()
    return response


def _writes(
    pieces: tuple[Sequence[bytes], Sequence[bytes]], behaviour: Behaviour, compress: bool
) -> tuple[list[bytes], int]:
    """The pieces to write, and the number of the first write with token usage.

    Only if usage is delayed, a new piece begins there, so that usage does not come with the piece before it.
    """
    before, after = pieces
    whole = [*before, *after]
    encoded = list(gzipped(whole)) if compress else whole
    late = len(before) if behaviour.delay_before_usage_s else 0
    early = list(rechunk(encoded[:late], behaviour.write_sizes))
    return [*early, *rechunk(encoded[late:], behaviour.write_sizes)], len(early)


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _reset(http: web.Request) -> None:
    """End the connection with a TCP RST, as a crashed server does."""
    transport = http.transport
    if transport is None:
        return  # the client has already left
    linger_0 = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
    transport.abort()


def rechunk(pieces: Iterable[bytes], sizes: tuple[int, ...]) -> Iterator[bytes]:
    """The same bytes in pieces of ``sizes``, repeated. Without sizes, the pieces do not change.

    The last piece may be shorter. Raises ValueError for a size that is not positive.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"sizes must be positive: {sizes}")
    if not sizes:
        yield from pieces
        return
    whole = b"".join(pieces)
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(whole):
            return
        yield whole[start : start + size]
        start += size


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One gzip member, flushed after every piece so that each can be read when it arrives."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        yield compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()
