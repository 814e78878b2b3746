"""How the store keeps a row's fields: as attributes of a span, and as columns of their own types.

The collector's exporter writes all attributes as strings in one map, and a query for one attribute reads the
whole map. So the table has a column for each attribute, too. The column's default reads the attribute, so
rows that the exporter inserts fill the columns as well.
"""

import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec.structs import FieldInfo

from extproc.telemetry import otel_names
from extproc.telemetry.rows import KINDS, Attribute, Row, RowField, fields_of

# The row's kind, refusal and error, which a span has under other names.
RECORD, REFUSED, ERROR = "router_record", "router_refused", "router_error"
_OF_THE_SPAN = {
    RECORD: otel_names.ROUTER_RECORD,
    REFUSED: otel_names.ROUTER_REFUSED,
    ERROR: otel_names.ERROR_TYPE,
}


class Column(msgspec.Struct, frozen=True):
    """How values of one Python type are written as a column, as JSON and as an attribute.

    ``read`` makes the column from an attribute (a string, empty if absent), ``write`` makes the attribute
    from the JSON value, and ``keep`` makes the column from the JSON value.
    """

    type: str  # ClickHouse's, of the column and of the JSON value
    read: Callable[[str, Attribute], str]
    write: Callable[[str, Attribute], str]
    keep: Callable[[str, Attribute], str] = lambda value, _: value


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


def _keep_number(value: str, attribute: Attribute) -> str:
    """The number that ``read`` gives after ``write``, to the last digit."""
    unit = attribute.per_unit
    return value if unit == 1.0 else f"{value} / {unit} * {unit}"


_TEXT = Column("String", _read_text, _write_text)
_MAYBE_TEXT = Column(
    "Nullable(String)",
    lambda value, _: f"nullIf({value}, '')",
    lambda value, _: f"ifNull({value}, '')",
    lambda value, _: f"nullIf({value}, '')",
)
_WHOLE = Column(
    "Nullable(Int64)",
    lambda value, _: f"toInt64OrNull({value})",
    lambda value, _: f"ifNull(toString({value}), '')",
)
_NUMBER = Column("Nullable(Float64)", _read_number, _write_number, _keep_number)
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


def column_of(field: RowField) -> Column:
    """How a field of a row is stored."""
    if typing.get_origin(field.type) is not Literal:
        return _COLUMNS[field.type]

    def read(value: str, _: Attribute) -> str:
        return f"if({value} = '', '{field.info.default}', {value})"  # the default of a line without it

    return Column("String", read, lambda value, _: value, read)


def attributed(kind: type[Row]) -> Iterator[tuple[FieldInfo, Attribute, Column]]:
    """The fields of a kind that its span has as attributes."""
    for field in fields_of(kind):
        if field.attribute is not None:
            yield field.info, field.attribute, column_of(field)


class Stored(msgspec.Struct, frozen=True):
    """A column of the table beside the exporter's own."""

    name: str
    type: str
    default: str  # reads it from the span


def column_name(field: str) -> str:
    """The name of a field's column."""
    return f"router_{field}"


def stored() -> Iterator[Stored]:
    """The columns that the table has beside the exporter's own. Kinds share columns of the same name."""
    for name, attribute_name in _OF_THE_SPAN.items():
        yield Stored(name, "LowCardinality(String)", _in_the_map(attribute_name))
    for name, (attribute, column) in _every().items():
        yield Stored(column_name(name), column.type, column.read(_in_the_map(attribute.name), attribute))


def kept(kind: type[Row], row: str) -> dict[str, str]:
    """The value of each column for a row of ``kind``, whose JSON members are those of ``row``."""
    own = {field.name: field.encode_name for field, _, _ in attributed(kind)}
    return {
        column_name(name): column.keep(f"{row}.{own[name]}", attribute)
        if name in own
        else f"defaultValueOfTypeName('{column.type}')"
        for name, (attribute, column) in _every().items()
    }


def _every() -> Mapping[str, tuple[Attribute, Column]]:
    """The fields of all kinds that are attributes, by name."""
    fields = (each for kind in KINDS for each in attributed(kind))
    return {field.name: (attribute, column) for field, attribute, column in fields}


def _in_the_map(attribute: str) -> str:
    return f"SpanAttributes['{attribute}']"
