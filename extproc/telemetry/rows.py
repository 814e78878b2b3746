"""The rows: what is recorded of an exchange, an attempt, an evaluation and a mirrored request.

Records are these rows as JSON, spans are these rows under the attribute names that stand on the fields, the
store's views are these rows again, and metrics count from them, so the four cannot disagree.

Four kinds, fixed so that what joins later needs no migration: an ``exchange`` per request; an
``attempt`` per tier that a cascade asked for it; an ``evaluation`` per judgement of an answer (a
gate's verdict, a judge's score, a user's feedback), often days later; a ``shadow`` per mirrored
request. All join by ``request_id``. An unknown value is null (numbers, truths), empty (texts) or
``unknown`` (choices), never 0. Lines of an older version lack later fields: their values are unknown.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from extproc.telemetry import otel_names
from extproc.vocabulary import ClusterName, ModelName, RouteName, UpstreamName, Version

SCHEMA = 1  # of the rows; raised when a field changes its meaning or goes, not when one is added


class Attribute(msgspec.Struct, frozen=True):
    """The span attribute of a field, and how its value differs there."""

    name: str
    per_unit: float = 1.0  # units of the field per unit of the attribute: 1000 ms are 1 s
    listed: bool = False  # the attribute is a list with the field as its one element


class Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Fields of every kind of row."""

    time: datetime  # when it began, UTC
    # Envoy's x-request-id, by which all kinds join
    request_id: Annotated[str, Attribute(otel_names.ROUTER_REQUEST_ID)]
    trace_id: str = ""  # of Envoy's or the client's trace; an exchange without one has its own
    # version of the record format
    schema: Annotated[int, Attribute(otel_names.ROUTER_RECORD_SCHEMA)] = SCHEMA


class AnswerRow(Row, frozen=True, kw_only=True):
    """One model's answer."""

    # the API of the client's request, such as openai.chat
    api: Annotated[str, Attribute(otel_names.ROUTER_API)] = ""
    # the registry's name of the model; of an exchange, the decided one
    model: Annotated[ModelName, Attribute(otel_names.ROUTER_MODEL)] = ModelName("")
    # the name that was sent to the provider
    upstream_model: Annotated[UpstreamName, Attribute(otel_names.GEN_AI_REQUEST_MODEL)] = UpstreamName("")
    # the registry's `provider` of the model
    provider: Annotated[str, Attribute(otel_names.GEN_AI_PROVIDER_NAME)] = ""
    # the name in the provider's answer
    response_model: Annotated[str, Attribute(otel_names.GEN_AI_RESPONSE_MODEL)] = ""
    # the provider's id of the answer
    response_id: Annotated[str, Attribute(otel_names.GEN_AI_RESPONSE_ID)] = ""
    cluster: Annotated[ClusterName, Attribute(otel_names.ROUTER_CLUSTER)] = ClusterName("")  # Envoy's cluster
    # whether the client asked for a stream
    stream: Annotated[bool | None, Attribute(otel_names.GEN_AI_REQUEST_STREAM)] = None
    # HTTP status; null: the client left before an answer
    status: Annotated[int | None, Attribute(otel_names.HTTP_RESPONSE_STATUS_CODE)] = None
    error: str = ""  # label of a refusal, else Envoy's flag, else the status; empty: no error
    # Envoy's response flags
    flags: Annotated[tuple[str, ...], Attribute(otel_names.ROUTER_RESPONSE_FLAGS)] = ()
    # how the answer ended, in the API's own word
    finish_reason: Annotated[str, Attribute(otel_names.GEN_AI_RESPONSE_FINISH_REASONS, listed=True)] = ""
    # Whether the model refused, by the API's own word for it; a refusal in plain prose is not seen. Null:
    # how the answer ended was not seen either.
    refusal: Annotated[bool | None, Attribute(otel_names.ROUTER_REFUSAL)] = None
    duration_ms: float | None = None  # from the request until the last byte of the answer
    # until the provider's first byte, which may come before any token
    first_byte_ms: Annotated[float | None, Attribute(otel_names.ROUTER_FIRST_BYTE_MS)] = None
    # only if the token itself was seen
    time_to_first_token_ms: Annotated[
        float | None, Attribute(otel_names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, per_unit=1000.0)
    ] = None
    # size of the request body
    request_bytes: Annotated[int | None, Attribute(otel_names.HTTP_REQUEST_BODY_SIZE)] = None
    # size of the answer's body
    response_bytes: Annotated[int | None, Attribute(otel_names.HTTP_RESPONSE_BODY_SIZE)] = None
    # includes tokens from the provider's cache
    input_tokens: Annotated[int | None, Attribute(otel_names.GEN_AI_USAGE_INPUT_TOKENS)] = None
    # includes reasoning tokens
    output_tokens: Annotated[int | None, Attribute(otel_names.GEN_AI_USAGE_OUTPUT_TOKENS)] = None
    # input tokens read from the provider's cache
    cached_tokens: Annotated[int | None, Attribute(otel_names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS)] = None
    # input tokens written to the provider's cache
    cache_write_tokens: Annotated[
        int | None, Attribute(otel_names.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS)
    ] = None
    # output tokens spent on reasoning
    reasoning_tokens: Annotated[int | None, Attribute(otel_names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS)] = None
    # `answer`: the provider reported the tokens
    usage_source: Annotated[Literal["answer", "unknown"], Attribute(otel_names.ROUTER_USAGE_SOURCE)] = (
        "unknown"
    )
    # at the prices of the registry version that decided
    cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_COST_USD)] = None
    # If the answer reported no usage: a rough cost, by the sizes of the bodies. Never beside a cost_usd.
    estimated_cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_ESTIMATED_COST_USD)] = None


class ExchangeRow(AnswerRow, frozen=True, kw_only=True, tag="exchange"):
    """One finished exchange. With a cascade, tokens and cost are those of all attempts."""

    method: Annotated[str, Attribute(otel_names.HTTP_REQUEST_METHOD)] = ""  # HTTP method
    path: Annotated[str, Attribute(otel_names.URL_PATH)] = ""  # without its query, cut to 256 characters
    route: Annotated[RouteName, Attribute(otel_names.ROUTER_ROUTE)] = RouteName(
        ""
    )  # the decided route; empty: none
    # the name that the client sent
    original_model: Annotated[str, Attribute(otel_names.GEN_AI_ORIGINAL_MODEL)] = ""
    # the stage that decided: deny, safety, pin, rule, lexical, embedding, llm, default
    stage: Annotated[str, Attribute(otel_names.ROUTER_STAGE)] = ""
    reason: Annotated[str, Attribute(otel_names.ROUTER_REASON)] = ""  # why the decision came out as it did
    rule: Annotated[str, Attribute(otel_names.ROUTER_RULE)] = ""  # the rule that decided
    # calibrated probability of the most probable route
    probability: Annotated[float | None, Attribute(otel_names.ROUTER_PROBABILITY)] = None
    # probability of the best route minus that of the second
    margin: Annotated[float | None, Attribute(otel_names.ROUTER_MARGIN)] = None
    # cosine to the nearest example
    similarity: Annotated[float | None, Attribute(otel_names.ROUTER_SIMILARITY)] = None
    # probability that the text belongs to any route
    in_scope: Annotated[float | None, Attribute(otel_names.ROUTER_IN_SCOPE)] = None
    # the part of the user's turn that was scored: whole, first, last, inner, labelled
    read_part: Annotated[str, Attribute(otel_names.ROUTER_READ_PART)] = ""
    # words that were corrected before scoring
    misspelt: Annotated[int | None, Attribute(otel_names.ROUTER_MISSPELT)] = None
    # "route:probability", the most probable few first
    candidates: Annotated[tuple[str, ...], Attribute(otel_names.ROUTER_CANDIDATES)] = ()
    # the probability that the model's answer is good, beforehand
    predicted_quality: Annotated[float | None, Attribute(otel_names.ROUTER_PREDICTED_QUALITY)] = None
    # "model:predicted quality" of a few that could have been chosen
    offers: Annotated[tuple[str, ...], Attribute(otel_names.ROUTER_OFFERS)] = ()
    # cosine to the nearest prompt that predicted quality was trained on
    training_similarity: Annotated[float | None, Attribute(otel_names.ROUTER_TRAINING_SIMILARITY)] = None
    # How the question to an LLM about a request in doubt ended: matched, none, invalid, timeout, failed,
    # budget, breaker. Empty: the request was not in doubt, or no LLM is asked.
    llm_result: Annotated[str, Attribute(otel_names.ROUTER_LLM_RESULT)] = ""
    # why it was in doubt: low_margin, low_similarity, out_of_scope, language
    llm_doubt: Annotated[str, Attribute(otel_names.ROUTER_LLM_DOUBT)] = ""
    # the model that was asked
    llm_model: Annotated[ModelName, Attribute(otel_names.ROUTER_LLM_MODEL)] = ModelName("")
    # whether the answer to an equal text was used, which costs nothing
    llm_cached: Annotated[bool | None, Attribute(otel_names.ROUTER_LLM_CACHED)] = None
    # input tokens of that call
    llm_input_tokens: Annotated[int | None, Attribute(otel_names.ROUTER_LLM_INPUT_TOKENS)] = None
    # output tokens of that call
    llm_output_tokens: Annotated[int | None, Attribute(otel_names.ROUTER_LLM_OUTPUT_TOKENS)] = None
    # cost of that call; the exchange's cost includes it
    llm_cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_LLM_COST_USD)] = None
    # the LLM's reason in its own words, only if the operator opts in to text
    llm_why: Annotated[str | None, Attribute(otel_names.ROUTER_LLM_WHY)] = None
    # labels that the request carried: only models that are cleared for all of them may answer
    labels: Annotated[tuple[str, ...], Attribute(otel_names.ROUTER_LABELS)] = ()
    # the strictest action that `safety` asked for: allow, guard, redact, refuse; empty: nothing was found
    safety: Annotated[str, Attribute(otel_names.ROUTER_SAFETY)] = ""
    # what `safety` found, as "kind:number of different values"
    found: Annotated[tuple[str, ...], Attribute(otel_names.ROUTER_FOUND)] = ()
    # "class:probability", by the safety head
    safety_scores: Annotated[tuple[str, ...], Attribute(otel_names.ROUTER_SAFETY_SCORES)] = ()
    # whether something was replaced in the body
    redacted: Annotated[bool | None, Attribute(otel_names.ROUTER_REDACTED)] = None
    # version of the registry that decided
    version: Annotated[Version, Attribute(otel_names.ROUTER_CONFIG_VERSION)] = Version("")
    # whether the fast path agreed, in its sample: agreed, disagreed
    lexical: Annotated[str, Attribute(otel_names.ROUTER_LEXICAL)] = ""
    # how many fast-path requests this sampled one stands for; null: only itself
    weight: Annotated[float | None, Attribute(otel_names.ROUTER_WEIGHT)] = None
    # observe: decided and not obeyed
    mode: Annotated[Literal["active", "observe", "unknown"], Attribute(otel_names.ROUTER_MODE)] = "unknown"
    # the decided route, in mode observe
    would_route: Annotated[RouteName, Attribute(otel_names.ROUTER_WOULD_ROUTE)] = RouteName("")
    # the decided model, in mode observe
    would_model: Annotated[ModelName, Attribute(otel_names.ROUTER_WOULD_MODEL)] = ModelName("")
    # of the same tokens at the price of would_model
    would_cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_WOULD_COST_USD)] = None
    # The sidecar took no part: Envoy alone chose where this went. A client that left while the sidecar was
    # still deciding bypassed nothing: its request went nowhere.
    bypassed: Annotated[bool, Attribute(otel_names.ROUTER_BYPASSED)]
    refused: bool  # the sidecar answered with an error, and nothing was forwarded
    failed: bool = False  # the request was forwarded, and the answer is an error
    # of the same tokens at the reference model's price
    reference_cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_REFERENCE_COST_USD)] = None
    # how often a model was called; null: not counted
    attempts: Annotated[int | None, Attribute(otel_names.ROUTER_ATTEMPTS)] = None
    # the registry's name of the model that answered, if that may be another
    served_by: Annotated[ModelName, Attribute(otel_names.ROUTER_SERVED_BY)] = ModelName("")
    cascade: Annotated[str, Attribute(otel_names.ROUTER_CASCADE)] = ""  # the cascade that was used
    # the tier whose answer the client got; 0 is the first
    tier: Annotated[int | None, Attribute(otel_names.ROUTER_TIER)] = None
    # a hash of what names the conversation
    conversation_id: Annotated[str, Attribute(otel_names.GEN_AI_CONVERSATION_ID)] = ""
    # the request repeats an earlier turn; null: it cannot be known
    reask: Annotated[bool | None, Attribute(otel_names.ROUTER_REASK)] = None
    # tokens that the router's encoder embedded
    tokens: Annotated[int | None, Attribute(otel_names.ROUTER_TOKENS)] = None
    # microseconds to read the body
    parse_us: Annotated[int | None, Attribute(otel_names.ROUTER_PARSE_US)] = None
    rules_us: Annotated[int | None, Attribute(otel_names.ROUTER_RULES_US)] = None  # microseconds of rules
    # microseconds in the encoder's queue
    queue_us: Annotated[int | None, Attribute(otel_names.ROUTER_QUEUE_US)] = None
    embed_us: Annotated[int | None, Attribute(otel_names.ROUTER_EMBED_US)] = None  # microseconds of embedding
    # microseconds of waiting for the LLM that is asked in doubt
    llm_us: Annotated[int | None, Attribute(otel_names.ROUTER_LLM_US)] = None
    # microseconds of the whole decision, with the wait for the LLM that is asked in doubt
    total_us: Annotated[int | None, Attribute(otel_names.ROUTER_TOTAL_US)] = None
    # the latest user turn, only if the operator opts in
    input_messages: Annotated[str | None, Attribute(otel_names.GEN_AI_INPUT_MESSAGES)] = None


class AttemptRow(AnswerRow, frozen=True, kw_only=True, tag="attempt"):
    """One model asked on behalf of one exchange: a tier of a cascade, or a retry."""

    attempt: Annotated[int, Attribute(otel_names.ROUTER_ATTEMPT)]  # number of the call; 1 is the first
    cascade: Annotated[str, Attribute(otel_names.ROUTER_CASCADE)] = ""  # the cascade that was used
    # the tier of the cascade; 0 is the first
    tier: Annotated[int | None, Attribute(otel_names.ROUTER_TIER)] = None
    # the gate's verdict: accept or escalate; empty: no verdict
    verdict: Annotated[str, Attribute(otel_names.ROUTER_VERDICT)] = ""
    # the check that refused the answer
    verdict_reason: Annotated[str, Attribute(otel_names.ROUTER_VERDICT_REASON)] = ""
    # calibrated probability that the answer is good
    verdict_score: Annotated[float | None, Attribute(otel_names.ROUTER_VERDICT_SCORE)] = None
    # tokens that are paid for, and that the client never saw
    wasted_tokens: Annotated[int | None, Attribute(otel_names.ROUTER_WASTED_TOKENS)] = None
    # what they cost
    wasted_cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_WASTED_COST_USD)] = None
    # The model that the gate asked for a second answer or a rating. Its call is not an attempt, but the
    # exchange's cost includes it. Empty: none was to be asked.
    second_model: Annotated[ModelName, Attribute(otel_names.ROUTER_SECOND_MODEL)] = ModelName("")
    # how that call ended: answered, timeout, budget, failed, unasked, not_cleared
    second_outcome: Annotated[str, Attribute(otel_names.ROUTER_SECOND_OUTCOME)] = ""
    # the verifier's rating
    second_score: Annotated[float | None, Attribute(otel_names.ROUTER_SECOND_SCORE)] = None
    # input tokens of that call
    second_input_tokens: Annotated[int | None, Attribute(otel_names.ROUTER_SECOND_INPUT_TOKENS)] = None
    # output tokens of that call
    second_output_tokens: Annotated[int | None, Attribute(otel_names.ROUTER_SECOND_OUTPUT_TOKENS)] = None
    # cost of that call
    second_cost_usd: Annotated[float | None, Attribute(otel_names.ROUTER_SECOND_COST_USD)] = None


class EvaluationRow(Row, frozen=True, kw_only=True, tag="evaluation"):
    """One evaluation of one answer: ``gen_ai.evaluation.result`` of the conventions.

    It joins by ``request_id`` or, if that is empty, by ``trace_id``: then it applies to every
    exchange of the trace.
    """

    # idempotency key: a second row with the same key is a duplicate
    evaluation_id: Annotated[str, Attribute(otel_names.ROUTER_EVALUATION_ID)]
    # what was evaluated: feedback, judge, the name of a gate, ...
    name: Annotated[str, Attribute(otel_names.GEN_AI_EVALUATION_NAME)]
    # 0 is bad, 1 is good
    score: Annotated[float | None, Attribute(otel_names.GEN_AI_EVALUATION_SCORE_VALUE)] = None
    # a word for the result, such as good, bad, accept, escalate
    label: Annotated[str, Attribute(otel_names.GEN_AI_EVALUATION_SCORE_LABEL)] = ""
    # why, in the words of the source
    explanation: Annotated[str, Attribute(otel_names.GEN_AI_EVALUATION_EXPLANATION)] = ""
    # who evaluates: a user, a judging model, a gate
    source: Annotated[str, Attribute(otel_names.ROUTER_EVALUATION_SOURCE)] = ""
    # whose answer was evaluated
    subject: Annotated[
        Literal["exchange", "attempt", "shadow"], Attribute(otel_names.ROUTER_EVALUATION_SUBJECT)
    ] = "exchange"
    # number of the attempt that was evaluated
    attempt: Annotated[int | None, Attribute(otel_names.ROUTER_ATTEMPT)] = None
    # the model of the evaluated answer, if that is not the exchange's
    model: Annotated[ModelName, Attribute(otel_names.ROUTER_MODEL)] = ModelName("")


class ShadowRow(AnswerRow, frozen=True, kw_only=True, tag="shadow"):
    """One mirrored request: another model's answer, which no client got."""

    route: Annotated[RouteName, Attribute(otel_names.ROUTER_ROUTE)] = RouteName("")
    # whose answer the client got
    primary_model: Annotated[ModelName, Attribute(otel_names.ROUTER_PRIMARY_MODEL)] = ModelName("")


AnyRow = ExchangeRow | AttemptRow | EvaluationRow | ShadowRow
KINDS: tuple[type[Row], ...] = (ExchangeRow, AttemptRow, EvaluationRow, ShadowRow)


def kind_of(row: Row | type[Row]) -> str:
    """The name of a kind of row: the value of its ``kind``."""
    return str(row.__struct_config__.tag)


class RowField(msgspec.Struct, frozen=True):
    """One field of a kind of row."""

    info: FieldInfo
    type: Any  # as it is stored: without its attribute, and `str` for a name of any kind
    attribute: Attribute | None  # None: the span itself has it (its time, trace, status or error)


def fields_of(kind: type[Row]) -> Iterator[RowField]:
    """The fields of a kind of row, in order."""
    for info in msgspec.structs.fields(kind):
        if get_origin(info.type) is Annotated:
            plain, attribute = get_args(info.type)
            yield RowField(info, getattr(plain, "__supertype__", plain), attribute)
        else:
            yield RowField(info, info.type, None)


# By field. A field has the same attribute in every kind.
ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    field.info.name: field.attribute for kind in KINDS for field in fields_of(kind) if field.attribute
}
