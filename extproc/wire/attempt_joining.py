"""Which attempts belong to which exchange.

Envoy reports both on one stream, since both logs have the same configuration and a request stays on
one of its threads. So each stream has an ``Attempts`` of its own. An exchange's attempts almost always
come before it. A hop whose request was cut off may report a little later, so an exchange that lacks an
attempt is held back for a moment. Only a connection that is lost in between separates them: each is
then recorded by itself, and the store joins them by the request's id.
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from extproc.exchanges import Attempt, Exchange
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
