"""A closed-loop HTTP/1.1 load generator: a connection sends its next request once it has its answer.

It runs in a process of its own (see ``Generator``), so that no other Python of the benchmark
takes its GIL: plain sockets under a selector, and next to nothing between an answer and its time.
"""

import asyncio
import itertools
import multiprocessing
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_REASON = b"\r\nx-router-reason: "
_RECEIVE_BYTES = 65_536
# Longer than any answer takes: a server that hangs ends the benchmark, not its reader's patience.
_STALL_S = 30.0


class Burst(msgspec.Struct, frozen=True):
    """What to send, to whom, and for how long."""

    host: str
    port: int
    # Whole HTTP/1.1 requests, head and body. Each connection sends its own share of them in turn, so that
    # no two are sent at once; where there are fewer than connections, all send all of them.
    requests: tuple[bytes, ...]
    connections: int
    seconds: float
    warm_up_s: float  # of full load before anything counts


class Result(msgspec.Struct, frozen=True):
    """What one burst saw, warm-up excluded."""

    latencies: NDArray[np.float64]  # seconds, (answers,), in order of arrival
    seconds: float  # during which these arrived
    cpu: float  # of one core that the generator itself used, [0, 1]
    outcomes: Mapping[str, int]  # by `Response.outcome`


class Response(msgspec.Struct, frozen=True):
    """As much of an answer as the benchmark looks at."""

    status: int
    reason: str  # x-router-reason; empty when absent
    size: int  # bytes of head and body

    @property
    def outcome(self) -> str:
        """``200``, ``200 rule``, ``503``..."""
        return f"{self.status} {self.reason}".rstrip()


def read_response(data: bytes | bytearray) -> Response | None:
    """The answer that ``data`` begins with; None while more of it is to come.

    Reads what Envoy writes: lower-case header names, one space behind the colon, a
    content-length. Raises ValueError for anything else.
    """
    head_end = data.find(_END_OF_HEAD)
    if head_end < 0:
        return None
    if not data.startswith(b"HTTP/1.1 "):
        raise ValueError(f"no HTTP/1.1 answer: {bytes(data[:80])!r}")
    length = _header(data, _LENGTH, head_end)
    if not length:
        raise ValueError(f"an answer without content-length: {bytes(data[:head_end])!r}")
    size = head_end + len(_END_OF_HEAD) + int(length)
    if len(data) < size:
        return None
    return Response(int(data[9:12]), _header(data, _REASON, head_end).decode("ascii"), size)


def _header(data: bytes | bytearray, name: bytes, head_end: int) -> bytes:
    start = data.find(name, 0, head_end)
    if start < 0:
        return b""
    start += len(name)
    return bytes(data[start : data.index(b"\r\n", start)])


class Generator:
    """The load generator's process, for as long as the ``with`` block lasts."""

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            # A terminal's Ctrl-C reaches it too; whoever started it ends it.
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown(cancel_futures=True)

    async def run(self, burst: Burst) -> Result:
        """See ``run``."""
        return await asyncio.wrap_future(self._process.submit(run, burst))


def run(burst: Burst) -> Result:
    """Carry out one burst, in this process.

    Raises OSError when a connection fails or is closed, TimeoutError when nothing comes for half a
    minute, ValueError for an answer that cannot be read.
    """
    with ExitStack() as closing:
        selector = closing.enter_context(selectors.DefaultSelector())
        shares = [burst.requests[number :: burst.connections] for number in range(burst.connections)]
        connections = [_Connection(burst, share or burst.requests, closing) for share in shares]
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        return _exchange(burst, selector, connections)


class _Connection:
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, burst: Burst, requests: Sequence[bytes], closing: ExitStack) -> None:
        self.socket = closing.enter_context(socket.create_connection((burst.host, burst.port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self._requests = itertools.cycle(requests)
        self._received = bytearray()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        # Far smaller than a socket's buffer, which the request before it has left.
        self.socket.sendall(next(self._requests))

    def receive(self) -> Response | None:
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection that was to be kept alive")
        self._received += data
        response = read_response(self._received)
        if response is not None:
            del self._received[: response.size]
        return response


def _exchange(burst: Burst, selector: selectors.BaseSelector, connections: Sequence[_Connection]) -> Result:
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    cpu, began = time.process_time(), time.perf_counter()
    counting = began + burst.warm_up_s
    until = counting + burst.seconds
    for connection in connections:
        connection.send()
    in_flight = len(connections)
    while in_flight:
        ready = selector.select(_STALL_S)
        if not ready:
            raise TimeoutError(f"no answer on any of {in_flight} connections for {_STALL_S:g} s")
        for key, _ in ready:
            connection = key.data
            response = connection.receive()
            if response is None:
                continue
            now = time.perf_counter()
            # What is in flight at the end is awaited, so that the next burst finds idle servers,
            # but does not count: the load is no longer full by then.
            if counting <= now < until:
                latencies.append(now - connection.sent_at)
                outcomes[response.outcome] += 1
            if now < until:
                connection.send()
            else:
                in_flight -= 1
    used = (time.process_time() - cpu) / (time.perf_counter() - began)
    return Result(np.array(latencies), burst.seconds, used, dict(outcomes))
