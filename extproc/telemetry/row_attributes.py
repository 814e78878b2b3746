"""Rows under attribute names: what a span carries, and what the store reads back.

One table for all kinds, because a column means the same wherever it appears. It is data, so that
spans are written from it and the store's SQL is generated from it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from extproc.telemetry import otel_names
from extproc.telemetry.rows import EvaluationRow, ExchangeRow, Row, kind_of

Value = str | bool | int | float | tuple[str, ...]


class Attribute(msgspec.Struct, frozen=True):
    """Under which name a field stands on the span, and how its value differs there."""

    name: str
    per_unit: float = 1.0  # the field counts this many to one of the attribute: 1000 ms are 1 s
    listed: bool = False  # the attribute is a list, of which the field is the one element


# What is not here is in the span itself (``IN_THE_SPAN``).
ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "request_id": Attribute(otel_names.ROUTER_REQUEST_ID),
    "schema": Attribute(otel_names.ROUTER_RECORD_SCHEMA),
    # Of an answer.
    "api": Attribute(otel_names.ROUTER_API),
    "model": Attribute(otel_names.ROUTER_MODEL),
    "upstream_model": Attribute(otel_names.GEN_AI_REQUEST_MODEL),
    "provider": Attribute(otel_names.GEN_AI_PROVIDER_NAME),
    "response_model": Attribute(otel_names.GEN_AI_RESPONSE_MODEL),
    "response_id": Attribute(otel_names.GEN_AI_RESPONSE_ID),
    "cluster": Attribute(otel_names.ROUTER_CLUSTER),
    "stream": Attribute(otel_names.GEN_AI_REQUEST_STREAM),
    "status": Attribute(otel_names.HTTP_RESPONSE_STATUS_CODE),
    "flags": Attribute(otel_names.ROUTER_RESPONSE_FLAGS),
    "finish_reason": Attribute(otel_names.GEN_AI_RESPONSE_FINISH_REASONS, listed=True),
    "refusal": Attribute(otel_names.ROUTER_REFUSAL),
    "first_byte_ms": Attribute(otel_names.ROUTER_FIRST_BYTE_MS),
    "time_to_first_token_ms": Attribute(otel_names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, per_unit=1000.0),
    "request_bytes": Attribute(otel_names.HTTP_REQUEST_BODY_SIZE),
    "response_bytes": Attribute(otel_names.HTTP_RESPONSE_BODY_SIZE),
    "input_tokens": Attribute(otel_names.GEN_AI_USAGE_INPUT_TOKENS),
    "output_tokens": Attribute(otel_names.GEN_AI_USAGE_OUTPUT_TOKENS),
    "cached_tokens": Attribute(otel_names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS),
    "cache_write_tokens": Attribute(otel_names.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS),
    "reasoning_tokens": Attribute(otel_names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS),
    "usage_source": Attribute(otel_names.ROUTER_USAGE_SOURCE),
    "cost_usd": Attribute(otel_names.ROUTER_COST_USD),
    "estimated_cost_usd": Attribute(otel_names.ROUTER_ESTIMATED_COST_USD),
    # Of an exchange.
    "method": Attribute(otel_names.HTTP_REQUEST_METHOD),
    "path": Attribute(otel_names.URL_PATH),
    "route": Attribute(otel_names.ROUTER_ROUTE),
    "original_model": Attribute(otel_names.GEN_AI_ORIGINAL_MODEL),
    "stage": Attribute(otel_names.ROUTER_STAGE),
    "reason": Attribute(otel_names.ROUTER_REASON),
    "rule": Attribute(otel_names.ROUTER_RULE),
    "probability": Attribute(otel_names.ROUTER_PROBABILITY),
    "margin": Attribute(otel_names.ROUTER_MARGIN),
    "similarity": Attribute(otel_names.ROUTER_SIMILARITY),
    "candidates": Attribute(otel_names.ROUTER_CANDIDATES),
    "predicted_quality": Attribute(otel_names.ROUTER_PREDICTED_QUALITY),
    "offers": Attribute(otel_names.ROUTER_OFFERS),
    "version": Attribute(otel_names.ROUTER_CONFIG_VERSION),
    "lexical": Attribute(otel_names.ROUTER_LEXICAL),
    "weight": Attribute(otel_names.ROUTER_WEIGHT),
    "mode": Attribute(otel_names.ROUTER_MODE),
    "would_route": Attribute(otel_names.ROUTER_WOULD_ROUTE),
    "would_model": Attribute(otel_names.ROUTER_WOULD_MODEL),
    "would_cost_usd": Attribute(otel_names.ROUTER_WOULD_COST_USD),
    "bypassed": Attribute(otel_names.ROUTER_BYPASSED),
    "reference_cost_usd": Attribute(otel_names.ROUTER_REFERENCE_COST_USD),
    "attempts": Attribute(otel_names.ROUTER_ATTEMPTS),
    "served_by": Attribute(otel_names.ROUTER_SERVED_BY),
    "reask": Attribute(otel_names.ROUTER_REASK),
    "conversation_id": Attribute(otel_names.GEN_AI_CONVERSATION_ID),
    "tokens": Attribute(otel_names.ROUTER_TOKENS),
    "parse_us": Attribute(otel_names.ROUTER_PARSE_US),
    "rules_us": Attribute(otel_names.ROUTER_RULES_US),
    "queue_us": Attribute(otel_names.ROUTER_QUEUE_US),
    "embed_us": Attribute(otel_names.ROUTER_EMBED_US),
    "total_us": Attribute(otel_names.ROUTER_TOTAL_US),
    "input_messages": Attribute(otel_names.GEN_AI_INPUT_MESSAGES),
    # Of a cascade.
    "cascade": Attribute(otel_names.ROUTER_CASCADE),
    "tier": Attribute(otel_names.ROUTER_TIER),
    "attempt": Attribute(otel_names.ROUTER_ATTEMPT),
    "verdict": Attribute(otel_names.ROUTER_VERDICT),
    "verdict_reason": Attribute(otel_names.ROUTER_VERDICT_REASON),
    "verdict_score": Attribute(otel_names.ROUTER_VERDICT_SCORE),
    "wasted_tokens": Attribute(otel_names.ROUTER_WASTED_TOKENS),
    "wasted_cost_usd": Attribute(otel_names.ROUTER_WASTED_COST_USD),
    "second_model": Attribute(otel_names.ROUTER_SECOND_MODEL),
    "second_outcome": Attribute(otel_names.ROUTER_SECOND_OUTCOME),
    "second_score": Attribute(otel_names.ROUTER_SECOND_SCORE),
    "second_input_tokens": Attribute(otel_names.ROUTER_SECOND_INPUT_TOKENS),
    "second_output_tokens": Attribute(otel_names.ROUTER_SECOND_OUTPUT_TOKENS),
    "second_cost_usd": Attribute(otel_names.ROUTER_SECOND_COST_USD),
    # Of an evaluation.
    "evaluation_id": Attribute(otel_names.ROUTER_EVALUATION_ID),
    "name": Attribute(otel_names.GEN_AI_EVALUATION_NAME),
    "score": Attribute(otel_names.GEN_AI_EVALUATION_SCORE_VALUE),
    "label": Attribute(otel_names.GEN_AI_EVALUATION_SCORE_LABEL),
    "explanation": Attribute(otel_names.GEN_AI_EVALUATION_EXPLANATION),
    "source": Attribute(otel_names.ROUTER_EVALUATION_SOURCE),
    "subject": Attribute(otel_names.ROUTER_EVALUATION_SUBJECT),
    # Of a shadow.
    "primary_model": Attribute(otel_names.ROUTER_PRIMARY_MODEL),
}

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

# The trace, start, end, status and error of the span.
IN_THE_SPAN: Final = frozenset({"time", "trace_id", "duration_ms", "error", "refused", "failed"})


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
