"""Work on large bodies, in threads beside the event loop.

Reading, matching and editing a body of 16 MiB takes some hundred milliseconds, in which the loop would
answer nobody, not even Envoy's health check. RE2 releases the GIL, and what does not release it
(protobuf, msgspec) holds it for one call at a time, so the loop goes on in between.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

LARGE_BODY = 64 * 1024
"""Bytes from which on a body is large. The work on a smaller one takes less than a millisecond or two."""

_Arguments = TypeVarTuple("_Arguments")
_T = TypeVar("_T")


class Offload:
    """Runs work on large bodies in a few threads, and work on small ones at once."""

    def __init__(self, threads: int = 2) -> None:
        """No thread starts before there is work for one."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="large-body")

    async def run(self, size: int, function: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        """What ``function`` returns or raises; ``size`` is that of the body, in bytes.

        When the caller is cancelled, work that has begun is waited for: until then it holds the body.
        """
        if size < LARGE_BODY:
            return function(*arguments)
        work = self._pool.submit(function, *arguments)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            await _ended(work)
            raise


async def _ended(work: Future[_T]) -> None:
    if not work.cancelled():
        with suppress(Exception):
            await asyncio.wrap_future(work)
