"""Which attempts belong to which exchange.

Envoy tells of both on one stream, since both logs have the same configuration and a request stays
on one of Envoy's threads: so the process that hears of an exchange has heard of its attempts too.
Only a connection that was lost in between tears them apart; then each is still told, and joins by
the request's id in the store.
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from extproc.vocabulary import Attempt, Exchange

# Attempts whose exchange is not over yet, or was never told: some 2 KiB each.
_KEPT = 16_384


class Attempts:
    """The attempts whose exchange is still awaited. Bounded: the oldest are forgotten first."""

    def __init__(self, kept: int = _KEPT) -> None:
        """``kept`` is how many attempts are remembered at most."""
        self._kept = kept
        self._waiting: dict[str, tuple[Attempt, ...]] = {}
        self._count = 0

    def join(self, entries: Iterable[Exchange | Attempt]) -> Iterator[Exchange | Attempt]:
        """The entries of one message, attempts first; exchanges with what was tried for them."""
        told = list(entries)
        for attempt in told:
            if isinstance(attempt, Attempt):
                self._remember(attempt)
                yield attempt
        for exchange in told:
            if isinstance(exchange, Exchange):
                yield self._with_attempts(exchange)

    def _remember(self, attempt: Attempt) -> None:
        request_id = attempt.call.request_id
        self._waiting[request_id] = (*self._waiting.pop(request_id, ()), attempt)
        self._count += 1
        while self._count > self._kept:
            self._count -= len(self._waiting.pop(next(iter(self._waiting))))

    def _with_attempts(self, exchange: Exchange) -> Exchange:
        tried = self._waiting.pop(exchange.request_id, ())
        self._count -= len(tried)
        return (
            replace(exchange, tried=tuple(sorted(tried, key=lambda each: each.number))) if tried else exchange
        )
