"""The queue of the encoder: which texts wait, which are next, and which cannot be encoded in time.

A text is accepted only if it will probably be encoded by its due time. So under overload, the encoder works
only for requests that still wait, and all others get the default model at once. The expected time is
measured: seconds per token of the latest batches. Pure: the caller passes the present time.
"""

import math
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from extproc.errors import Overloaded

_DECAY: Final = 0.8  # the factor of the weight of earlier batches at each new batch
# The share of the time until a text is due that its expected wait may take. The rest allows for a pace that
# changes, so that few accepted texts are dropped.
_ADMITTED: Final = 0.85


class Waiter(Protocol):
    """A text that waits."""

    @property
    def tokens(self) -> int:
        """The approximate number of tokens."""
        ...

    @property
    def due(self) -> float:
        """The time by which it must be encoded. Infinite: any time."""
        ...


W = TypeVar("W", bound=Waiter)


class Pace:
    """The speed of the encoder in its latest batches, each weighted by its size."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._tokens = 0.0
        self._padded = 0.0

    def learn(self, tokens: int, padded: int, seconds: float) -> None:
        """Add a batch that took ``seconds``, with ``tokens``, or ``padded`` tokens including the padding."""
        self._seconds = _DECAY * self._seconds + seconds
        self._tokens = _DECAY * self._tokens + tokens
        self._padded = _DECAY * self._padded + padded

    def of_batch(self, padded: int) -> float:
        """The expected seconds of a batch. 0 before the first measurement."""
        return padded * self._seconds / self._padded if self._padded else 0.0

    def of_texts(self, tokens: int) -> float:
        """The expected seconds of texts whose batches, and so their padding, are not known yet."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0


class Backlog(Generic[W]):
    """The waiting texts in order of arrival."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many texts may wait at most."""
        self._limit = limit
        self._pace = Pace()
        self._waiting: dict[W, None] = {}  # a set in order of arrival
        self._running: list[W] = []
        self._began = 0.0

    def __iter__(self) -> Iterator[W]:
        return iter(list(self._waiting))  # a copy, because the caller may discard texts

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: W, now: float) -> None:
        """Accept ``waiter``. Raises ``Overloaded`` if it will probably not be encoded by its due time."""
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{self._limit} texts already wait for the encoder")
        # An idle encoder accepts every text: it costs nothing, and the pace is measured again.
        if self._running or self._waiting:
            ahead = self._left(now) + self._pace.of_texts(sum(each.tokens for each in self._waiting))
            wait = ahead + self._pace.of_texts(waiter.tokens)
            if wait > _ADMITTED * (waiter.due - now):
                raise Overloaded(f"the encoder would take {wait:.3f} s, longer than the time left")
        self._waiting[waiter] = None

    def discard(self, waiter: W) -> None:
        """Remove ``waiter``, if it waits: its caller has left."""
        self._waiting.pop(waiter, None)

    def clear(self) -> list[W]:
        """Remove and return all waiting texts."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def abandon(self) -> list[W]:
        """Remove and return all waiting texts and the batch in the encoder, without measuring it."""
        running, self._running = self._running, []
        return [*running, *self.clear()]

    def take(self, now: float, budget: int) -> tuple[list[W], list[W]]:
        """The next batch of at most ``budget`` padded tokens, and the texts that are dropped as too late.

        Oldest first. If some are too late, the pace was misjudged. Then newest first, because the oldest of
        the others would be late by the end of the batch too. At least one text is taken, if any waits.
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
        """Measure the batch in the encoder, which has ended or failed."""
        if self._running:
            tokens = sum(waiter.tokens for waiter in self._running)
            self._pace.learn(tokens, _padded(self._running), now - self._began)
        self._running = []

    def _left(self, now: float) -> float:
        """The expected seconds until the batch in the encoder ends."""
        return max(0.0, self._began + self._pace.of_batch(_padded(self._running)) - now)

    def _drop_late(self, now: float) -> list[W]:
        """Remove and return the texts that would be late even if encoded alone, beginning at ``now``."""
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
    """The tokens of a batch with its padding."""
    return len(batch) * max((waiter.tokens for waiter in batch), default=0)
