"""One exchange as one flat row: the single place where its facts are derived.

Records are these rows as JSON, spans are these rows under attribute names, and metrics count
from them, so the three cannot disagree.
"""

from datetime import UTC, datetime

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import format_trace_id, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from extproc.apis import api_of
from extproc.vocabulary import Envelope, Exchange

SCHEMA = 1  # of the rows; raised when a field changes its meaning or goes, not when one is added

# A path is whatever a client sends, up to Envoy's header limit, and is kept to recognise a call by.
_PATH_LIMIT = 256  # characters

# Response flags that do not say that the answer failed: the client left (DC, DR), retries were
# used up (URX: the status tells of the last one), a delay was injected (DI), a cache answered (RFCF).
_HARMLESS_FLAGS = frozenset({"DC", "DR", "URX", "DI", "RFCF"})

_NOTHING_DECIDED = Envelope()
_PROPAGATOR = TraceContextTextMapPropagator()


class ExchangeRow(msgspec.Struct, frozen=True, tag_field="kind", tag="exchange"):
    """One finished exchange. What is not known is null (numbers, truths) or empty (texts), never 0."""

    time: datetime  # when the request came, UTC
    request_id: str
    trace_id: str  # of Envoy's or the client's trace; empty when there was none
    api: str
    method: str
    path: str  # without its query, cut to 256 characters
    route: str
    model: str
    upstream_model: str
    original_model: str
    provider: str
    stage: str
    reason: str
    rule: str
    probability: float | None
    margin: float | None
    similarity: float | None
    version: str
    status: int | None  # null: the client left before an answer
    error: str  # the refusing error's label, else Envoy's flag, else the status; empty: none
    flags: tuple[str, ...]
    bypassed: bool  # the sidecar took no part: Envoy alone chose where this went
    refused: bool  # the sidecar answered itself and nothing was forwarded
    stream: bool | None
    cluster: str
    duration_ms: float | None
    first_byte_ms: float | None
    request_bytes: int
    response_bytes: int
    tokens: int | None  # embedded by our encoder
    parse_us: int | None
    queue_us: int | None
    embed_us: int | None
    total_us: int | None
    schema: int = SCHEMA


def row_of(exchange: Exchange) -> ExchangeRow:
    """Everything that is known of one exchange."""
    envelope = exchange.envelope or _NOTHING_DECIDED
    bypassed = exchange.envelope is None
    return ExchangeRow(
        time=datetime.fromtimestamp(exchange.started_at, UTC),
        request_id=exchange.request_id,
        trace_id=_trace_id(envelope.traceparent),
        api=envelope.api or api_of(exchange.method, exchange.path) or "",
        method=exchange.method,
        path=exchange.path[:_PATH_LIMIT],
        route=envelope.route,
        model=envelope.model,
        upstream_model=envelope.upstream_model,
        original_model=envelope.original_model,
        provider=envelope.provider,
        stage=envelope.stage,
        reason=envelope.reason,
        rule=envelope.rule,
        probability=envelope.probability,
        margin=envelope.margin,
        similarity=envelope.similarity,
        version=envelope.version,
        status=exchange.status or None,
        error=_error(exchange, envelope),
        flags=exchange.flags,
        bypassed=bypassed,
        refused=bool(envelope.error),
        stream=None if bypassed else envelope.stream,
        cluster=exchange.cluster,
        duration_ms=_milliseconds(exchange.duration),
        first_byte_ms=_milliseconds(exchange.first_byte),
        request_bytes=exchange.request_bytes,
        response_bytes=exchange.response_bytes,
        tokens=envelope.tokens,
        parse_us=envelope.parse_us,
        queue_us=envelope.queue_us,
        embed_us=envelope.embed_us,
        total_us=envelope.total_us,
    )


def parent_context(traceparent: str) -> Context:
    """The remote parent that a W3C ``traceparent`` names; an empty context when it is not valid."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


def _trace_id(traceparent: str) -> str:
    parent = get_current_span(parent_context(traceparent)).get_span_context()
    return format_trace_id(parent.trace_id) if parent.is_valid else ""


def _error(exchange: Exchange, envelope: Envelope) -> str:
    """The low-cardinality ``error.type`` of the conventions, or empty.

    A flag says more than the status beside it: when Envoy could not reach the provider, the
    status is one that Envoy made up.
    """
    if envelope.error:
        return envelope.error
    failure = next((flag for flag in exchange.flags if flag not in _HARMLESS_FLAGS), "")
    return failure or (str(exchange.status) if exchange.status >= 400 else "")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
