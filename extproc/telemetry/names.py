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
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"  # the routed model, not the one asked for
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
HTTP_REQUEST_BODY_SIZE: Final = "http.request.body.size"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_BODY_SIZE: Final = "http.response.body.size"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
URL_PATH: Final = "url.path"

# Attributes of nobody's convention.
GEN_AI_ORIGINAL_MODEL: Final = "gen_ai.original.model"  # what the client asked for
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"  # how Arize Phoenix shows a span
ROUTER_API: Final = "router.api"
ROUTER_BYPASSED: Final = "router.bypassed"
ROUTER_CLUSTER: Final = "router.cluster"
ROUTER_CONFIG_VERSION: Final = "router.config.version"
ROUTER_EMBED_US: Final = "router.embed_us"
ROUTER_FIRST_BYTE_MS: Final = "router.first_byte_ms"
ROUTER_MARGIN: Final = "router.margin"
ROUTER_MODEL: Final = "router.model"
ROUTER_PARSE_US: Final = "router.parse_us"
ROUTER_PROBABILITY: Final = "router.probability"
ROUTER_QUEUE_US: Final = "router.queue_us"
ROUTER_REASON: Final = "router.reason"
ROUTER_REFUSED: Final = "router.refused"  # the label of the error the client was refused with
ROUTER_REQUEST_ID: Final = "router.request_id"
ROUTER_RESPONSE_FLAGS: Final = "router.response_flags"  # Envoy's
ROUTER_ROUTE: Final = "router.route"
ROUTER_RULE: Final = "router.rule"
ROUTER_SIMILARITY: Final = "router.similarity"
ROUTER_SINK: Final = "router.sink"  # records or spans
ROUTER_STAGE: Final = "router.stage"
ROUTER_STATUS_CLASS: Final = "router.status_class"
ROUTER_STEP: Final = "router.step"
ROUTER_TOKENS: Final = "router.tokens"  # embedded by our encoder, not the model's usage
ROUTER_TOTAL_US: Final = "router.total_us"

# Labels of the info metrics, short as Prometheus has them.
DEVICE: Final = "device"
MODEL: Final = "model"
PRECISION: Final = "precision"
PYTHON: Final = "python"
VERSION: Final = "version"

# Metrics of the semantic conventions.
GEN_AI_SERVER_REQUEST_DURATION: Final = "gen_ai.server.request.duration"

# Our metrics.
BUILD_INFO: Final = "router.build.info"
DECISIONS: Final = "router.decisions"
DECISION_MARGIN: Final = "router.decision.margin"
DECISION_PROBABILITY: Final = "router.decision.probability"
DECISION_SIMILARITY: Final = "router.decision.similarity"
ENCODER_INFO: Final = "router.encoder.info"
ENCODER_QUEUE: Final = "router.encoder.queue"
EXCHANGES: Final = "router.exchanges"
FAILURES: Final = "router.failures"
REFUSALS: Final = "router.refusals"
REGISTRY_INFO: Final = "router.registry.info"
STEP_DURATION: Final = "router.step.duration"
TELEMETRY_DROPPED: Final = "router.telemetry.dropped"
UPSTREAM_FIRST_BYTE: Final = "router.upstream.first_byte"

# Span names. An LLM call is named by its operation and model, as the conventions say.
REFUSE_SPAN: Final = "refuse"

DEFAULT_SERVICE_NAME: Final = "envoy-semantic-router"

# Each API as the conventions see it: (operation, provider).
OPERATIONS: Final[Mapping[str, tuple[str, str]]] = {
    Api.OPENAI_CHAT: ("chat", "openai"),
    Api.OPENAI_COMPLETIONS: ("text_completion", "openai"),
    Api.OPENAI_RESPONSES: ("chat", "openai"),
    Api.ANTHROPIC_MESSAGES: ("chat", "anthropic"),
}
