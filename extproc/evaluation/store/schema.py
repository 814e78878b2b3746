"""The store's tables and views, generated from the rows and the table of their attributes.

The table is the one that the OpenTelemetry Collector's ClickHouse exporter makes for spans, so
that spans from a collector and records from segments lie in one place and are read by one SQL.
A view per kind of row turns the strings of ``SpanAttributes`` back into typed columns. A span is a
row if it says so (``router.record``); the others of a trace are left alone.
"""

import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from extproc.telemetry import names
from extproc.telemetry.attributes import ATTRIBUTES, IN_THE_SPAN, Attribute
from extproc.telemetry.rows import (
    KINDS,
    AttemptRow,
    EvaluationRow,
    ExchangeRow,
    Row,
    ShadowRow,
    kind_of,
)

TABLE = "otel_traces"

_REQUEST, _OPINION = names.ROUTER_REQUEST_ID, names.ROUTER_EVALUATION_ID

# As the exporter makes it (exporter/clickhouseexporter/internal/sqltemplates), without its TTL.
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

# What makes two rows of a kind the same row.
IDENTITY: dict[type[Row], tuple[str, ...]] = {
    ExchangeRow: ("request_id",),
    AttemptRow: ("request_id", "attempt"),
    EvaluationRow: ("evaluation_id",),
    ShadowRow: ("request_id", "model"),
}


class Column(msgspec.Struct, frozen=True):
    """How the values of one Python type are written: as a column, as JSON, as an attribute.

    ``read`` makes the column from an attribute (a string, empty when absent) and ``write`` the
    attribute from the JSON value.
    """

    json: str  # the ClickHouse type that takes the JSON value
    read: Callable[[str, Attribute], str]
    write: Callable[[str, Attribute], str]


def _read_text(value: str, attribute: Attribute) -> str:
    return f"JSONExtractString({value}, 1)" if attribute.listed else value


def _write_text(value: str, attribute: Attribute) -> str:
    return f"if({value} = '', '', toJSONString([{value}]))" if attribute.listed else value


def _read_number(value: str, attribute: Attribute) -> str:
    number = f"toFloat64OrNull({value})"
    return number if attribute.per_unit == 1.0 else f"{number} * {attribute.per_unit}"


def _write_number(value: str, attribute: Attribute) -> str:
    number = value if attribute.per_unit == 1.0 else f"{value} / {attribute.per_unit}"
    return f"ifNull(toString({number}), '')"


_TEXT = Column("String", _read_text, _write_text)
_MAYBE_TEXT = Column(
    "Nullable(String)", lambda value, _: f"nullIf({value}, '')", lambda value, _: f"ifNull({value}, '')"
)
_WHOLE = Column(
    "Nullable(Int64)",
    lambda value, _: f"toInt64OrNull({value})",
    lambda value, _: f"ifNull(toString({value}), '')",
)
_NUMBER = Column("Nullable(Float64)", _read_number, _write_number)
_TRUTH = Column(
    "Bool", lambda value, _: f"toBool({value} = 'true')", lambda value, _: f"if({value}, 'true', 'false')"
)
_MAYBE_TRUTH = Column(
    "Nullable(Bool)",
    lambda value, _: f"if({value} = '', NULL, toBool({value} = 'true'))",
    lambda value, _: f"multiIf({value} IS NULL, '', {value}, 'true', 'false')",
)
_TEXTS = Column(
    "Array(String)",
    lambda value, _: f"JSONExtract({value}, 'Array(String)')",
    lambda value, _: f"if(empty({value}), '', toJSONString({value}))",
)
_COLUMNS: dict[Any, Column] = {
    str: _TEXT,
    str | None: _MAYBE_TEXT,
    int: _WHOLE,
    int | None: _WHOLE,
    float | None: _NUMBER,
    bool: _TRUTH,
    bool | None: _MAYBE_TRUTH,
    tuple[str, ...]: _TEXTS,
}


def column_of(field: msgspec.structs.FieldInfo) -> Column:
    """How a field of a row is stored."""
    if typing.get_origin(field.type) is not Literal:
        return _COLUMNS[field.type]
    unknown = field.default  # a line that does not say has the default
    return Column(
        "String", lambda value, _: f"if({value} = '', '{unknown}', {value})", lambda value, _: value
    )


def attributed(kind: type[Row]) -> Iterator[tuple[msgspec.structs.FieldInfo, Attribute, Column]]:
    """The fields of a kind that are attributes of its span."""
    for field in msgspec.structs.fields(kind):
        if field.name not in IN_THE_SPAN:
            yield field, ATTRIBUTES[field.name], column_of(field)


def view_name(kind: type[Row]) -> str:
    """exchanges, attempts, evaluations, shadows."""
    return f"{kind_of(kind)}s"


def statements() -> list[str]:
    """What makes an empty store, each safe to run again: the table, then its views."""
    return [_CREATE_TABLE, *(_view(kind) for kind in KINDS)]


def as_script() -> str:
    """The statements as text for `clickhouse-client --multiquery`."""
    return "".join(f"{statement};\n\n" for statement in statements()).rstrip("\n") + "\n"


def _view(kind: type[Row]) -> str:
    body = _select(kind, _of_span)
    if kind is EvaluationRow:
        # The conventions also have opinions as events of the span they are about. The same opinion
        # may come both ways and, from a client that tries again, more than once.
        both = f"{body}\nUNION ALL\n{_select(kind, _of_event)}"
        body = f"SELECT * FROM (\n{both}\n)\nORDER BY time\nLIMIT 1 BY evaluation_id"
    return f"CREATE OR REPLACE VIEW {view_name(kind)} AS\n{body}"


class _Source(msgspec.Struct, frozen=True):
    """Where a view finds its rows."""

    origin: str
    attributes: str
    time: str
    duration: str
    status: str


def _of_span(kind: type[Row]) -> _Source:
    return _Source(
        origin=f"FROM {TABLE}\nWHERE SpanAttributes['{names.ROUTER_RECORD}'] = '{kind_of(kind)}'",
        attributes="SpanAttributes",
        time="Timestamp",
        duration="Duration",
        status="StatusCode",
    )


def _of_event(kind: type[Row]) -> _Source:
    return _Source(
        origin=(
            f"FROM {TABLE}\nARRAY JOIN Events.Timestamp AS told_at, Events.Name AS event, "
            f"Events.Attributes AS told\nWHERE event = '{names.GEN_AI_EVALUATION_RESULT}'"
        ),
        attributes="told",
        time="told_at",
        duration="toUInt64(0)",
        status="''",
    )


def _select(kind: type[Row], source_of: Callable[[type[Row]], _Source]) -> str:
    source = source_of(kind)
    in_span = dict(_span_columns(kind, source))
    columns = []
    for field in msgspec.structs.fields(kind):
        if field.name in in_span:
            expression = in_span[field.name]
        else:
            attribute = ATTRIBUTES[field.name]
            expression = column_of(field).read(f"{source.attributes}['{attribute.name}']", attribute)
        columns.append(f"    {expression} AS {field.encode_name}")
    return "SELECT\n" + ",\n".join(columns) + f"\n{source.origin}"


def _span_columns(kind: type[Row], source: _Source) -> Iterator[tuple[str, str]]:
    """The columns that stand in the span itself."""
    refusal = f"{source.attributes}['{names.ROUTER_REFUSED}']"
    error = f"{source.attributes}['{names.ERROR_TYPE}']"
    # As it is: a condition on anything made of it would not spare a single part of the table.
    yield "time", source.time
    yield "trace_id", "TraceId"
    # A duration of nothing at all is one that nobody measured.
    yield "duration_ms", f"nullIf({source.duration}, 0) / 1e6"
    yield "error", f"if({refusal} != '', {refusal}, {error})" if kind is ExchangeRow else error
    yield "refused", f"toBool({refusal} != '')"
    yield "failed", f"toBool({source.status} = 'Error')"
    if source.attributes != "SpanAttributes":
        # An event of somebody else's instrumentation knows neither; its span may.
        own = {name: f"{source.attributes}['{name}']" for name in (_REQUEST, _OPINION)}
        yield "request_id", f"if({own[_REQUEST]} = '', SpanAttributes['{_REQUEST}'], {own[_REQUEST]})"
        made_up = "concat(SpanId, '/', toString(told_at))"
        yield "evaluation_id", f"if({own[_OPINION]} = '', {made_up}, {own[_OPINION]})"
