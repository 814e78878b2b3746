"""Which texts wait for the encoder, which go next, and which cannot be encoded in time.

A text is taken only when it is expected to be encoded by its due time, so that under overload the
encoder works for requests that still wait, and all others get their default at once. What to expect
is measured: seconds per token of the latest batches. Nothing here knows time, threads or asyncio:
the caller says what time it is.
"""

import math
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from extproc.errors import Overloaded

_DECAY: Final = 0.8  # of what earlier batches weigh, with each new one
# Of the time until a text is due, the share that its expected wait may take. The rest is for a pace
# that changes, so that few of those that were taken have to be dropped.
_ADMITTED: Final = 0.85


class Waiter(Protocol):
    """A text that waits."""

    @property
    def tokens(self) -> int:
        """About how many the encoder will read."""
        ...

    @property
    def due(self) -> float:
        """When it must be encoded; infinite: whenever."""
        ...


W = TypeVar("W", bound=Waiter)


class Pace:
    """How fast the encoder is, by its latest batches, each weighed by its size."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._tokens = 0.0
        self._padded = 0.0

    def learn(self, tokens: int, padded: int, seconds: float) -> None:
        """A batch of texts with ``tokens``, which were ``padded`` with the padding, took so long."""
        self._seconds = _DECAY * self._seconds + seconds
        self._tokens = _DECAY * self._tokens + tokens
        self._padded = _DECAY * self._padded + padded

    def of_batch(self, padded: int) -> float:
        """Seconds that a batch is expected to take; 0 before the first one was measured."""
        return padded * self._seconds / self._padded if self._padded else 0.0

    def of_texts(self, tokens: int) -> float:
        """The same of texts whose batches, and so their padding, are not known yet."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0


class Backlog(Generic[W]):
    """The texts that wait, in order of arrival."""

    def __init__(self, limit: int) -> None:
        """``limit`` is how many may wait, whatever is expected of them."""
        self._limit = limit
        self._pace = Pace()
        self._waiting: dict[W, None] = {}  # a set in order of arrival
        self._running: list[W] = []
        self._began = 0.0

    def __iter__(self) -> Iterator[W]:
        return iter(list(self._waiting))  # which may be discarded meanwhile

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: W, now: float) -> None:
        """Take ``waiter``. Raises ``Overloaded`` where it would hardly be encoded by its due time."""
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{self._limit} texts already wait for the encoder")
        # An idle encoder takes whatever comes: nothing is lost, and the pace is measured again.
        if self._running or self._waiting:
            ahead = self._left(now) + self._pace.of_texts(sum(each.tokens for each in self._waiting))
            wait = ahead + self._pace.of_texts(waiter.tokens)
            if wait > _ADMITTED * (waiter.due - now):
                raise Overloaded(f"the encoder would take {wait:.3f} s, which is too long")
        self._waiting[waiter] = None

    def discard(self, waiter: W) -> None:
        """Forget ``waiter``, whose caller has gone; one that is not here is no matter."""
        self._waiting.pop(waiter, None)

    def clear(self) -> list[W]:
        """Forget all that wait. Returns them."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def abandon(self) -> list[W]:
        """Forget all that wait, and the batch that was taken, of which nothing is measured. Returns them."""
        running, self._running = self._running, []
        return [*running, *self.clear()]

    def take(self, now: float, budget: int) -> tuple[list[W], list[W]]:
        """The next batch, of at most ``budget`` padded tokens, and those that are dropped as too late.

        Oldest first. When some are too late, the pace was misjudged: then newest first, since the
        oldest of the others would be late by the end of the batch too. At least one text is taken, if
        any waits.
        """
        late = self._drop_late(now)
        if late and not self._waiting:
            self._waiting[late.pop()] = None  # the encoder is free, and its pace is measured again
        order = list(reversed(self._waiting)) if late else list(self._waiting)
        batch = self._batch(order, now, budget)
        for waiter in batch:
            del self._waiting[waiter]
        self._running, self._began = batch, now
        late += self._drop_late(now + self._pace.of_batch(_padded(batch)))
        return batch, late

    def finish(self, now: float) -> None:
        """The batch that was taken is done. It is measured, also when it failed."""
        if self._running:
            tokens = sum(waiter.tokens for waiter in self._running)
            self._pace.learn(tokens, _padded(self._running), now - self._began)
        self._running = []

    def _left(self, now: float) -> float:
        """Seconds that the batch in the encoder is expected to take from now on."""
        return max(0.0, self._began + self._pace.of_batch(_padded(self._running)) - now)

    def _drop_late(self, now: float) -> list[W]:
        """Forget those that would be late even if the encoder took them alone at ``now``. Returns them."""
        late = [each for each in self._waiting if now + self._pace.of_batch(each.tokens) > each.due]
        for waiter in late:
            del self._waiting[waiter]
        return late

    def _batch(self, order: list[W], now: float, budget: int) -> list[W]:
        batch: list[W] = []
        longest, due = 0, math.inf
        for waiter in order:
            longest, due = max(longest, waiter.tokens), min(due, waiter.due)
            padded = longest * (len(batch) + 1)
            if batch and (padded > budget or now + self._pace.of_batch(padded) > due):
                break
            batch.append(waiter)
        return batch


def _padded(batch: list[W]) -> int:
    """Tokens of a batch with its padding."""
    return len(batch) * max((waiter.tokens for waiter in batch), default=0)
