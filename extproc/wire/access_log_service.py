"""The gRPC service by which Envoy reports the outcome of each request: its access log.

Attempts are joined to their exchange here. Envoy reports both on one stream, since both logs have the same
configuration and a request stays on one of its threads. So each stream has an ``Attempts`` of its own. An
exchange's attempts almost always come before it. A hop whose request was cut off may report a little later,
so an exchange that lacks an attempt is held back for a moment. Only a connection that is lost in between
separates them: each is then recorded by itself, and the store joins them by the request's id.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from msgspec.structs import replace

from extproc._pb.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsResponse
from extproc.exchanges import Attempt, Exchange, ExchangeSink
from extproc.wire import access_log
from extproc.wire.observed_metadata import CHAIN_PREFIXES

# Attempts whose exchange is not over yet, or was never reported: some 2 KiB each.
_KEPT = 16_384


class Attempts:
    """The attempts whose exchange is awaited, and the exchanges that await one."""

    def __init__(self, kept: int = _KEPT) -> None:
        """``kept`` is how many attempts are remembered at most; the oldest are forgotten first."""
        self._kept = kept
        self._waiting: dict[str, tuple[Attempt, ...]] = {}
        self._count = 0
        self._held: dict[str, Exchange] = {}

    @property
    def held(self) -> frozenset[str]:
        """The requests whose exchanges lack an attempt, until they are complete or released."""
        return frozenset(self._held)

    def join(self, entries: Iterable[Exchange | Attempt]) -> Iterator[Exchange | Attempt]:
        """The entries of one message, attempts first; exchanges with what was tried for them."""
        exchanges = []
        for entry in entries:
            if isinstance(entry, Attempt):
                self._remember(entry)
                yield entry
            else:
                exchanges.append(entry)
        for exchange in exchanges:
            if self._is_complete(exchange):
                yield self._with_attempts(exchange)
            else:
                self._held[exchange.request_id] = exchange
        yield from self.release([key for key, held in self._held.items() if self._is_complete(held)])

    def release(self, request_ids: Iterable[str]) -> Iterator[Exchange]:
        """Those exchanges that are still held, as complete as they are."""
        for request_id in request_ids:
            exchange = self._held.pop(request_id, None)
            if exchange is not None:
                yield self._with_attempts(exchange)

    def _is_complete(self, exchange: Exchange) -> bool:
        if not exchange.cluster.startswith(CHAIN_PREFIXES):
            return True
        return len(self._waiting.get(exchange.request_id, ())) >= exchange.attempts

    def _remember(self, attempt: Attempt) -> None:
        request_id = attempt.call.request_id
        self._waiting[request_id] = (*self._waiting.pop(request_id, ()), attempt)
        self._count += 1
        while self._count > self._kept:
            self._count -= len(self._waiting.pop(next(iter(self._waiting))))

    def _with_attempts(self, exchange: Exchange) -> Exchange:
        tried = self._waiting.pop(exchange.request_id, ())
        self._count -= len(tried)
        return replace(exchange, tried=tuple(sorted(tried, key=lambda each: each.number)))


log = logging.getLogger(__name__)

ACCESS_LOG_SERVICE = "envoy.service.accesslog.v3.AccessLogService"

_AT_ONCE = 16  # exchanges: a few milliseconds
# Envoy sends an attempt that was cut off at the latest with the flush after its exchange's.
_ATTEMPTS_LATE_S = 1.0

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF
_Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class AccessLog:
    """Gives every finished exchange that Envoy reports to a sink, and every attempt of its hops.

    Each of Envoy's threads keeps one such stream open for as long as it runs, and never waits for a response.
    """

    def __init__(self, sink: ExchangeSink, *, count_failure: Callable[[str], None]) -> None:
        """``count_failure`` is called with ``access_log`` for each entry that is lost.

        A message that cannot be decoded counts once, because the number of its entries is unknown.
        """
        self._sink = sink
        self._count_failure = count_failure

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio`` server registers."""
        method: _Method = grpc.stream_unary_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(ACCESS_LOG_SERVICE, {"StreamAccessLogs": method})

    async def _stream(self, _: object, context: _Context) -> bytes:
        stream = _LogStream(self._sink, self._count_failure)
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                await stream.take(data)
        finally:
            stream.end()
        return StreamAccessLogsResponse().SerializeToString()


class _LogStream:
    """One access log stream. Its exchanges and attempts wait here for each other."""

    def __init__(self, sink: ExchangeSink, count_failure: Callable[[str], None]) -> None:
        self._sink = sink
        self._count_failure = count_failure
        self._attempts = Attempts()
        self._logged = False  # one traceback a message: a message may hold thousands of entries

    async def take(self, data: bytes) -> None:
        """Give the entries of one message to the sink, a few at a time, so that decisions need not wait."""
        self._logged = False
        try:
            entries = access_log.finished(data)
        except DecodeError:
            self._lose("message")
            return
        before = self._attempts.held
        try:
            while self._take_some(entries):  # noqa: ASYNC110 - lets other tasks run
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            while self._take_some(entries):
                pass  # the server stops; what it received is still recorded
            raise
        late = self._attempts.held - before
        if late:
            asyncio.get_running_loop().call_later(_ATTEMPTS_LATE_S, self._release, late)

    def end(self) -> None:
        """Pass on the exchanges that still wait for attempts, because no more attempts will come."""
        self._release(self._attempts.held)

    def _take_some(self, entries: Iterator[HTTPAccessLogEntry]) -> bool:
        """Give some entries to the sink. Returns whether there may be more."""
        some = list(islice(entries, _AT_ONCE))
        self._pass_on(self._attempts.join(self._observed(some)))
        return len(some) == _AT_ONCE

    def _release(self, request_ids: Iterable[str]) -> None:
        self._pass_on(self._attempts.release(request_ids))

    def _observed(self, entries: Iterable[HTTPAccessLogEntry]) -> Iterator[Exchange | Attempt]:
        for entry in entries:
            try:
                observed = access_log.observed_in(entry)
            except Exception:
                self._lose("entry")
            else:
                yield observed

    def _pass_on(self, observed: Iterable[Exchange | Attempt]) -> None:
        for each in observed:
            try:
                if isinstance(each, Attempt):
                    self._sink.attempted(each)
                else:
                    self._sink.accept(each)
            except Exception:
                self._lose("entry")

    def _lose(self, what: str) -> None:
        self._count_failure("access_log")
        if not self._logged:
            log.exception("an access log %s is lost; more losses of this message are only counted", what)
            self._logged = True
