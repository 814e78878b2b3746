"""Runs work on large bodies in threads, so that the event loop stays responsive.

Reading, matching and editing a body of 16 MiB takes several hundred milliseconds. On the event loop, that
would delay every request and Envoy's health checks. RE2 releases the GIL. protobuf and msgspec hold it for
one call at a time, and the event loop runs between the calls.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

LARGE_BODY = 64 * 1024
"""A body of this many bytes is large. Work on a smaller one takes at most two milliseconds."""

_Arguments = TypeVarTuple("_Arguments")
_T = TypeVar("_T")


class Offload:
    """Runs work on large bodies in a few threads, and work on small bodies directly."""

    def __init__(self, threads: int = 2) -> None:
        """``threads``: the greatest number of threads. Each starts with its first work."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="large-body")

    async def run(self, size: int, function: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        """Return or raise what ``function`` does. ``size`` is the size of the body in bytes.

        When the caller is cancelled, this waits until work that has begun ends, because it holds the body.
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
