"""The HTTP filters of the client listener and of hops, and the per-route settings that enable them.

All filters but the last are disabled until a route enables them. So requests that are not LLM calls pass
Envoy unchanged.

The observing filter is a Lua script that reads along, buffers nothing, and puts what it sees into dynamic
metadata for the record. What it does not see is absent, and unknown in the record.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from importlib.resources import files
from types import MappingProxyType

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
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
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua, LuaPerRoute
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

from extproc.envoyconf import cors_policy
from extproc.envoyconf.clusters import SIDECAR_CLUSTER
from extproc.registry.schema import Registry
from extproc.registry.tier_compiling import tier_name
from extproc.routing.pipeline import LLM_MARGIN_S
from extproc.vocabulary import Api
from extproc.wire.decide_messages import (
    CHECKED_HEADER,
    CLEARANCE_HEADER,
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
_EDITS_BUFFER = "envoy.filters.http.buffer.edits"
FEEDBACK = "envoy.filters.http.ext_proc.feedback"
_HEADER_MUTATION = "envoy.filters.http.header_mutation"
_TRANSFORM = "envoy.filters.http.transform"
LUA = "envoy.filters.http.lua"
_HOP_OBSERVER = f"{LUA}.observe"  # in a hop, the filter with the usual name has another script
ROUTER = "envoy.filters.http.router"

# The sidecar keeps its own deadline and answers with the default. Envoy's deadline is for a sidecar that
# hangs. It allows for a busy machine and, by `Registry.transfer_s`, for the largest body.
_MESSAGE_MARGIN_S = 0.2
# How long Envoy holds an answer for a silent sidecar, counted from the latest part of the answer. A gate that
# works requests more time before that (see ``wire.gate_stream``).
_GATE_SILENCE_S = 5.0
# The time that a gate may request beyond that of its tier, so that its verdict comes before Envoy's timeout.
_GATE_MARGIN_S = 1.0
# Bytes by which edits may lengthen a body, mostly by the provider's name of a model.
EDITS = 64 * 1024
# The headers that the sidecar reads. It never gets a client's credentials.
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
# The headers that the sidecar may set: the decision, a changed body's length, an immediate response's type.
_MUTABLE = (
    CLUSTER_HEADER,
    ROUTE_HEADER,
    SPAN_HEADER,
    CLEARANCE_HEADER,
    CHECKED_HEADER,
    "content-length",
    "content-type",
)


def http_filters(registry: Registry) -> list[HttpFilter]:
    """The filter chain: CORS, observing, the decision, feedback, two steps of failing open, the router.

    The buffer filters come before the decision, because the sidecar reserves memory for a body when it gets
    the head, and a slow upload must not hold that. The first limits the body of the client. The second gets
    the whole body, and only raises the limit for the decision's edits.
    """
    limit = registry.envoy.max_body_bytes
    return [
        cors_policy.cross_origin(),
        _observer(),
        _switchable(_BUFFER, _buffer(limit)),
        _switchable(_EDITS_BUFFER, _buffer(limit + EDITS)),
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
        max_message_timeout=_most_time(registry),
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
    """How long Envoy waits for the reply to a head or to a body. Then it continues without one."""
    return timedelta(seconds=registry.decision_ms / 1000 + registry.transfer_s + _MESSAGE_MARGIN_S)


def _most_time(registry: Registry) -> timedelta | None:
    """How long the sidecar may ask Envoy to wait for a request in doubt; None: not at all."""
    if registry.llm is None:
        return None
    return timedelta(seconds=registry.llm.deadline_ms / 1000 + LLM_MARGIN_S)


def gate(registry: Registry, cascade: str, tier: int) -> HttpFilter:
    """The ext_proc filter of a tier's gate. It sends the request's head and body, then the answer in parts.

    Envoy holds the answer back until the sidecar replies to its head, and meanwhile sends each part to the
    sidecar. Envoy keeps these parts until the reply. If the sidecar ends the stream, dies or stays silent,
    Envoy releases the answer. With FULL_DUPLEX_STREAMED, the parts would be lost.
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
            # Trailers may end an answer.
            response_trailer_mode=ProcessingModeHeaderSendMode.SEND,
        ),
        send_body_without_waiting_for_header_response=True,
        # The timeout restarts with each part of the answer. It must also suffice for the request's body.
        message_timeout=timedelta(seconds=min(max(_GATE_SILENCE_S, registry.transfer_s), patience)),
        # A verdict may take as long as the tier's answer.
        max_message_timeout=timedelta(seconds=patience),
        forward_rules=HeaderForwardingRules(
            allowed_headers=_any_of(
                *_FORWARDED, ":status", ESCALATE_HEADER, VERSION_KEY, BEGAN_HEADER, CLEARANCE_HEADER
            )
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
    """The sidecar's gRPC services. ``metadata`` describes each stream."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER, skip_envoy_headers=True),
        initial_metadata=[HeaderValue(key=key, value=value) for key, value in metadata.items()],
    )


def _feedback() -> ExternalProcessor:
    """The ext_proc filter of feedback. Only for these requests, the sidecar gets the credentials.

    It is a separate filter, because a route cannot change which headers are forwarded.
    """
    return ExternalProcessor(
        grpc_service=sidecar_service({ROLE_KEY: ROLE}),
        failure_mode_allow=True,  # then the route's direct response answers
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            request_body_mode=ProcessingModeBodySendMode.BUFFERED,
            response_header_mode=ProcessingModeHeaderSendMode.SKIP,
        ),
        message_timeout=timedelta(seconds=10),  # long, because no model waits for feedback
        forward_rules=HeaderForwardingRules(allowed_headers=_any_of("authorization")),
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex="content-type|www-authenticate")
        ),
    )


def fail_open(api: Api, model: str, version: str, max_body_bytes: int) -> dict[str, Any]:
    """Per-route settings: ask the sidecar, and put ``model`` into the bodies of undecided requests.

    The request carries the registry ``version`` of this configuration, so that the sidecar decides by the
    same version. If ``version`` is empty, the sidecar uses its newest one.

    Envoy creates the filters of the route that matches first, before the decision. Each filter gets the
    settings of the route that is current when the request reaches it. So the filters that fail open are idle
    for a decided request, and its body does not change.
    """
    metadata = [HeaderValue(key=VERSION_KEY, value=version)] if version else []
    return {
        _BUFFER: Any.pack(BufferPerRoute(buffer=_buffer(max_body_bytes))),
        _EDITS_BUFFER: Any.pack(BufferPerRoute(buffer=_buffer(max_body_bytes + EDITS))),
        _EXT_PROC: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides(grpc_initial_metadata=metadata))),
        _HEADER_MUTATION: Any.pack(_as_json()),
        _TRANSFORM: Any.pack(_with_model(model)),
        **_observed(api),
    }


def refused() -> dict[str, Any]:
    """Per-route settings, over those of ``fail_open``: change nothing in a request that is refused.

    The filters are listed although they are idle. Otherwise Envoy would not create them for a request that
    matches this route first and continues on ``fail_open``.
    """
    return {
        _HEADER_MUTATION: Any.pack(HeaderMutationPerRoute()),
        _TRANSFORM: Any.pack(TransformConfig()),
    }


def _buffer(limit: int) -> Buffer:
    return Buffer(max_request_bytes=limit)


def _as_json() -> HeaderMutationPerRoute:
    # The transform filter ignores bodies of any other type, and a provider would reject the model's name that
    # the client sent.
    content_type = HeaderValueOption(
        header=HeaderValue(key="content-type", value="application/json"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return HeaderMutationPerRoute(
        mutations=Mutations(request_mutations=[HeaderMutation(append=content_type)])
    )


def _with_model(model: str) -> TransformConfig:
    literal = model.replace("%", "%%")  # a single % begins a command in Envoy's formats
    body = BodyTransformation(
        body_format=SubstitutionFormatString(json_format=Struct.from_dict({"model": literal})),
        action=BodyTransformationTransformAction.MERGE,
    )
    return TransformConfig(request_transformation=Transformation(body_transformation=body))


def _switchable(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(config), disabled=True)


def _any_of(*names: str) -> ListStringMatcher:
    return ListStringMatcher(patterns=[StringMatcher(exact=name) for name in names])


LUA = "envoy.filters.http.lua"
_IN_A_HOP = f"{LUA}.observe"  # where the filter of the usual name does something else


def _observer() -> HttpFilter:
    """The observing filter, disabled until a route enables it."""
    return HttpFilter(name=LUA, typed_config=Any.pack(script("observe")), disabled=True)


def hop_observer() -> HttpFilter:
    """The observing filter of a hop. ``hop_observed`` gives it the name of its model."""
    return HttpFilter(name=_HOP_OBSERVER, typed_config=Any.pack(script("observe")))


def hop_observed(model: str, sent: str, provider: str, **place: str) -> dict[str, Any]:
    """Per-route settings of a hop: the model's public name, the provider's name of it, and the provider.

    ``place`` is its place in a cascade.
    """
    return enabled_script(_HOP_OBSERVER, model=model, sent=sent, provider=provider, **place)


def _observed(api: Api) -> dict[str, Any]:
    """Per-route settings that enable the observing filter and give it the API of the request.

    They must be on the route that matches first, before the decision: ``fail-open``.
    """
    return enabled_script(LUA, api=api.value)


def enabled_script(script: str, /, **context: str) -> dict[str, Any]:
    """Per-route settings that enable the Lua filter ``script`` and set its ``filterContext``."""
    return {script: Any.pack(LuaPerRoute(filter_context=Struct.from_dict(context)))}


def script(name: str) -> Lua:
    """The Lua filter that runs ``lua/NAME.lua``."""
    source = files(__package__).joinpath("lua", f"{name}.lua").read_text()
    return Lua(default_source_code=DataSource(inline_string=source))
