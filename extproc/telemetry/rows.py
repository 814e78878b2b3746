"""The rows: what is recorded of an exchange, an attempt, an evaluation and a mirrored request.

Records are these rows as JSON, spans are these rows under attribute names (``row_attributes``), the
store's views are these rows again, and metrics count from them, so the four cannot disagree.

Four kinds, fixed so that what joins later needs no migration: an ``exchange`` per request; an
``attempt`` per tier that a cascade asked for it; an ``evaluation`` per judgement of an answer (a
gate's verdict, a judge's score, a user's feedback), often days later; a ``shadow`` per mirrored
request. All join by ``request_id``. An unknown value is null (numbers, truths), empty (texts) or
``unknown`` (choices), never 0. Lines of an older version lack later fields: their values are unknown.
"""

from datetime import datetime
from typing import Literal

import msgspec

SCHEMA = 1  # of the rows; raised when a field changes its meaning or goes, not when one is added


class Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Fields of every kind of row."""

    time: datetime  # when it began, UTC
    request_id: str  # Envoy's x-request-id, by which all kinds join
    trace_id: str = ""  # of Envoy's or the client's trace; an exchange without one has its own
    schema: int = SCHEMA  # version of the record format


class AnswerRow(Row, frozen=True, kw_only=True):
    """One model's answer."""

    api: str = ""  # the API of the client's request, such as openai.chat
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
    # If the answer reported no usage: a rough cost, by the sizes of the bodies. Never beside a cost_usd.
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
    """One evaluation of one answer: ``gen_ai.evaluation.result`` of the conventions.

    It joins by ``request_id`` or, if that is empty, by ``trace_id``: then it applies to every
    exchange of the trace.
    """

    evaluation_id: str  # idempotency key: a second row with the same key is a duplicate
    name: str  # what was evaluated: feedback, judge, the name of a gate, ...
    score: float | None = None  # 0 is bad, 1 is good
    label: str = ""  # a word for the result, such as good, bad, accept, escalate
    explanation: str = ""  # why, in the words of the source
    source: str = ""  # who evaluates: a user, a judging model, a gate
    subject: Literal["exchange", "attempt", "shadow"] = "exchange"  # whose answer was evaluated
    attempt: int | None = None  # number of the attempt that was evaluated
    model: str = ""  # the model of the evaluated answer, if that is not the exchange's


class ShadowRow(AnswerRow, frozen=True, kw_only=True, tag="shadow"):
    """One mirrored request: another model's answer, which no client got."""

    route: str = ""
    primary_model: str = ""  # whose answer the client got


AnyRow = ExchangeRow | AttemptRow | EvaluationRow | ShadowRow
KINDS: tuple[type[Row], ...] = (ExchangeRow, AttemptRow, EvaluationRow, ShadowRow)


def kind_of(row: Row | type[Row]) -> str:
    """The name of a kind of row: the value of its ``kind``."""
    return str(row.__struct_config__.tag)
