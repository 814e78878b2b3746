"""Load segments into the store without duplicates: `extproc records import`.

The store itself does the work, by one INSERT for each kind of row: it turns lines into spans with the usual
attribute names. A row that is in the table already, from an earlier import or from a collector, is not
inserted again. So an import can be repeated.

Other sources, such as Envoy's JSON access log, are first written as segments and then loaded here.
"""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from extproc.errors import OperatorError
from extproc.lab.store.columns import ERROR, RECORD, REFUSED, attributed, column_name, kept
from extproc.lab.store.record_store import Store
from extproc.lab.store.store_schema import IDENTITY, TABLE, statements
from extproc.telemetry import otel_names
from extproc.telemetry.rows import KINDS, EvaluationRow, ExchangeRow, Row, kind_of
from extproc.telemetry.segments import segment_paths


class ImportedSegment(msgspec.Struct, frozen=True):
    """The counts of one import."""

    files: int = 0
    lines: int = 0
    rows: int = 0  # new in the store
    known: int = 0  # in the store already, or twice in the segments
    bad: int = 0  # not JSON, or of an unknown kind: cut by a crash, or from a later version

    def __add__(self, other: "ImportedSegment") -> "ImportedSegment":
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return ImportedSegment(*(a + b for a, b in zip(mine, theirs, strict=True)))


def prepare(store: Store) -> None:
    """Create the table and the views if they do not exist."""
    for statement in statements():
        store.run(statement)


def segments_in(paths: Iterable[Path]) -> list[Path]:
    """The files at ``paths``; a directory stands for its segments.

    Raises:
        OperatorError: a path does not exist, or a directory has no segment.
    """
    found: list[Path] = []
    for path in paths:
        segments = segment_paths(path) if path.is_dir() else [path] if path.is_file() else []
        if not segments:
            raise OperatorError(f"{path}: no records there (expected a segment, or a directory of segments)")
        found += segments
    return found


def load(store: Store, segment: Path, *, attributes: bool = True) -> ImportedSegment:
    """Load one segment. Raises ``OperatorError`` if the store refuses.

    Without ``attributes`` only the columns that the views read are loaded, which takes half of the time. This
    is for a store that only a report reads.
    """
    with store.staged(segment) as lines:
        found = {part.kind: part for part in _survey(store, lines)}
        before = _count(store)
        for kind in KINDS:
            part = found.get(kind_of(kind))
            if part is not None:
                store.run(_insert(kind, lines, part, attributes=attributes))
        added = _count(store) - before
    total = sum(part.lines for part in found.values())
    good = sum(found[name].lines for name in map(kind_of, KINDS) if name in found)
    return ImportedSegment(1, total, added, good - added, total - good)


def orphans(store: Store) -> int:
    """The number of opinions on requests that are not in the store (yet)."""
    (found,) = store.rows(
        "SELECT count() AS opinions FROM evaluations "
        "WHERE request_id != '' AND request_id NOT IN (SELECT request_id FROM exchanges)"
    )
    return int(found["opinions"])


def recorded_since(store: Store, since: datetime) -> int:
    """The number of distinct exchanges and attempts that began at ``since`` or later."""
    moment = {"since": round(since.timestamp() * 1e6)}
    begun = "time >= fromUnixTimestamp64Micro({since:Int64})"
    (found,) = store.rows(
        f"SELECT (SELECT uniqExact(request_id) FROM exchanges WHERE {begun}) "
        f"+ (SELECT uniqExact(request_id, attempt) FROM attempts WHERE {begun}) AS rows",
        moment,
    )
    return int(found["rows"])


class _Part(msgspec.Struct, frozen=True):
    """The lines of one kind in a segment."""

    kind: str  # empty: lines that are not JSON
    lines: int
    begin: str  # the times of the first and the last line
    end: str


def _survey(store: Store, lines: str) -> list[_Part]:
    head = "JSONExtract(line, 'Tuple(kind String, time String)')"
    return msgspec.convert(
        store.rows(
            f"SELECT head.kind AS kind, count() AS lines, "
            f"toString(min({_at('head.time')})) AS begin, toString(max({_at('head.time')})) AS end "
            f"FROM (SELECT {head} AS head FROM {lines}) GROUP BY kind"
        ),
        list[_Part],
    )


def _at(time: str) -> str:
    return f"parseDateTime64BestEffortOrZero({time}, 9, 'UTC')"


def _count(store: Store) -> int:
    (found,) = store.rows(f"SELECT count() AS rows FROM {TABLE}")
    return int(found["rows"])


def _insert(kind: type[Row], lines: str, part: _Part, *, attributes: bool) -> str:
    """One statement that loads the rows of one kind that are not in the table yet."""
    identity = ", ".join(f"row.{name}" for name in IDENTITY[kind])
    stored = ", ".join(column_name(name) for name in IDENTITY[kind])
    columns = {
        RECORD: f"'{kind_of(kind)}'",
        REFUSED: _refusal(kind),
        ERROR: _error(kind),
        **kept(kind, "row"),
    }
    # An opinion may be sent again with another time; the time of other rows never changes.
    begin, end = (f"toDateTime64('{time}', 9, 'UTC')" for time in (part.begin, part.end))
    nearby = "" if kind is EvaluationRow else f"AND Timestamp BETWEEN {begin} AND {end}"
    return f"""\
INSERT INTO {TABLE} (Timestamp, TraceId, SpanId, SpanName, SpanKind, ServiceName, ResourceAttributes,
    ScopeName, SpanAttributes, Duration, StatusCode, {", ".join(columns)})
SELECT
    {_at("row.time")},
    row.trace_id,
    leftPad(lower(hex(sipHash64('{kind_of(kind)}', {identity}))), 16, '0'),
    {_span_name(kind)},
    {_span_kind(kind)},
    '{otel_names.DEFAULT_SERVICE_NAME}',
    map('{otel_names.SERVICE_NAME}', '{otel_names.DEFAULT_SERVICE_NAME}'),
    'extproc',
    {_attributes(kind) if attributes else "map()"},
    {_duration(kind)},
    {_status(kind)},
    {", ".join(columns.values())}
FROM (
    SELECT JSONExtract(line, '{_tuple(kind)}') AS row FROM {lines}
    WHERE position(line, '"{kind_of(kind)}"') > 0 -- most lines of other kinds need not be parsed
)
WHERE row.kind = '{kind_of(kind)}'
AND ({identity}) NOT IN (
    SELECT {stored} FROM {TABLE} WHERE {RECORD} = '{kind_of(kind)}' {nearby}
)
LIMIT 1 BY {identity}
SETTINGS max_partitions_per_insert_block = 0"""


def _attributes(kind: type[Row]) -> str:
    """The attributes of a row's span, as a map."""
    pairs = ", ".join(
        f"'{attribute.name}', {column.write(f'row.{field.encode_name}', attribute)}"
        for field, attribute, column in attributed(kind)
    )
    record = f"'{otel_names.ROUTER_RECORD}', '{kind_of(kind)}'"
    return f"mapFilter((name, value) -> value != '', map({record}, {pairs}, {_about_the_call(kind)}))"


def _tuple(kind: type[Row]) -> str:
    """The type of a line of this kind; members that a line lacks are null, empty or false."""
    in_the_span = {
        "kind": "String",
        "time": "String",
        "trace_id": "String",
        "duration_ms": "Nullable(Float64)",
        "error": "String",
        "refused": "Bool",
    }
    columns = {name: json for name, json in in_the_span.items() if name in ("kind", *kind.__struct_fields__)}
    columns |= {field.encode_name: column.type for field, _, column in attributed(kind)}
    return "Tuple(" + ", ".join(f"{name} {json}" for name, json in columns.items()) + ")"


# What ``span_trees`` adds to a row's fields, in SQL.


def _operation() -> str:
    apis = ", ".join(f"'{api}'" for api in otel_names.OPERATIONS)
    names = ", ".join(f"'{operation}'" for operation, _ in otel_names.OPERATIONS.values())
    return f"transform(row.api, [{apis}], [{names}], '')"


def _span_name(kind: type[Row]) -> str:
    if kind is EvaluationRow:
        return f"concat('{otel_names.EVALUATE_SPAN} ', row.name)"
    if kind is ExchangeRow:
        return f"'{otel_names.ROUTE_SPAN}'"
    operation = _operation()
    return f"trimRight(concat(if({operation} = '', 'call', {operation}), ' ', row.upstream_model))"


def _span_kind(kind: type[Row]) -> str:
    return "'Internal'" if kind in (EvaluationRow, ExchangeRow) else "'Client'"


def _about_the_call(kind: type[Row]) -> str:
    if kind is EvaluationRow:
        return f"'{otel_names.OPENINFERENCE_SPAN_KIND}', 'EVALUATOR'"
    if kind is ExchangeRow:
        found = {
            otel_names.OPENINFERENCE_SPAN_KIND: "'CHAIN'",
            otel_names.ROUTER_REFUSED: _refusal(kind),
            otel_names.ERROR_TYPE: _error(kind),
        }
    else:
        found = {otel_names.GEN_AI_OPERATION_NAME: _operation(), otel_names.ERROR_TYPE: _error(kind)}
    return ", ".join(f"'{name}', {expression}" for name, expression in found.items())


def _refusal(kind: type[Row]) -> str:
    return "if(row.refused, row.error, '')" if kind is ExchangeRow else "''"


def _error(kind: type[Row]) -> str:
    if kind is EvaluationRow:
        return "''"
    return "if(row.refused, '', row.error)" if kind is ExchangeRow else "row.error"


def _duration(kind: type[Row]) -> str:
    return "toUInt64(0)" if kind is EvaluationRow else "toUInt64(round(ifNull(row.duration_ms, 0) * 1e6))"


def _status(kind: type[Row]) -> str:
    if kind is EvaluationRow:
        return "'Unset'"
    answered = "row.error = '' OR row.refused" if kind is ExchangeRow else "row.error = ''"
    return f"if({answered}, 'Unset', 'Error')"
