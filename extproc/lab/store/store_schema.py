"""The store's tables and views, generated from the rows and the table of their attributes.

The table is that of the OpenTelemetry Collector's ClickHouse exporter for spans, so the same SQL reads spans
from a collector and records from segments. Columns of the rows' own types are added (see ``columns``), and a
view for each kind of row gives them the names of its fields. Spans with the attribute ``router.record`` are
rows; views ignore the others.
"""

from collections.abc import Callable

import msgspec

from extproc.lab.store.columns import ERROR, RECORD, REFUSED, column_name, column_of, stored
from extproc.telemetry import otel_names
from extproc.telemetry.rows import (
    KINDS,
    AttemptRow,
    EvaluationRow,
    ExchangeRow,
    Row,
    RowField,
    ShadowRow,
    fields_of,
    kind_of,
)

TABLE = "otel_traces"

# The table of the exporter (exporter/clickhouseexporter/internal/sqltemplates), without its TTL.
_CREATE_TABLE = f"""\
CREATE TABLE IF NOT EXISTS {TABLE} (
    Timestamp DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    ParentSpanId String CODEC(ZSTD(1)),
    TraceState String CODEC(ZSTD(1)),
    SpanName LowCardinality(String) CODEC(ZSTD(1)),
    SpanKind LowCardinality(String) CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) CODEC(ZSTD(1)),
    ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeName String CODEC(ZSTD(1)),
    ScopeVersion String CODEC(ZSTD(1)),
    SpanAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Duration UInt64 CODEC(ZSTD(1)),
    StatusCode LowCardinality(String) CODEC(ZSTD(1)),
    StatusMessage String CODEC(ZSTD(1)),
    Events Nested (
        Timestamp DateTime64(9),
        Name LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    Links Nested (
        TraceId String,
        SpanId String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1
) ENGINE = MergeTree()
PARTITION BY toDate(Timestamp)
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1"""

# Two rows of a kind with the same values in these fields are the same row.
IDENTITY: dict[type[Row], tuple[str, ...]] = {
    ExchangeRow: ("request_id",),
    AttemptRow: ("request_id", "attempt"),
    EvaluationRow: ("evaluation_id",),
    ShadowRow: ("request_id", "model"),
}


def view_name(kind: type[Row]) -> str:
    """exchanges, attempts, evaluations, shadows."""
    return f"{kind_of(kind)}s"


def statements() -> list[str]:
    """The statements that make the table, its columns and its views.

    Each can be run again, also on a table that the exporter or an earlier version made.
    """
    return [_CREATE_TABLE, _add_columns(), *(_view(kind) for kind in KINDS)]


def as_script() -> str:
    """The statements as text for `clickhouse-client --multiquery`."""
    return "".join(f"{statement};\n\n" for statement in statements()).rstrip("\n") + "\n"


def _add_columns() -> str:
    added = (
        f"    ADD COLUMN IF NOT EXISTS {column.name} {column.type} DEFAULT {column.default} CODEC(ZSTD(1))"
        for column in stored()
    )
    return f"ALTER TABLE {TABLE}\n" + ",\n".join(added)


def _view(kind: type[Row]) -> str:
    body = _select(kind, _of_span)
    if kind is EvaluationRow:
        # By the conventions, an opinion can also be an event of the span that it is about. The same opinion
        # can come both ways and, from a client that retries, more than once.
        both = f"{body}\nUNION ALL\n{_select(kind, _of_event)}"
        body = f"SELECT * FROM (\n{both}\n)\nORDER BY time\nLIMIT 1 BY evaluation_id"
    return f"CREATE OR REPLACE VIEW {view_name(kind)} AS\n{body}"


class _Source(msgspec.Struct, frozen=True):
    """The expressions by which a view reads its rows."""

    origin: str
    time: str
    duration: str
    status: str
    refusal: str
    error: str
    field: Callable[[RowField], str]


def _of_span(kind: type[Row]) -> _Source:
    return _Source(
        origin=f"FROM {TABLE}\nWHERE {RECORD} = '{kind_of(kind)}'",
        time="Timestamp",
        duration="Duration",
        status="StatusCode",
        refusal=REFUSED,
        error=ERROR,
        field=lambda field: column_name(field.info.name),
    )


def _of_event(kind: type[Row]) -> _Source:
    return _Source(
        origin=(
            f"FROM {TABLE}\nARRAY JOIN Events.Timestamp AS event_time, Events.Name AS event, "
            f"Events.Attributes AS event_attributes\nWHERE event = '{otel_names.GEN_AI_EVALUATION_RESULT}'"
        ),
        time="event_time",
        duration="toUInt64(0)",
        status="''",
        refusal=_event_attribute(otel_names.ROUTER_REFUSED),
        error=_event_attribute(otel_names.ERROR_TYPE),
        field=_field_of_event,
    )


def _field_of_event(field: RowField) -> str:
    # An event of other instrumentation has neither id; its span may have them.
    if field.info.name == "request_id":
        own = _event_attribute(otel_names.ROUTER_REQUEST_ID)
        return f"if({own} = '', {column_name(field.info.name)}, {own})"
    if field.info.name == "evaluation_id":
        own = _event_attribute(otel_names.ROUTER_EVALUATION_ID)
        return f"if({own} = '', concat(SpanId, '/', toString(event_time)), {own})"
    attribute = field.attribute
    assert attribute is not None  # the other fields are in the span itself
    return column_of(field).read(_event_attribute(attribute.name), attribute)


def _event_attribute(attribute: str) -> str:
    return f"event_attributes['{attribute}']"


def _select(kind: type[Row], source_of: Callable[[type[Row]], _Source]) -> str:
    source = source_of(kind)
    in_span = _span_columns(kind, source)
    columns = (
        f"    {in_span.get(field.info.name) or source.field(field)} AS {field.info.encode_name}"
        for field in fields_of(kind)
    )
    return "SELECT\n" + ",\n".join(columns) + f"\n{source.origin}"


def _span_columns(kind: type[Row], source: _Source) -> dict[str, str]:
    """The fields that the exporter's own columns have."""
    error = f"if({source.refusal} != '', {source.refusal}, {source.error})"
    return {
        # Unchanged: a condition on an expression of it would read every part of the table.
        "time": source.time,
        "trace_id": "TraceId",
        # A duration of 0 was not measured.
        "duration_ms": f"nullIf({source.duration}, 0) / 1e6",
        "error": error if kind is ExchangeRow else source.error,
        "refused": f"toBool({source.refusal} != '')",
        "failed": f"toBool({source.status} = 'Error')",
    }
