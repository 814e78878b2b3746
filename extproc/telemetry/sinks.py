"""Gives the outcome of each exchange to every sink: metrics, records, spans.

Only this module makes and prices the row and decides which traces are kept, so the sinks cannot disagree.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

import msgspec
from msgspec.structs import replace

from extproc.exchanges import Attempt, Exchange
from extproc.registry.schema import Telemetry
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.row_building import attempt_row_of, refusal_of, row_of, verdict_row_of
from extproc.telemetry.rows import AttemptRow, EvaluationRow, ExchangeRow
from extproc.vocabulary import Reason, Stage, Version

log = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True):
    """A finished exchange, as Envoy reported it and as its row."""

    exchange: Exchange
    row: ExchangeRow
    kept: bool  # whether its whole trace is kept, or only the exchange's own span


class OutcomeSink(Protocol):
    """Where outcomes go."""

    def accept(self, outcome: Outcome) -> None:
        """Never raises and never blocks on the network. It counts what it drops."""
        ...

    def attempted(self, row: AttemptRow, verdict: EvaluationRow | None) -> None:
        """As ``accept``, for one attempt and its gate's verdict, if any."""
        ...


class Fanout:
    """The ``ExchangeSink`` that gives the outcome of each exchange to every sink.

    A defect in one sink does not affect the others.
    """

    def __init__(
        self,
        sinks: Sequence[OutcomeSink],
        prices: Callable[[Version], PriceList] = lambda version: PriceList({}),
        telemetry: Callable[[Version], Telemetry] = lambda version: Telemetry(),
    ) -> None:
        """``prices`` and ``telemetry`` return the settings of a registry version."""
        self._sinks = tuple(sinks)
        self._prices = prices
        self._telemetry = telemetry

    def accept(self, exchange: Exchange) -> None:
        """Give the outcome to every sink. If a sink raises, the traceback is logged."""
        outcome = outcome_of(exchange, self._prices, self._telemetry)
        self._emit(lambda sink: sink.accept(outcome))

    def attempted(self, attempt: Attempt) -> None:
        """As ``accept``, for an attempt."""
        row = self._prices(attempt.version).of_attempt(attempt_row_of(attempt))
        verdict = verdict_row_of(attempt)
        self._emit(lambda sink: sink.attempted(row, verdict))

    def _emit(self, emit: Callable[[OutcomeSink], None]) -> None:
        for sink in self._sinks:
            try:
                emit(sink)
            except Exception:
                log.exception("a telemetry sink failed", extra={"sink": type(sink).__name__})


def outcome_of(
    exchange: Exchange, prices: Callable[[Version], PriceList], telemetry: Callable[[Version], Telemetry]
) -> Outcome:
    """The row of ``exchange`` at the prices of its registry, and whether its trace is kept."""
    row = row_of(exchange)
    listed, wanted = prices(row.version), telemetry(row.version)
    row = listed.of_exchange(row)
    if exchange.tried:
        row = with_attempts(row, [listed.of_attempt(attempt_row_of(each)) for each in exchange.tried])
    row = listed.with_doubt(row)
    kept = is_notable(row, wanted.low_margin) or in_share(row.trace_id, wanted.trace_share)
    if not kept and row.input_messages is not None:
        row = replace(row, input_messages=None, llm_why=None)  # only kept traces record text
    return Outcome(exchange, row, kept)


def with_attempts(row: ExchangeRow, attempts: Sequence[AttemptRow]) -> ExchangeRow:
    """``row`` with the tokens and the cost of all that was tried for it.

    The reference cost stays that of the one answer that the client got. An attempt without usage, such
    as one that failed at once, adds nothing; if no attempt has usage, the sum is unknown. Second
    answers that gates asked for are included.
    """
    return replace(
        row,
        input_tokens=_total(n for each in attempts for n in (each.input_tokens, each.second_input_tokens)),
        output_tokens=_total(n for each in attempts for n in (each.output_tokens, each.second_output_tokens)),
        cached_tokens=_total(each.cached_tokens for each in attempts),
        cache_write_tokens=_total(each.cache_write_tokens for each in attempts),
        reasoning_tokens=_total(each.reasoning_tokens for each in attempts),
        cost_usd=_sum(cost for each in attempts for cost in (each.cost_usd, each.second_cost_usd)),
    )


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _sum(costs: Iterable[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def is_notable(row: ExchangeRow, low_margin: float) -> bool:
    """Whether the exchange is unusual, so that an operator may look for it."""
    abstained = row.stage == Stage.DEFAULT and row.reason != Reason.NO_ROUTES
    doubtful = row.margin is not None and row.margin < low_margin
    escalated = (row.attempts or 1) > 1 or bool(row.tier) or row.served_by not in ("", row.model)
    return abstained or doubtful or escalated or bool(refusal_of(row)) or row.failed or row.bypassed


def in_share(trace_id: str, share: float) -> bool:
    """Whether a trace is among the ``share`` of traces that are kept: all of its exchanges, or none.

    A client may choose its trace ids in any way, so they are hashed.
    """
    digest = blake2b(trace_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
