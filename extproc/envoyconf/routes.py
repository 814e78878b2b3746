"""Which requests are decided, where they go when they are not, and what passes untouched."""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from extproc.envoyconf.filters import fail_open
from extproc.registry.schema import Registry, cluster_name
from extproc.wire.envelope import NAMESPACE
from extproc.wire.messages import CLUSTER_HEADER

CHAT_METHOD = "POST"
CHAT_PATH = "/v1/chat/completions"

# Fields of the envelope that clients see as x-router-<field>.
_ANSWERED = ("route", "model", "reason", "margin", "probability", "version")
# What identifies a client to us is nobody else's business; the last two would even make OpenAI
# refuse the provider's own key.
_CLIENT_CREDENTIALS = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "openai-organization",
    "openai-project",
)
_CLIENT_ADDRESS = ("x-forwarded-for", "x-envoy-external-address")


def route_configuration(registry: Registry) -> RouteConfiguration:
    """The routes, in the order in which they are tried.

    A request first matches ``fail-open``, since clients cannot send the cluster header. When the
    sidecar has set it, Envoy looks again and finds ``decided``; else it goes on as it was.
    """
    return RouteConfiguration(
        name="llm",
        virtual_hosts=[
            VirtualHost(
                name="llm",
                domains=["*"],
                routes=[_decided(registry), _fail_open(registry), _passthrough(registry)],
                request_headers_to_remove=[CLUSTER_HEADER, *_CLIENT_CREDENTIALS, *_CLIENT_ADDRESS],
                # Removed first, so that a provider cannot pass its own off as the router's.
                response_headers_to_remove=[_answer_header(key) for key in _ANSWERED],
                response_headers_to_add=_answers() if registry.envoy.response_headers else [],
            )
        ],
    )


def _decided(registry: Registry) -> Route:
    return Route(
        name="decided",
        match=_chat(HeaderMatcher(name=CLUSTER_HEADER, present_match=True)),
        route=_action(registry, cluster_header=CLUSTER_HEADER),
    )


def _fail_open(registry: Registry) -> Route:
    return Route(
        name="fail-open",
        match=_chat(),
        route=_action(registry, cluster=cluster_name(registry.default)),
        # This is the route while the body is awaited, decided or not.
        request_body_buffer_limit=registry.envoy.max_body_bytes,
        typed_per_filter_config=fail_open(registry.models[registry.default].name or registry.default),
    )


def _passthrough(registry: Registry) -> Route:
    return Route(
        name="passthrough",
        match=RouteMatch(prefix="/"),
        route=_action(registry, cluster=cluster_name(registry.default)),
    )


def _chat(*headers: HeaderMatcher) -> RouteMatch:
    method = HeaderMatcher(name=":method", string_match=StringMatcher(exact=CHAT_METHOD))
    return RouteMatch(path=CHAT_PATH, headers=[method, *headers])


def _action(
    registry: Registry, *, cluster: str | None = None, cluster_header: str | None = None
) -> RouteAction:
    return RouteAction(
        cluster=cluster,
        cluster_header=cluster_header,
        auto_host_rewrite=True,
        # A stream may take as long as it likes, but not be silent for ever.
        timeout=timedelta(0),
        idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
    )


def _answers() -> list[HeaderValueOption]:
    """Headers from the decision; one whose key is absent or empty is not sent."""
    return [
        HeaderValueOption(
            header=HeaderValue(key=_answer_header(key), value=f"%DYNAMIC_METADATA({NAMESPACE}:{key})%"),
            append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for key in _ANSWERED
    ]


def _answer_header(key: str) -> str:
    return f"x-router-{key}"
