"""The attributes of a row's span, by the names that stand on the row's fields."""

from typing import Any, Final

import msgspec

from extproc.telemetry import otel_names
from extproc.telemetry.rows import ATTRIBUTES, Attribute, EvaluationRow, ExchangeRow, Row, kind_of

Value = str | bool | int | float | tuple[str, ...]


# The fields on the span of an exchange's LLM call, beside its operation, error and first token.
CALL_FIELDS: Final = (
    *("request_id", "model", "upstream_model", "original_model", "provider", "stream", "conversation_id"),
    *(
        "response_id",
        "response_model",
        "finish_reason",
        "refusal",
        "status",
        "attempts",
        "served_by",
        "cluster",
    ),
    *("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("cost_usd", "cascade", "tier", "input_messages"),
)

_UNKNOWN = (None, "", ())


def attributes_of(row: Row) -> dict[str, Value]:
    """The attributes of the span of ``row``; unknown values are absent."""
    fields = msgspec.structs.asdict(row)
    known = {
        attribute.name: _value_of(attribute, fields[field])
        for field, attribute in ATTRIBUTES.items()
        if fields.get(field) not in _UNKNOWN
    }
    return {otel_names.ROUTER_RECORD: kind_of(row)} | known | _about_the_call(row)


def attribute_of(row: Row, field: str) -> tuple[str, Value] | None:
    """One field of ``row`` as an attribute; None when its value is not known."""
    value = getattr(row, field)
    return None if value in _UNKNOWN else (ATTRIBUTES[field].name, _value_of(ATTRIBUTES[field], value))


def _value_of(attribute: Attribute, value: Any) -> Value:
    if attribute.listed:
        return (value,)
    scaled: Value = value if attribute.per_unit == 1.0 else value / attribute.per_unit
    return scaled


def _about_the_call(row: Row) -> dict[str, Value]:
    """Attributes that the conventions require besides: the operation and its error."""
    if isinstance(row, EvaluationRow):
        return {otel_names.OPENINFERENCE_SPAN_KIND: "EVALUATOR"}
    if isinstance(row, ExchangeRow):
        # It names no operation: the call is a span of its own, and would be counted twice.
        # Refusing is the router's work well done: a label, not an error of the span.
        label = otel_names.ROUTER_REFUSED if row.refused else otel_names.ERROR_TYPE
        chain: dict[str, Value] = {otel_names.OPENINFERENCE_SPAN_KIND: "CHAIN"}
        return chain | ({label: row.error} if row.error else {})
    call = {
        otel_names.GEN_AI_OPERATION_NAME: otel_names.OPERATIONS.get(getattr(row, "api", ""), ("", ""))[0],
        otel_names.ERROR_TYPE: getattr(row, "error", ""),
    }
    return {name: value for name, value in call.items() if value}
