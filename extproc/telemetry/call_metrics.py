"""The instruments of finished exchanges: the calls, their tokens, times, cost, and what routing added.

Each reads the exchange's row, which records and spans are made of too. A call touches some ten
instruments, 5 us each, after the answer.
"""

from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import Histogram, Meter

from extproc.telemetry import otel_names
from extproc.telemetry.initial_series import Counters
from extproc.telemetry.row_building import refusal_of
from extproc.telemetry.rows import AttemptRow, ExchangeRow

_Labels = Mapping[str, str | bool]

# Seconds and tokens, as the GenAI conventions advise.
_DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
_FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKEN_BUCKETS: Final = tuple(float(4**power) for power in range(14))
_SHARE_BUCKETS: Final = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Calls:
    """Counts finished exchanges. Nothing here raises or waits."""

    def __init__(self, meter: Meter, counters: Counters) -> None:
        self._meter = meter
        count = counters.create
        self._exchanges = count(
            otel_names.EXCHANGES,
            description="Finished exchanges, including those that bypassed the sidecar.",
        )
        self._attempts = count(
            otel_names.ATTEMPTS,
            description="Calls of models by fallback chains and cascades, by result.",
        )
        self._refusals = count(
            otel_names.REFUSALS,
            description="Requests refused and not forwarded; in mode observe, those that would be.",
        )
        self._safety = count(
            otel_names.SAFETY_REQUESTS,
            description="Requests in which the registry's `safety` found something, by the strictest action.",
        )
        self._cost = count(otel_names.COST, description="US dollars for tokens, at the registry's prices.")
        self._reference_cost = count(
            otel_names.REFERENCE_COST,
            description="US dollars for the same tokens at the reference price. Minus the cost: the savings.",
        )
        self._duration = self._histogram(
            otel_names.GEN_AI_SERVER_REQUEST_DURATION,
            "Time until the answer's last byte.",
            _DURATION_BUCKETS,
            "s",
        )
        self._first_token = self._histogram(
            otel_names.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
            "Time until the first token of a stream was seen.",
            _FIRST_TOKEN_BUCKETS,
            "s",
        )
        self._per_token = self._histogram(
            otel_names.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
            "Time for each output token after the first one of a stream.",
            _PER_TOKEN_BUCKETS,
            "s",
        )
        self._tokens = self._histogram(
            otel_names.GEN_AI_CLIENT_TOKEN_USAGE, "Tokens of each call.", _TOKEN_BUCKETS, "{token}"
        )
        self._first_byte = self._histogram(
            otel_names.UPSTREAM_FIRST_BYTE, "Time until the provider's first byte.", _FIRST_TOKEN_BUCKETS, "s"
        )
        self._overhead = self._histogram(
            otel_names.OVERHEAD,
            "Share of an answered exchange's time spent deciding.",
            _SHARE_BUCKETS,
        )

    def accept(self, row: ExchangeRow) -> None:
        """Count one finished exchange."""
        refusal = refusal_of(row)
        if refusal:
            self._refusals.add(1, {otel_names.ERROR_TYPE: refusal, otel_names.ROUTER_MODE: row.mode})
        if row.safety:
            self._safety.add(1, {otel_names.ROUTER_SAFETY: row.safety, otel_names.ROUTER_MODE: row.mode})
        self._exchanges.add(
            1,
            {
                otel_names.ROUTER_ROUTE: row.route,
                otel_names.ROUTER_MODEL: row.model,
                otel_names.ROUTER_STATUS_CLASS: _status_class(row.status),
                otel_names.ROUTER_BYPASSED: row.bypassed,
                otel_names.ROUTER_MODE: row.mode,
            },
        )
        if row.api in otel_names.OPERATIONS and not row.refused:
            self._count_call(row)
            self._count_money(row)
            self._count_overhead(row)

    def attempted(self, row: AttemptRow) -> None:
        """Count one attempt of a hop."""
        self._attempts.add(
            1,
            {
                otel_names.ROUTER_MODEL: row.model,
                otel_names.ROUTER_STATUS_CLASS: _status_class(row.status),
                otel_names.ERROR_TYPE: row.error,
            },
        )

    def _count_call(self, row: ExchangeRow) -> None:
        operation, _ = otel_names.OPERATIONS[row.api]
        labels = {
            otel_names.GEN_AI_OPERATION_NAME: operation,
            otel_names.GEN_AI_PROVIDER_NAME: row.provider,
            otel_names.GEN_AI_REQUEST_MODEL: row.upstream_model,
        }
        if row.first_byte_ms is not None:
            self._first_byte.record(row.first_byte_ms / 1e3, labels)
        if row.duration_ms is not None:
            error = {otel_names.ERROR_TYPE: row.error} if row.error else {}
            self._duration.record(row.duration_ms / 1e3, labels | error)
        if row.time_to_first_token_ms is not None:
            self._first_token.record(row.time_to_first_token_ms / 1e3, labels)
        per_token = _seconds_per_token(row)
        if per_token is not None:
            self._per_token.record(per_token, labels)
        for kind, tokens in (("input", row.input_tokens), ("output", row.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, labels | {otel_names.GEN_AI_TOKEN_TYPE: kind})

    def _count_money(self, row: ExchangeRow) -> None:
        if row.cost_usd is None:
            return
        labels = {otel_names.ROUTER_ROUTE: row.route, otel_names.ROUTER_MODEL: row.served_by or row.model}
        self._cost.add(row.cost_usd, labels)
        if row.reference_cost_usd is not None:
            self._reference_cost.add(row.reference_cost_usd, labels)

    def _count_overhead(self, row: ExchangeRow) -> None:
        if row.total_us is not None and row.duration_ms:
            deciding_ms = (row.total_us + (row.parse_us or 0)) / 1e3
            self._overhead.record(min(1.0, deciding_ms / row.duration_ms))

    def _histogram(
        self, name: str, description: str, buckets: tuple[float, ...], unit: str = ""
    ) -> Histogram:
        return self._meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=buckets
        )


def _seconds_per_token(row: ExchangeRow) -> float | None:
    """The convention's: the time after the first token, over the tokens after the first."""
    first, whole, tokens = row.time_to_first_token_ms, row.duration_ms, row.output_tokens
    if first is None or whole is None or tokens is None or tokens < 2 or row.error:
        return None
    return max(0.0, whole - first) / 1e3 / (tokens - 1)


def _status_class(status: int | None) -> str:
    return "none" if status is None else f"{status // 100}xx"
