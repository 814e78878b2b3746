"""What happened as flat rows: the single place where its facts are derived.

Records are these rows as JSON, spans are these rows under attribute names (``attributes``), the
store's views are these rows again, and metrics count from them, so the four cannot disagree.

Four kinds, fixed so that what joins later needs no migration: an ``exchange`` per request; an
``attempt`` per tier that a cascade asked for it; an ``evaluation`` per opinion on an answer (a
gate's verdict, a judge's score, a user's feedback), often days later; a ``shadow`` per mirrored
request. All join by ``request_id``. What is not known is null (numbers, truths), empty (texts) or
``unknown`` (choices), never 0. Lines of an older version lack later fields: those are not known.
"""

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
from extproc.errors import BadRequest, Denied, UnknownModel
from extproc.telemetry import otel_names
from extproc.vocabulary import Api, Attempt, Envelope, Exchange, Mode, Ruling, SecondAnswer, Usage

SCHEMA = 1  # of the rows; raised when a field changes its meaning or goes, not when one is added

# What a client is refused with: the reasons of requests that were, or in mode observe would have been.
REFUSALS: Final = (BadRequest.label, Denied.label, UnknownModel.label)

# A path is whatever a client sends, up to Envoy's header limit, and is kept to recognise a call by.
_PATH_LIMIT = 256  # characters

# Response flags that do not say that the answer failed: the client left (DC, DR), retries were
# used up (URX: the status tells of the last one), a delay was injected (DI), a cache answered (RFCF).
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
_NOTHING_SEEN = Usage()
_NO_SECOND = SecondAnswer(model="", outcome="")
_PROPAGATOR = TraceContextTextMapPropagator()


class Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every kind has."""

    time: datetime  # when it began, UTC
    request_id: str  # Envoy's x-request-id, by which all kinds join
    trace_id: str = ""  # of Envoy's or the client's trace; an exchange without one has its own
    schema: int = SCHEMA  # version of the record format


class AnswerRow(Row, frozen=True, kw_only=True):
    """What is known of one model's answer, whoever got it."""

    api: str = ""  # the API that the client speaks, such as openai.chat
    model: str = ""  # the registry's name of the model; of an exchange, the decided one
    upstream_model: str = ""  # the name that was sent to the provider
    provider: str = ""  # the registry's `provider` of the model
    response_model: str = ""  # the name in the provider's answer
    response_id: str = ""  # the provider's id of the answer
    cluster: str = ""  # Envoy's cluster
    stream: bool | None = None  # whether the client asked for a stream
    status: int | None = None  # HTTP status; null: the client left before an answer
    error: str = ""  # label of a refusal, else Envoy's flag, else the status; empty: no error
    flags: tuple[str, ...] = ()  # Envoy's response flags
    finish_reason: str = ""  # how the answer ended, in the API's own word
    # Whether the model refused, by the API's own word for it; a refusal in plain prose is not seen. Null:
    # how the answer ended was not seen either.
    refusal: bool | None = None
    duration_ms: float | None = None  # from the request until the last byte of the answer
    first_byte_ms: float | None = None  # until the provider's first byte, which may come before any token
    time_to_first_token_ms: float | None = None  # only if the token itself was seen
    request_bytes: int | None = None  # size of the request body
    response_bytes: int | None = None  # size of the answer's body
    input_tokens: int | None = None  # includes tokens from the provider's cache
    output_tokens: int | None = None  # includes reasoning tokens
    cached_tokens: int | None = None  # input tokens read from the provider's cache
    cache_write_tokens: int | None = None  # input tokens written to the provider's cache
    reasoning_tokens: int | None = None  # output tokens spent on reasoning
    usage_source: Literal["answer", "unknown"] = "unknown"  # `answer`: the provider reported the tokens
    cost_usd: float | None = None  # at the prices of the registry version that decided
    # Of an answer that told no usage: a rough cost, by the sizes of the bodies. Never beside a cost_usd.
    estimated_cost_usd: float | None = None


class ExchangeRow(AnswerRow, frozen=True, kw_only=True, tag="exchange"):
    """One finished exchange. With a cascade, tokens and cost are those of all attempts."""

    method: str = ""  # HTTP method
    path: str = ""  # without its query, cut to 256 characters
    route: str = ""  # the decided route; empty: none
    original_model: str = ""  # the name that the client sent
    stage: str = ""  # the stage that decided: deny, pin, rule, lexical, embedding, default
    reason: str = ""  # why the decision came out as it did
    rule: str = ""  # the rule that decided
    probability: float | None = None  # calibrated probability of the most probable route
    margin: float | None = None  # probability of the best route minus that of the second
    similarity: float | None = None  # cosine to the nearest example
    candidates: tuple[str, ...] = ()  # "route:probability", the most probable few first
    predicted_quality: float | None = None  # the probability that the model's answer is good, beforehand
    offers: tuple[str, ...] = ()  # "model:predicted quality" of a few that could have been chosen
    version: str = ""  # version of the registry that decided
    lexical: str = ""  # whether the fast path agreed, in its sample: agreed, disagreed
    weight: float | None = None  # how many fast-path requests this sampled one stands for; null: only itself
    mode: Literal["active", "observe", "unknown"] = "unknown"  # observe: decided and not obeyed
    would_route: str = ""  # the decided route, in mode observe
    would_model: str = ""  # the decided model, in mode observe
    would_cost_usd: float | None = None  # of the same tokens at the price of would_model
    # The sidecar took no part: Envoy alone chose where this went. A client that left while the sidecar was
    # still deciding bypassed nothing: its request went nowhere.
    bypassed: bool
    refused: bool  # the sidecar answered with an error, and nothing was forwarded
    failed: bool = False  # the request was forwarded, and the answer is an error
    reference_cost_usd: float | None = None  # of the same tokens at the reference model's price
    attempts: int | None = None  # how often a model was called; null: not counted
    served_by: str = ""  # the registry's name of the model that answered, if that may be another
    cascade: str = ""  # the cascade that was used
    tier: int | None = None  # the tier whose answer the client got; 0 is the first
    conversation_id: str = ""  # a hash of what names the conversation
    reask: bool | None = None  # the request repeats an earlier turn; null: it cannot be known
    tokens: int | None = None  # tokens that the router's encoder embedded
    parse_us: int | None = None  # microseconds to read the body
    rules_us: int | None = None  # microseconds of rules
    queue_us: int | None = None  # microseconds in the encoder's queue
    embed_us: int | None = None  # microseconds of embedding
    total_us: int | None = None  # microseconds of the whole decision
    input_messages: str | None = None  # the latest user turn, only if the operator opts in
    output_messages: str | None = None  # the answer; always null at present


class AttemptRow(AnswerRow, frozen=True, kw_only=True, tag="attempt"):
    """One model asked on behalf of one exchange: a tier of a cascade, or a retry."""

    attempt: int  # number of the call; 1 is the first
    cascade: str = ""  # the cascade that was used
    tier: int | None = None  # the tier of the cascade; 0 is the first
    verdict: str = ""  # the gate's verdict: accept or escalate; empty: no verdict
    verdict_reason: str = ""  # the check that refused the answer
    verdict_score: float | None = None  # calibrated probability that the answer is good
    wasted_tokens: int | None = None  # tokens that are paid for, and that the client never saw
    wasted_cost_usd: float | None = None  # what they cost
    # The model that the gate asked for a second answer or a rating. Its call is not an attempt, but the
    # exchange's cost includes it. Empty: none was to be asked.
    second_model: str = ""
    second_outcome: str = ""  # how that call ended: answered, timeout, budget, failed, unasked
    second_score: float | None = None  # the verifier's rating
    second_input_tokens: int | None = None  # input tokens of that call
    second_output_tokens: int | None = None  # output tokens of that call
    second_cost_usd: float | None = None  # cost of that call


class EvaluationRow(Row, frozen=True, kw_only=True, tag="evaluation"):
    """One opinion on one answer: ``gen_ai.evaluation.result`` of the conventions.

    It joins by ``request_id`` or, where that is empty, by ``trace_id``: then it is an opinion on
    every exchange of the trace.
    """

    evaluation_id: str  # idempotency key: a second row with the same key is the same opinion
    name: str  # what was evaluated: feedback, judge, the name of a gate, ...
    score: float | None = None  # 0 is bad, 1 is good
    label: str = ""  # a word for the result, such as good, bad, accept, escalate
    explanation: str = ""  # why, in the words of the source
    source: str = ""  # who evaluates: a user, a judging model, a gate
    subject: Literal["exchange", "attempt", "shadow"] = "exchange"  # whose answer was evaluated
    attempt: int | None = None  # number of the attempt that was evaluated
    model: str = ""  # the model of the evaluated answer, if that is not the exchange's


class ShadowRow(AnswerRow, frozen=True, kw_only=True, tag="shadow"):
    """One mirrored request: what another model answered, which no client saw."""

    route: str = ""
    primary_model: str = ""  # whose answer the client got


AnyRow = ExchangeRow | AttemptRow | EvaluationRow | ShadowRow
KINDS: tuple[type[Row], ...] = (ExchangeRow, AttemptRow, EvaluationRow, ShadowRow)


def kind_of(row: Row | type[Row]) -> str:
    """The name of a kind of row, as its ``kind`` says it."""
    return str(row.__struct_config__.tag)


def row_of(exchange: Exchange) -> ExchangeRow:
    """Everything that is known of one exchange."""
    envelope = exchange.envelope or _NOTHING_DECIDED
    undecided = exchange.envelope is None
    error = _error(exchange, envelope)
    refused = bool(envelope.error)
    api = envelope.api or exchange.api or api_of(exchange.method, exchange.path) or ""
    return ExchangeRow(
        **_answer(exchange, api),
        method=exchange.method,
        path=exchange.path[:_PATH_LIMIT],
        route=envelope.route,
        model=envelope.model,
        upstream_model=envelope.upstream_model,
        original_model=envelope.original_model,
        provider="" if refused else envelope.provider or otel_names.OPERATIONS.get(api, ("", ""))[1],
        stage=envelope.stage,
        reason=envelope.reason,
        rule=envelope.rule,
        probability=envelope.probability,
        margin=envelope.margin,
        similarity=envelope.similarity,
        candidates=envelope.candidates,
        predicted_quality=envelope.predicted_quality,
        offers=envelope.offers,
        version=envelope.version,
        lexical=envelope.lexical,
        weight=envelope.weight,
        mode="unknown" if undecided else _MODES.get(envelope.mode, "unknown"),
        would_route=envelope.would_route,
        would_model=envelope.would_model,
        conversation_id=envelope.conversation_id,
        error=error,
        bypassed=undecided and not _left_early(exchange),
        refused=refused,
        failed=bool(error) and not refused,
        stream=None if undecided else envelope.stream,
        attempts=None if refused else exchange.attempts,
        served_by=exchange.served_by,
        cascade=exchange.tried[-1].cascade if exchange.tried else "",
        tier=exchange.tried[-1].tier if exchange.tried else None,
        reask=envelope.reask,
        tokens=envelope.tokens,
        parse_us=envelope.parse_us,
        rules_us=envelope.rules_us,
        queue_us=envelope.queue_us,
        embed_us=envelope.embed_us,
        total_us=envelope.total_us,
        input_messages=_messages(envelope.prompt) if envelope.prompt else None,
    )


def attempt_row_of(attempt: Attempt) -> AttemptRow:
    """Everything that is known of one attempt."""
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
    """What a gate said of one attempt's answer, as an opinion like any other; None where none spoke."""
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
    """The fields of an ``AnswerRow`` that Envoy and the answer itself tell, whoever was asked for whom."""
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
    """The span that the exchange is a part of, as the sidecar was told or else as the provider was."""
    told = exchange.envelope.traceparent if exchange.envelope else ""
    return _remote_span(told or exchange.traceparent)


def _trace_id(exchange: Exchange) -> str:
    """Of the trace that the exchange belongs to, else one that is made of its own id.

    So that any process that tells of the exchange, and any telling of it again, names the same.
    """
    span = caller_of(exchange)
    return own_trace_id(exchange.request_id) if span is None else format_trace_id(span.trace_id)


def own_trace_id(request_id: str) -> str:
    """The trace of what is known by a request's id alone."""
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

    A flag says more than the status beside it: when Envoy could not reach the provider, the
    status is one that Envoy made up.
    """
    if envelope.error:
        return envelope.error
    failure = next((flag for flag in exchange.flags if flag not in _HARMLESS_FLAGS), "")
    return failure or (str(exchange.status) if exchange.status >= 400 else "")


def _attempt_error(call: Exchange) -> str:
    """As ``_error``, but that an attempt which was given up without an answer failed, whoever did so.

    One whose answer came and was not wanted has the flag too: its status says what it was.
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
    """Only where the token itself was seen: a provider's early head says nothing of it."""
    seen = usage.first_token_at
    return None if seen is None else _milliseconds(max(0.0, seen - exchange.started_at))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
