"""Limits how many bytes of bodies one process reads at a time. Other bodies wait.

A body is in flight from the reply to its head until its exchange ends. Envoy sends no body before
that reply, so a body that waits takes no memory of this process.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from extproc.offloading import LARGE_BODY

_SMALL_PART = 4  # one part in so many is for small bodies alone


class AdmissionLimits(msgspec.Struct, frozen=True):
    """The limits of one process."""

    bytes_in_flight: int = 64 * 1024 * 1024
    largest_body: int = 16 * 1024 * 1024  # what a body of unknown length counts as
    wait_s: float = 2.0  # less than Envoy's message_timeout, after which Envoy ignores the reply


class Admission:
    """Admits bodies as long as there is room, in the order in which they come.

    Small bodies have a share of their own, so they never wait behind large ones.
    """

    def __init__(self, limits: AdmissionLimits, count_unread: Callable[[], None] = lambda: None) -> None:
        """``count_unread`` is called for each body that found no room in time."""
        self._count_unread = count_unread
        small = limits.bytes_in_flight // _SMALL_PART
        self._limits = limits
        self._small = _Share(small, limits.wait_s)
        self._large = _Share(limits.bytes_in_flight - small, limits.wait_s)

    @property
    def bytes_in_flight(self) -> int:
        """The bytes of all bodies that are admitted."""
        return self._small.taken + self._large.taken

    @property
    def waiting(self) -> int:
        """How many bodies wait."""
        return self._small.waiting + self._large.waiting

    async def take(self, size: int | None) -> "_Taken | None":
        """See ``Reservation.take``."""
        size = self._limits.largest_body if size is None else size
        share = self._small if size < LARGE_BODY else self._large
        size = min(size, share.limit)  # a larger one is read alone
        if await share.take(size):
            return _Taken(share, size)
        self._count_unread()
        return None


class Reservation:
    """The bytes that one exchange has reserved. The end of a ``with`` block releases them."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._taken: _Taken | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def take(self, size: int | None) -> bool:
        """Reserve ``size`` bytes; None: as many as a body may have. False: no room became free in time."""
        self._taken = await self._admission.take(size)
        return self._taken is not None

    def leave(self) -> None:
        """Release what was reserved."""
        if self._taken is not None:
            self._taken.share.give(self._taken.size)
            self._taken = None


class _Taken(msgspec.Struct, frozen=True):
    share: "_Share"
    size: int


class _Waiter(msgspec.Struct, frozen=True, eq=False):
    size: int
    granted: asyncio.Future[None]


class _Share:
    """A number of bytes, granted in the order of requests."""

    def __init__(self, limit: int, wait_s: float) -> None:
        self.limit = limit
        self.taken = 0
        self._wait_s = wait_s
        self._queue: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def take(self, size: int) -> bool:
        """Whether ``size`` bytes, at most the limit, became free in time."""
        if not self._queue and self._has_room(size):
            self.taken += size
            return True
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        try:
            await asyncio.wait((waiter.granted,), timeout=self._wait_s)
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        if not waiter.granted.done():
            self._withdraw(waiter)
            return False
        return True

    def give(self, size: int) -> None:
        """Release what was taken."""
        self.taken -= size
        self._grant()

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter.granted.done():
            self.give(waiter.size)
        else:
            self._queue.remove(waiter)
            self._grant()  # those behind it may fit

    def _grant(self) -> None:
        while self._queue and self._has_room(self._queue[0].size):
            waiter = self._queue.popleft()
            self.taken += waiter.size
            waiter.granted.set_result(None)

    def _has_room(self, size: int) -> bool:
        return self.taken + size <= self.limit
