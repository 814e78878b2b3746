"""The spans of one exchange, all made at once when it is over.

route                     CHAIN: the exchange as Envoy saw it, and its record
├─ rules                  CHAIN: everything that was decided without waiting
├─ embeddings MODEL       EMBEDDING: our encoder, its queue included
├─ score                  CHAIN: scorer, calibration, choice of a model
└─ chat MODEL             LLM, CLIENT: the call, from the decision to the answer's last byte

Behind hops each attempt is such a call. It is emitted when that attempt is over, and always: it is a
record too.

A step that did not run has no span. Ids are hashes of the request's, so every process that reports
the exchange emits the same spans, and other spans can be placed below them. An unsampled parent is not
used as parent: the exchange then is a root of the same trace, with a link to it.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from extproc.exchanges import Envelope
from extproc.telemetry import otel_names
from extproc.telemetry.row_building import TRACE_ID, caller_of, own_trace_id
from extproc.telemetry.rows import ATTRIBUTES, AttemptRow, Attribute, EvaluationRow, ExchangeRow, Row, kind_of
from extproc.telemetry.sinks import Outcome
from extproc.vocabulary import Reason, Stage

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


_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_CHAIN = {otel_names.OPENINFERENCE_SPAN_KIND: "CHAIN"}
_GUARDRAIL = {otel_names.OPENINFERENCE_SPAN_KIND: "GUARDRAIL"}
# What can go wrong with the encoder; each leaves the decision to the default model.
_ENCODER_TROUBLE = frozenset({Reason.DEADLINE, Reason.OVERLOADED, Reason.ENCODER_ERROR})
_NOTHING_DECIDED = Envelope()


class Origin(msgspec.Struct, frozen=True):
    """The process that emits the spans."""

    resource: Resource
    scope: InstrumentationScope
    encoder: str  # the model that embeds, as the registry names it


class _Part(msgspec.Struct, frozen=True):
    """A span below the exchange's. Times are nanoseconds since the epoch."""

    name: str
    start: int
    end: int
    attributes: dict[str, Value]
    kind: SpanKind = SpanKind.INTERNAL
    failed: bool = False


def spans_of(outcome: Outcome, origin: Origin) -> list[ReadableSpan]:
    """The exchange's span and, when its trace is kept, those below it."""
    exchange, row = outcome.exchange, outcome.row
    start = round(exchange.started_at * 1e6) * 1000  # a float of seconds holds no nanoseconds
    end = start + round((exchange.duration or 0.0) * 1e9)
    caller = caller_of(exchange)
    under_caller = caller is not None and caller.trace_flags.sampled
    context = _context(row, otel_names.ROUTE_SPAN)
    whole = ReadableSpan(
        name=otel_names.ROUTE_SPAN,
        context=context,
        parent=caller if under_caller else None,
        links=() if under_caller or caller is None else (Link(caller),),
        resource=origin.resource,
        instrumentation_scope=origin.scope,
        attributes=attributes_of(row),
        status=_status(row.failed),
        start_time=start,
        end_time=end,
    )
    if not outcome.kept:
        return [whole]
    parts = [
        ReadableSpan(
            name=part.name,
            context=_context(row, part.name),
            parent=context,
            resource=origin.resource,
            instrumentation_scope=origin.scope,
            attributes=part.attributes,
            kind=part.kind,
            status=_status(part.failed),
            start_time=part.start,
            end_time=part.end,
        )
        for part in _parts(outcome, origin.encoder, start, end)
    ]
    return [whole, *parts]


def span_of_attempt(row: AttemptRow, verdict: EvaluationRow | None, origin: Origin) -> ReadableSpan:
    """The span of one attempt, below that of its exchange; its gate's verdict is an event of it."""
    start = round(row.time.timestamp() * 1e6) * 1000
    operation = otel_names.OPERATIONS.get(row.api, ("", ""))[0]
    return ReadableSpan(
        name=f"{operation} {row.upstream_model}".strip(),
        context=_context(row, f"{otel_names.ATTEMPT_SPAN} {row.attempt}"),
        parent=_context(row, otel_names.ROUTE_SPAN),
        resource=origin.resource,
        instrumentation_scope=origin.scope,
        attributes=attributes_of(row),
        events=[_event(verdict)] if verdict else [],
        kind=SpanKind.CLIENT,
        status=_status(bool(row.error)),
        start_time=start,
        end_time=start + round((row.duration_ms or 0.0) * 1e6),
    )


def _event(verdict: EvaluationRow) -> Event:
    about = attributes_of(verdict)
    del (
        about[otel_names.ROUTER_RECORD],
        about[otel_names.OPENINFERENCE_SPAN_KIND],
    )  # which make a span a record
    at = round(verdict.time.timestamp() * 1e6) * 1000
    return Event(otel_names.GEN_AI_EVALUATION_RESULT, about, timestamp=at)


def span_of_evaluation(row: EvaluationRow, origin: Origin) -> ReadableSpan:
    """The span of one evaluation: it has no duration, and is the same whenever it is emitted again.

    It is in the trace that the evaluation names, below the exchange if that is named too. Otherwise its
    trace is made of the request's id, as the exchange's is unless Envoy or the client had a trace.
    """
    known = TRACE_ID.fullmatch(row.trace_id) is not None
    trace_id = row.trace_id if known else own_trace_id(row.request_id or row.trace_id)
    exchange = _identity(trace_id, otel_names.ROUTE_SPAN, row.request_id)
    at = round(row.time.timestamp() * 1e6) * 1000
    return ReadableSpan(
        name=f"{otel_names.EVALUATE_SPAN} {row.name}",
        context=_identity(trace_id, otel_names.EVALUATE_SPAN, row.evaluation_id),
        parent=exchange if known and row.request_id else None,
        resource=origin.resource,
        instrumentation_scope=origin.scope,
        attributes=attributes_of(row),
        start_time=at,
        end_time=at,
    )


def _parts(outcome: Outcome, encoder: str, start: int, end: int) -> Iterator[_Part]:
    row, envelope = outcome.row, outcome.exchange.envelope or _NOTHING_DECIDED
    by_hops = bool(outcome.exchange.tried)  # whose attempts are the calls
    began = _began(envelope, start, end)
    asked = began + _nanoseconds(row.parse_us)
    ruled = asked + _nanoseconds(row.rules_us)
    decided = asked + _nanoseconds(row.total_us)
    if row.rules_us is not None:
        yield _Part(otel_names.RULES_SPAN, asked, ruled, _about_the_rules(row))
    if row.reason in _ENCODER_TROUBLE:
        about = {**_about_the_encoder(row, encoder), otel_names.ERROR_TYPE: row.reason}
        yield _Part(_embeddings(encoder), ruled, decided, about, failed=True)
    elif row.embed_us is not None:
        embedded = ruled + _nanoseconds(row.queue_us) + _nanoseconds(row.embed_us)
        yield _Part(_embeddings(encoder), ruled, embedded, _about_the_encoder(row, encoder))
        scored = max(embedded, decided - _nanoseconds(row.llm_us))
        yield _Part(otel_names.SCORE_SPAN, embedded, scored, _about_the_scores(row))
    if row.llm_us:
        asked_at = max(ruled, decided - _nanoseconds(row.llm_us))
        yield _Part(
            f"{otel_names.CHAT} {row.llm_model}", asked_at, decided, _about_the_llm(row), kind=SpanKind.CLIENT
        )
    if row.api in otel_names.OPERATIONS and not row.refused and not by_hops:
        yield _call(row, min(decided, end), start, end)


def _call(row: ExchangeRow, decided: int, start: int, end: int) -> _Part:
    operation, _ = otel_names.OPERATIONS[row.api]
    about = dict(pair for field in CALL_FIELDS if (pair := attribute_of(row, field)) is not None)
    about[otel_names.GEN_AI_OPERATION_NAME] = operation
    if row.error:
        about[otel_names.ERROR_TYPE] = row.error
    if row.time_to_first_token_ms is not None:
        # The row counts from the client's request, the call from its own beginning.
        waited = row.time_to_first_token_ms / 1e3 - (decided - start) / 1e9
        about[otel_names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = round(max(0.0, waited), 6)
    name = f"{operation} {row.upstream_model}".rstrip()
    return _Part(name, decided, end, about, kind=SpanKind.CLIENT, failed=row.failed)


def _about_the_rules(row: ExchangeRow) -> dict[str, Value]:
    about: dict[str, Value] = dict(_GUARDRAIL if row.stage == Stage.DENY else _CHAIN)
    if row.stage in (Stage.DENY, Stage.PIN, Stage.RULE, Stage.LEXICAL):
        about |= {otel_names.ROUTER_STAGE: row.stage, otel_names.ROUTER_REASON: row.reason}
    if row.rule:
        about[otel_names.ROUTER_RULE] = row.rule
    return about


def _about_the_encoder(row: ExchangeRow, encoder: str) -> dict[str, Value]:
    about: dict[str, Value] = {
        otel_names.GEN_AI_OPERATION_NAME: otel_names.EMBEDDINGS,
        otel_names.GEN_AI_PROVIDER_NAME: otel_names.DEFAULT_SERVICE_NAME,
        otel_names.GEN_AI_REQUEST_MODEL: encoder,
    }
    if row.tokens is not None:
        about[otel_names.GEN_AI_USAGE_INPUT_TOKENS] = row.tokens
    if row.queue_us is not None:
        about[otel_names.ROUTER_QUEUE_US] = row.queue_us
    return about


def _about_the_scores(row: ExchangeRow) -> dict[str, Value]:
    pairs = (attribute_of(row, field) for field in _SCORE_FIELDS)
    return {**_CHAIN, **dict(pair for pair in pairs if pair is not None)}


def _about_the_llm(row: ExchangeRow) -> dict[str, Value]:
    tokens = {
        otel_names.GEN_AI_USAGE_INPUT_TOKENS: row.llm_input_tokens,
        otel_names.GEN_AI_USAGE_OUTPUT_TOKENS: row.llm_output_tokens,
    }
    pairs = (attribute_of(row, field) for field in ("llm_result", "llm_doubt", "llm_cost_usd", "llm_why"))
    return {
        otel_names.GEN_AI_OPERATION_NAME: otel_names.CHAT,
        otel_names.GEN_AI_REQUEST_MODEL: row.llm_model,
        **{name: count for name, count in tokens.items() if count is not None},
        **dict(pair for pair in pairs if pair is not None),
    }


_SCORE_FIELDS = (
    *("route", "would_route", "stage", "reason"),
    *("probability", "margin", "similarity", "in_scope", "read_part", "misspelt", "candidates"),
    *("predicted_quality", "offers", "training_similarity"),
)


def _embeddings(encoder: str) -> str:
    return f"{otel_names.EMBEDDINGS} {encoder}"


def _began(envelope: Envelope, start: int, end: int) -> int:
    """When the body was there, by the sidecar's clock; where that cannot be, when the exchange began."""
    began = (envelope.began_us or 0) * 1000
    return began if start <= began <= end else start


def _context(row: Row, name: str) -> SpanContext:
    return _identity(row.trace_id, name, row.request_id)


def _identity(trace_id: str, name: str, of: str) -> SpanContext:
    """The identity of the span of this name for this request or evaluation."""
    span_id = int.from_bytes(blake2b(f"{name} {of}".encode(), digest_size=8).digest())
    return SpanContext(int(trace_id, 16), span_id, is_remote=False, trace_flags=_SAMPLED)


def _status(failed: bool) -> Status:
    return Status(StatusCode.ERROR if failed else StatusCode.UNSET)


def _nanoseconds(microseconds: int | None) -> int:
    return (microseconds or 0) * 1000
