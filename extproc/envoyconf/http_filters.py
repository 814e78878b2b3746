"""The listener's HTTP filters, and how a route switches them on.

All but the last are off until a route says otherwise, so that what the router does not
understand passes Envoy as if the router were not there.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer, BufferPerRoute
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcOverrides,
    ExtProcPerRoute,
    HeaderForwardingRules,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation as HeaderMutationFilter,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutationPerRoute,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.transform.v3 import (
    BodyTransformation,
    BodyTransformationTransformAction,
    Transformation,
    TransformConfig,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any, Struct

from extproc.envoyconf import cors_policy, observing
from extproc.envoyconf.clusters import SIDECAR_CLUSTER
from extproc.registry.schema import Registry
from extproc.registry.tier_compiling import tier_name
from extproc.vocabulary import Api
from extproc.wire.decide_messages import (
    CHECKED_HEADER,
    CLUSTER_HEADER,
    GATE_KEY,
    PATIENCE_KEY,
    ROLE_KEY,
    ROUTE_HEADER,
    SPAN_HEADER,
    VERSION_KEY,
)
from extproc.wire.envelope import NAMESPACE
from extproc.wire.feedback_exchange import ROLE
from extproc.wire.gate_messages import BEGAN_HEADER, ESCALATE_HEADER
from extproc.wire.observed_metadata import GATE_NAMESPACE

_EXT_PROC = "envoy.filters.http.ext_proc"
_BUFFER = "envoy.filters.http.buffer"
_ROOM = "envoy.filters.http.buffer.edits"
FEEDBACK = "envoy.filters.http.ext_proc.feedback"
_HEADER_MUTATION = "envoy.filters.http.header_mutation"
_TRANSFORM = "envoy.filters.http.transform"
ROUTER = "envoy.filters.http.router"

# The sidecar keeps its own deadline and answers with the default. Envoy's is for a sidecar that
# hangs; it leaves room for a busy machine and, by `Registry.transfer_s`, for the largest body.
_MESSAGE_MARGIN_S = 0.2
# How long a held answer waits for a sidecar that says nothing, from the latest part of the answer on. A
# gate that is alive asks for more in time (see ``wire.gate_stream``).
_GATE_SILENCE_S = 5.0
# What a gate may ask for beyond the time of its tier, so that its own word comes first.
_GATE_MARGIN_S = 1.0
# Bytes by which edits may lengthen a body: the provider's name of a model, most of all.
EDITS = 64 * 1024
# What the sidecar reads; it never sees a client's credentials.
_FORWARDED = (
    ":method",
    ":path",
    "content-encoding",
    "content-length",
    "content-type",
    "x-request-id",
    "traceparent",
    "tracestate",
)
# What the sidecar may set: the decision, a changed body's length, an immediate response's type.
_MUTABLE = (CLUSTER_HEADER, ROUTE_HEADER, SPAN_HEADER, CHECKED_HEADER, "content-length", "content-type")


def http_filters(registry: Registry) -> list[HttpFilter]:
    """The filter chain: browsers, observing, the decision, feedback, two steps of failing open, the router.

    The buffer filters come before the decision: the sidecar reserves room for a body when it gets the
    head, and must not keep that for a client that is slow to upload. The first limits what a client may
    send. The second finds the whole body there, and only raises that limit, for the decision's edits.
    """
    limit = registry.envoy.max_body_bytes
    return [
        cors_policy.cross_origin(),
        observing.observer(),
        _switchable(_BUFFER, _buffer(limit)),
        _switchable(_ROOM, _buffer(limit + EDITS)),
        _switchable(_EXT_PROC, ext_proc(registry)),
        _switchable(FEEDBACK, _feedback()),
        _switchable(_HEADER_MUTATION, HeaderMutationFilter()),
        _switchable(_TRANSFORM, TransformConfig()),
        HttpFilter(name=ROUTER, typed_config=Any.pack(Router(suppress_envoy_headers=True))),
    ]


def ext_proc(registry: Registry) -> ExternalProcessor:
    """The decision: two messages each way, the request's head and its whole body."""
    return ExternalProcessor(
        grpc_service=sidecar_service(),
        failure_mode_allow=True,
        processing_mode=ProcessingMode(
            # With SKIP, Envoy would ignore the headers that the reply to the body sets.
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            request_body_mode=ProcessingModeBodySendMode.BUFFERED,
            response_header_mode=ProcessingModeHeaderSendMode.SKIP,
        ),
        message_timeout=message_timeout(registry),
        forward_rules=HeaderForwardingRules(
            allowed_headers=_any_of(*_FORWARDED, *(name.lower() for name in registry.trusted_headers))
        ),
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex="|".join(_MUTABLE))
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[NAMESPACE])
        ),
    )


def message_timeout(registry: Registry) -> timedelta:
    """How long Envoy waits for the reply to a head, or to a body, before it goes on without one."""
    return timedelta(seconds=registry.decision_ms / 1000 + registry.transfer_s + _MESSAGE_MARGIN_S)


def gate(registry: Registry, cascade: str, tier: int) -> HttpFilter:
    """The judge of a tier's answers: the request's head and whole body, then the answer as it comes.

    Each part of the answer is sent on while the reply to its head, which holds all of it back, is
    awaited. What was sent Envoy keeps until it is replied to, or until the sidecar ends the stream,
    dies or says nothing: then it goes on. (With FULL_DUPLEX_STREAMED it would be gone.)
    """
    own = registry.cascades[cascade].tiers[tier].timeout_s or registry.envoy.upstream_timeout_s
    patience = math.ceil(own + _GATE_MARGIN_S)
    config = ExternalProcessor(
        grpc_service=sidecar_service({GATE_KEY: tier_name(cascade, tier), PATIENCE_KEY: str(patience)}),
        failure_mode_allow=True,
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            request_body_mode=ProcessingModeBodySendMode.BUFFERED,
            response_header_mode=ProcessingModeHeaderSendMode.SEND,
            response_body_mode=ProcessingModeBodySendMode.STREAMED,
            # They may end an answer.
            response_trailer_mode=ProcessingModeHeaderSendMode.SEND,
        ),
        send_body_without_waiting_for_header_response=True,
        # It begins anew with each part of the answer. The request's body must have the time to get there.
        message_timeout=timedelta(seconds=min(max(_GATE_SILENCE_S, registry.transfer_s), patience)),
        # A verdict may take as long as the tier's answer.
        max_message_timeout=timedelta(seconds=patience),
        forward_rules=HeaderForwardingRules(
            allowed_headers=_any_of(*_FORWARDED, ":status", ESCALATE_HEADER, VERSION_KEY, BEGAN_HEADER)
        ),
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex=f"{ESCALATE_HEADER}|content-type")
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[GATE_NAMESPACE])
        ),
    )
    return HttpFilter(name=_EXT_PROC, typed_config=Any.pack(config))


def sidecar_service(metadata: Mapping[str, str] = MappingProxyType({})) -> GrpcService:
    """The sidecar's gRPC services; ``metadata`` is what each stream says of itself."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER, skip_envoy_headers=True),
        initial_metadata=[HeaderValue(key=key, value=value) for key, value in metadata.items()],
    )


def _feedback() -> ExternalProcessor:
    """Opinions on answers: the only requests whose credentials the sidecar sees.

    It is a filter of its own because a route cannot change which headers are forwarded.
    """
    return ExternalProcessor(
        grpc_service=sidecar_service({ROLE_KEY: ROLE}),
        failure_mode_allow=True,  # on to the route's own answer
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            request_body_mode=ProcessingModeBodySendMode.BUFFERED,
            response_header_mode=ProcessingModeHeaderSendMode.SKIP,
        ),
        message_timeout=timedelta(seconds=10),  # nobody waits for it to ask a model
        forward_rules=HeaderForwardingRules(allowed_headers=_any_of("authorization")),
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex="content-type|www-authenticate")
        ),
    )


def fail_open(api: Api, model: str, version: str, max_body_bytes: int) -> dict[str, Any]:
    """Per-route settings: ask the sidecar; should it decide nothing, name ``model`` in the body.

    The request carries the ``version`` of the registry that this configuration was made from, so
    that the sidecar decides by the same version; when empty, by its newest one.

    Envoy makes the filters of the route that matches first, before there is a decision, and
    gives each the settings of the route that is current when the request reaches it. So a
    request that was decided runs into idle filters, its body untouched.
    """
    metadata = [HeaderValue(key=VERSION_KEY, value=version)] if version else []
    return {
        _BUFFER: Any.pack(BufferPerRoute(buffer=_buffer(max_body_bytes))),
        _ROOM: Any.pack(BufferPerRoute(buffer=_buffer(max_body_bytes + EDITS))),
        _EXT_PROC: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides(grpc_initial_metadata=metadata))),
        _HEADER_MUTATION: Any.pack(_as_json()),
        _TRANSFORM: Any.pack(_with_model(model)),
        **observing.observed(api),
    }


def refused() -> dict[str, Any]:
    """Per-route settings, over those of ``fail_open``: nothing is changed of what goes nowhere.

    The filters are named all the same. Were they not, a request that this route matches first would not
    have them when it goes on by ``fail_open``.
    """
    return {
        _HEADER_MUTATION: Any.pack(HeaderMutationPerRoute()),
        _TRANSFORM: Any.pack(TransformConfig()),
    }


def _buffer(limit: int) -> Buffer:
    return Buffer(max_request_bytes=limit)


def _as_json() -> HeaderMutationPerRoute:
    # The transform filter leaves bodies alone whose type is not exactly this, and a provider
    # would refuse the name that the client sent.
    content_type = HeaderValueOption(
        header=HeaderValue(key="content-type", value="application/json"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return HeaderMutationPerRoute(
        mutations=Mutations(request_mutations=[HeaderMutation(append=content_type)])
    )


def _with_model(model: str) -> TransformConfig:
    literal = model.replace("%", "%%")  # in Envoy's formats a single one begins a command
    body = BodyTransformation(
        body_format=SubstitutionFormatString(json_format=Struct.from_dict({"model": literal})),
        action=BodyTransformationTransformAction.MERGE,
    )
    return TransformConfig(request_transformation=Transformation(body_transformation=body))


def _switchable(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(config), disabled=True)


def _any_of(*names: str) -> ListStringMatcher:
    return ListStringMatcher(patterns=[StringMatcher(exact=name) for name in names])
