"""Every name that telemetry emits: spans, attributes and metrics, in one place.

Dashboards and queries depend on these, so none is taken from a package that could rename it in
an upgrade: the OpenTelemetry ones are written out as of semantic conventions v1.41 and a test
compares them with the package. Ours are the ``router.*`` ones, since no convention exists for
a routing decision, and ``gen_ai.original.model``, which Envoy AI Gateway coined.
"""

from collections.abc import Mapping
from typing import Final

from extproc.vocabulary import Api

# Attributes of the semantic conventions.
ERROR_TYPE: Final = "error.type"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
GEN_AI_EVALUATION_NAME: Final = "gen_ai.evaluation.name"
GEN_AI_EVALUATION_SCORE_LABEL: Final = "gen_ai.evaluation.score.label"
GEN_AI_EVALUATION_SCORE_VALUE: Final = "gen_ai.evaluation.score.value"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"  # by opt-in only
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"  # the routed model, not the one asked for
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
HTTP_REQUEST_BODY_SIZE: Final = "http.request.body.size"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_BODY_SIZE: Final = "http.response.body.size"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
URL_PATH: Final = "url.path"

# Our own attributes, which no convention defines.
GEN_AI_ORIGINAL_MODEL: Final = "gen_ai.original.model"  # what the client asked for
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"  # how Arize Phoenix shows a span
ROUTER_API: Final = "router.api"
ROUTER_ATTEMPT: Final = "router.attempt"
ROUTER_ATTEMPTS: Final = "router.attempts"
ROUTER_BYPASSED: Final = "router.bypassed"
ROUTER_CALLS: Final = "router.calls"
ROUTER_CANDIDATES: Final = "router.candidates"
ROUTER_CASCADE: Final = "router.cascade"
ROUTER_CLUSTER: Final = "router.cluster"
ROUTER_CONFIG_VERSION: Final = "router.config.version"
ROUTER_LABELS: Final = "router.labels"
ROUTER_SAFETY: Final = "router.safety"
ROUTER_SAFETY_SCORES: Final = "router.safety.scores"
ROUTER_FOUND: Final = "router.found"
ROUTER_REDACTED: Final = "router.redacted"
ROUTER_COST_USD: Final = "router.cost_usd"
ROUTER_EMBED_US: Final = "router.embed_us"
ROUTER_EVALUATION_ID: Final = "router.evaluation.id"  # its idempotency key
ROUTER_EVALUATION_SOURCE: Final = "router.evaluation.source"
ROUTER_EVALUATION_SUBJECT: Final = "router.evaluation.subject"
ROUTER_ESTIMATED_COST_USD: Final = "router.estimated_cost_usd"  # of an answer without usage
ROUTER_FIRST_BYTE_MS: Final = "router.first_byte_ms"
ROUTER_IN_SCOPE: Final = "router.in_scope"
ROUTER_LEXICAL: Final = "router.lexical"
ROUTER_LLM_CACHED: Final = "router.llm.cached"
ROUTER_LLM_COST_USD: Final = "router.llm.cost_usd"
ROUTER_LLM_DOUBT: Final = "router.llm.doubt"
ROUTER_LLM_INPUT_TOKENS: Final = "router.llm.input_tokens"
ROUTER_LLM_MODEL: Final = "router.llm.model"  # that is asked about requests in doubt
ROUTER_LLM_OUTPUT_TOKENS: Final = "router.llm.output_tokens"
ROUTER_LLM_RESULT: Final = "router.llm.result"
ROUTER_LLM_US: Final = "router.llm_us"
ROUTER_LLM_WHY: Final = "router.llm.why"  # by opt-in only
ROUTER_MARGIN: Final = "router.margin"
ROUTER_MODE: Final = "router.mode"
ROUTER_MODEL: Final = "router.model"
ROUTER_OFFERS: Final = "router.offers"
ROUTER_PARSE_US: Final = "router.parse_us"
ROUTER_PREDICTED_QUALITY: Final = "router.predicted_quality"
ROUTER_PRIMARY_MODEL: Final = "router.primary_model"  # whose answer the client got
ROUTER_PROBABILITY: Final = "router.probability"
ROUTER_QUEUE_US: Final = "router.queue_us"
ROUTER_REASK: Final = "router.reask"
ROUTER_REASON: Final = "router.reason"
ROUTER_RECORD: Final = "router.record"  # the kind of row that a span is; on no other span
ROUTER_RECORD_SCHEMA: Final = "router.record.schema"
ROUTER_REFERENCE_COST_USD: Final = "router.reference_cost_usd"
ROUTER_REFUSAL: Final = "router.refusal"  # the model's; the router's own is router.refused
ROUTER_REFUSED: Final = "router.refused"  # the label of the error the client was refused with
ROUTER_REQUEST_ID: Final = "router.request_id"
ROUTER_RESPONSE_FLAGS: Final = "router.response_flags"  # Envoy's
ROUTER_ROUTE: Final = "router.route"
ROUTER_RULES_US: Final = "router.rules_us"
ROUTER_RULE: Final = "router.rule"
ROUTER_SECOND_COST_USD: Final = "router.second.cost_usd"
ROUTER_SECOND_INPUT_TOKENS: Final = "router.second.input_tokens"
ROUTER_SECOND_MODEL: Final = "router.second.model"  # whose second answer a gate compared
ROUTER_SECOND_OUTCOME: Final = "router.second.outcome"
ROUTER_SECOND_OUTPUT_TOKENS: Final = "router.second.output_tokens"
ROUTER_SECOND_SCORE: Final = "router.second.score"
ROUTER_SERVED_BY: Final = "router.served_by"
ROUTER_SIMILARITY: Final = "router.similarity"
ROUTER_READ_PART: Final = "router.read.part"
ROUTER_MISSPELT: Final = "router.read.misspelt"
ROUTER_SINK: Final = "router.sink"  # records or spans
ROUTER_STAGE: Final = "router.stage"
ROUTER_STATUS_CLASS: Final = "router.status_class"
ROUTER_STEP: Final = "router.step"
ROUTER_TASK: Final = "router.task"
ROUTER_TIER: Final = "router.tier"
ROUTER_TOKENS: Final = "router.tokens"  # embedded by our encoder, not the model's usage
ROUTER_TOTAL_US: Final = "router.total_us"
ROUTER_TRAINING_SIMILARITY: Final = "router.training_similarity"
ROUTER_USAGE_SOURCE: Final = "router.usage_source"
ROUTER_VERDICT: Final = "router.verdict"  # a gate's
ROUTER_VERDICT_REASON: Final = "router.verdict.reason"
ROUTER_VERDICT_SCORE: Final = "router.verdict.score"
ROUTER_WASTED_COST_USD: Final = "router.wasted_cost_usd"
ROUTER_WASTED_TOKENS: Final = "router.wasted_tokens"
ROUTER_WEIGHT: Final = "router.weight"
ROUTER_WOULD_COST_USD: Final = "router.would_cost_usd"
ROUTER_WOULD_MODEL: Final = "router.would_model"
ROUTER_WOULD_ROUTE: Final = "router.would_route"

# Labels of the info metrics, short as Prometheus has them.
BOUND: Final = "bound"
DEVICE: Final = "device"
MODEL: Final = "model"
PRECISION: Final = "precision"
PYTHON: Final = "python"
CACHED: Final = "cached"
RESULT: Final = "result"
VERSION: Final = "version"

# Metrics of the semantic conventions.
GEN_AI_CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"
GEN_AI_SERVER_REQUEST_DURATION: Final = "gen_ai.server.request.duration"
GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"
GEN_AI_SERVER_TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"

# Our metrics.
ATTEMPTS: Final = "router.model.attempts"
BUILD_INFO: Final = "router.build.info"
CASCADE_COST: Final = "router.cascade.cost.usd"
CASCADE_EXCHANGES: Final = "router.cascade.exchanges"
CASCADE_REFERENCE_COST: Final = "router.cascade.reference_cost.usd"
CASCADE_VERDICTS: Final = "router.cascade.verdicts"
CASCADE_WASTED: Final = "router.cascade.wasted.usd"
COST: Final = "router.cost.usd"
DECISIONS: Final = "router.decisions"
DECISION_IN_SCOPE: Final = "router.decision.in_scope"
DECISION_MARGIN: Final = "router.decision.margin"
DECISION_PROBABILITY: Final = "router.decision.probability"
DECISION_QUALITY: Final = "router.decision.quality"
DECISION_SIMILARITY: Final = "router.decision.similarity"
DECISION_TRAINING_SIMILARITY: Final = "router.decision.training_similarity"
BODIES_UNREAD: Final = "router.bodies.unread"
BODIES_WAITING: Final = "router.bodies.waiting"
BODY_BYTES_IN_FLIGHT: Final = "router.body.bytes_in_flight"
ENCODER_INFO: Final = "router.encoder.info"
ENCODER_QUEUE: Final = "router.encoder.queue"
ESCALATION_ALARM: Final = "router.cascade.escalation.alarm"
ESCALATION_EXPECTED: Final = "router.cascade.escalation.expected"
ESCALATION_SHARE: Final = "router.cascade.escalation.share"
EXCHANGES: Final = "router.exchanges"
FAILURES: Final = "router.failures"
FAST_PATH_COMPARISONS: Final = "router.fast_path.comparisons"
FAST_PATH_OPEN: Final = "router.fast_path.open"
FEEDBACK: Final = "router.feedback"
LLM_REQUESTS: Final = "router.llm.requests"
OVERHEAD: Final = "router.overhead.share"
REFERENCE_COST: Final = "router.reference_cost.usd"
REFUSALS: Final = "router.refusals"
SAFETY_REQUESTS: Final = "router.safety.requests"
REGISTRY_INFO: Final = "router.registry.info"
REGISTRY_RELOADS: Final = "router.registry.reloads"
SEGMENTS_DELETED: Final = "router.record.segments.deleted"
STEP_DURATION: Final = "router.step.duration"
TASK_RESTARTS: Final = "router.task.restarts"
TELEMETRY_DROPPED: Final = "router.telemetry.dropped"
UPSTREAM_FIRST_BYTE: Final = "router.upstream.first_byte"

# Span names. An LLM call is named by its operation and model, as the conventions say.
ROUTE_SPAN: Final = "route"  # an exchange, as the record has it
RULES_SPAN: Final = "rules"
ATTEMPT_SPAN: Final = "attempt"  # makes its id; it is named as a call
SCORE_SPAN: Final = "score"
EVALUATE_SPAN: Final = "evaluate"  # followed by the evaluation's name
GEN_AI_EVALUATION_RESULT: Final = "gen_ai.evaluation.result"  # a verdict as an event of another span

DEFAULT_SERVICE_NAME: Final = "envoy-semantic-router"

EMBEDDINGS: Final = "embeddings"  # the operation of our encoder
CHAT: Final = "chat"  # the operation of an LLM that is asked in doubt

# Each API as the conventions see it: (operation, provider).
OPERATIONS: Final[Mapping[str, tuple[str, str]]] = {
    Api.OPENAI_CHAT: ("chat", "openai"),
    Api.OPENAI_COMPLETIONS: ("text_completion", "openai"),
    Api.OPENAI_RESPONSES: ("chat", "openai"),
    Api.ANTHROPIC_MESSAGES: ("chat", "anthropic"),
}
