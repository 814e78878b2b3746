"""Builds rows from what Envoy observed: the single place where the facts of a row are derived."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, format_trace_id, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from extproc.apis import api_of
from extproc.errors import BadRequest, Denied, NotCleared, UnknownModel, Unsafe
from extproc.exchanges import Attempt, Envelope, Exchange, Ruling, SecondAnswer, Usage
from extproc.telemetry import otel_names
from extproc.telemetry.rows import AttemptRow, EvaluationRow, ExchangeRow
from extproc.vocabulary import Api, Mode, ModelName

# Labels of the errors that clients are refused with; in mode observe, would have been.
REFUSALS: Final = (BadRequest.label, Denied.label, Unsafe.label, NotCleared.label, UnknownModel.label)

# A client may send any path up to Envoy's header limit. This much identifies a call.
_PATH_LIMIT = 256  # characters

# Response flags that do not say that the answer failed: the client left (DC, DR), retries were
# used up (URX: the status is that of the last one), a delay was injected (DI), a cache answered (RFCF).
_HARMLESS_FLAGS = frozenset({"DC", "DR", "URX", "DI", "RFCF"})

_LEFT = frozenset({"DC", "DR"})  # flags of a client that closed the connection, or reset the stream

# Ends of an answer that are refusals: OpenAI's, of its content filter; Anthropic's, of the model.
_REFUSALS = frozenset({"content_filter", "refusal"})

TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")

_MODES: Final[Mapping[str, Literal["active", "observe"]]] = {
    Mode.ACTIVE: "active",
    Mode.OBSERVE: "observe",
}
_NOTHING_DECIDED = Envelope()
# ``schema`` is the envelope's own version there, and the row's here.
_SHARED: Final = frozenset(Envelope.__struct_fields__) & frozenset(ExchangeRow.__struct_fields__) - {"schema"}
_NOTHING_SEEN = Usage()
_NO_SECOND = SecondAnswer(model=ModelName(""), outcome="")
_PROPAGATOR = TraceContextTextMapPropagator()


def row_of(exchange: Exchange) -> ExchangeRow:
    """The row of one exchange, before its cost is known."""
    envelope = exchange.envelope or _NOTHING_DECIDED
    undecided = exchange.envelope is None
    error = _error(exchange, envelope)
    refused = bool(envelope.error)
    api = envelope.api or exchange.api or api_of(exchange.method, exchange.path) or ""
    return ExchangeRow(
        **{
            **_decided(envelope),
            **_answer(exchange, api),
            "method": exchange.method,
            "path": exchange.path[:_PATH_LIMIT],
            "provider": "" if refused else envelope.provider or otel_names.OPERATIONS.get(api, ("", ""))[1],
            "mode": "unknown" if undecided else _MODES.get(envelope.mode, "unknown"),
            "error": error,
            "bypassed": undecided and not _left_early(exchange),
            "refused": refused,
            "failed": bool(error) and not refused,
            "stream": None if undecided else envelope.stream,
            "attempts": None if refused else exchange.attempts,
            "served_by": exchange.served_by,
            "cascade": exchange.tried[-1].cascade if exchange.tried else "",
            "tier": exchange.tried[-1].tier if exchange.tried else None,
            "input_messages": _messages(envelope.prompt) if envelope.prompt else None,
        }
    )


def _decided(envelope: Envelope) -> dict[str, Any]:
    """The facts of the decision: the fields that the envelope and the row share, under one name."""
    return {name: getattr(envelope, name) for name in _SHARED}


def attempt_row_of(attempt: Attempt) -> AttemptRow:
    """The row of one attempt, before its cost is known."""
    call = attempt.call
    api = call.api or api_of(call.method, call.path) or ""
    second = (attempt.ruling.second if attempt.ruling else None) or _NO_SECOND
    return AttemptRow(
        **_answer(call, api),
        attempt=attempt.number,
        cascade=attempt.cascade,
        tier=attempt.tier,
        verdict=_verdict(attempt.ruling) if attempt.ruling else "",
        verdict_reason=attempt.ruling.reason if attempt.ruling else "",
        verdict_score=attempt.ruling.score if attempt.ruling else None,
        second_model=second.model,
        second_outcome=second.outcome,
        second_score=second.score,
        second_input_tokens=second.input,
        second_output_tokens=second.output,
        model=attempt.model,
        upstream_model=attempt.upstream_model,
        provider=attempt.provider or otel_names.OPERATIONS.get(api, ("", ""))[1],
        error=_attempt_error(call),
    )


def verdict_row_of(attempt: Attempt) -> EvaluationRow | None:
    """The evaluation row of a gate's verdict on one attempt's answer; None without a verdict."""
    ruling, call = attempt.ruling, attempt.call
    if ruling is None:
        return None
    return EvaluationRow(
        time=datetime.fromtimestamp(call.started_at + (call.duration or 0.0), UTC),
        request_id=call.request_id,
        trace_id=_trace_id(call),
        evaluation_id=f"gate/{call.request_id}/{attempt.number}",
        name=ruling.gate,
        score=ruling.score,
        label=_verdict(ruling),
        explanation=ruling.reason,
        source="gate",
        subject="attempt",
        attempt=attempt.number,
        model=attempt.model,
    )


def _answer(exchange: Exchange, api: str) -> dict[str, Any]:
    """The fields of an ``AnswerRow`` that Envoy and the answer itself report."""
    usage = exchange.usage or _NOTHING_SEEN
    return {
        "time": datetime.fromtimestamp(exchange.started_at, UTC),
        "request_id": exchange.request_id,
        "trace_id": _trace_id(exchange),
        "api": api,
        "cluster": exchange.cluster,
        "status": exchange.status or None,
        "flags": exchange.flags,
        "duration_ms": _milliseconds(exchange.duration),
        "first_byte_ms": _milliseconds(exchange.first_byte),
        "request_bytes": exchange.request_bytes,
        "response_bytes": exchange.response_bytes,
        "input_tokens": _input_tokens(api, usage),
        "output_tokens": usage.output,
        "cached_tokens": usage.cached,
        "cache_write_tokens": usage.cache_write,
        "reasoning_tokens": usage.reasoning,
        "usage_source": "unknown" if usage.input is None and usage.output is None else "answer",
        "finish_reason": usage.finish,
        "refusal": _refusal(usage),
        "response_id": usage.response_id,
        "response_model": usage.response_model,
        "time_to_first_token_ms": _first_token(exchange, usage),
    }


def _left_early(exchange: Exchange) -> bool:
    """Whether the client left before any model was asked, and before anything was answered."""
    return not exchange.status and not exchange.attempts and not _LEFT.isdisjoint(exchange.flags)


def _verdict(ruling: Ruling) -> str:
    return "escalate" if ruling.escalate else "accept"


def refusal_of(row: ExchangeRow) -> str:
    """The label of the error that the client was refused with or, in mode observe, would have been."""
    if row.refused:
        return row.error
    return row.reason if row.mode == "observe" and row.reason in REFUSALS else ""


def _remote_span(traceparent: str) -> SpanContext | None:
    """The span that a W3C ``traceparent`` names; None when it is not valid."""
    context = _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())
    span = get_current_span(context).get_span_context()
    return span if span.is_valid else None


def caller_of(exchange: Exchange) -> SpanContext | None:
    """The parent span of the exchange: from the traceparent that the sidecar got, else the provider's."""
    received = exchange.envelope.traceparent if exchange.envelope else ""
    return _remote_span(received or exchange.traceparent)


def _trace_id(exchange: Exchange) -> str:
    """The trace that the exchange belongs to, else one made of the request's id.

    Every process that reports the exchange, once or again, computes the same id.
    """
    span = caller_of(exchange)
    return own_trace_id(exchange.request_id) if span is None else format_trace_id(span.trace_id)


def own_trace_id(request_id: str) -> str:
    """The trace id of a request that has no trace."""
    digits = request_id.replace("-", "").lower()
    if TRACE_ID.fullmatch(digits):
        return digits  # a UUID, as Envoy makes them, is found by either name
    return blake2b(request_id.encode(), digest_size=16).hexdigest()


def _messages(prompt: str) -> str:
    """The conventions' ``gen_ai.input.messages`` of one user turn, as JSON."""
    message = {"role": "user", "parts": [{"type": "text", "content": prompt}]}
    return msgspec.json.encode([message]).decode()


def _error(exchange: Exchange, envelope: Envelope) -> str:
    """The low-cardinality ``error.type`` of the conventions, or empty.

    A flag is more exact than the status: when Envoy could not reach the provider, the
    status is one that Envoy made up.
    """
    if envelope.error:
        return envelope.error
    failure = next((flag for flag in exchange.flags if flag not in _HARMLESS_FLAGS), "")
    return failure or (str(exchange.status) if exchange.status >= 400 else "")


def _attempt_error(call: Exchange) -> str:
    """As ``_error``, but an attempt without an answer failed, even if the router ended it.

    An attempt whose answer was cut off by the gate has the flag too: its status is the answer's.
    """
    if not call.status:
        return next(iter(call.flags), "")
    failure = next((flag for flag in call.flags if flag not in _HARMLESS_FLAGS), "")
    return failure or (str(call.status) if call.status >= 400 else "")


def _input_tokens(api: str, usage: Usage) -> int | None:
    """All that the model read. Anthropic counts what went through its cache apart, as others do not."""
    if usage.input is None or api != Api.ANTHROPIC_MESSAGES:
        return usage.input
    return usage.input + (usage.cached or 0) + (usage.cache_write or 0)


def _refusal(usage: Usage) -> bool | None:
    if usage.refusal or usage.finish in _REFUSALS:
        return True
    return False if usage.finish else None


def _first_token(exchange: Exchange, usage: Usage) -> float | None:
    """Milliseconds to the first token, if it was seen: a provider may send its head long before."""
    seen = usage.first_token_at
    return None if seen is None else _milliseconds(max(0.0, seen - exchange.started_at))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
