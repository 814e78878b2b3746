"""The gRPC service by which Envoy reports the outcome of each request: its access log."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from extproc._pb.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsResponse
from extproc.exchanges import Attempt, Exchange, ExchangeSink
from extproc.wire import access_log
from extproc.wire.attempt_joining import Attempts

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
