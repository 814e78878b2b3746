"""The listener for clients, and the listener by which gates call other models.

Clients use HTTP/1.1 or h2c. The router's headers are removed from their requests, and every outcome is
logged.

Gates use a listener on loopback or a unix socket, with only the router filter. A call uses the model's
cluster, with that provider's key, path and host, as a hop does. It passes neither ext_proc nor an access log:
the gate reports it together with the answer that it judged.
"""

from collections.abc import Iterator
from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.google.protobuf import Any

from extproc.egress.model_calls import EGRESS_HEADER
from extproc.envoyconf.http_filters import ROUTER, http_filters
from extproc.envoyconf.local_replies import local_replies
from extproc.envoyconf.outcome_logs import outcome_logs
from extproc.envoyconf.route_actions import API_ROOT, LLM_METHOD, action, exactly, header
from extproc.envoyconf.typed_config import ROUTER_PREFIX, Names, Site, address, extension, without_prefix
from extproc.registry.schema import Registry, cluster_name
from extproc.registry.tier_compiling import consulted_models
from extproc.vocabulary import Api
from extproc.wire.socket_files import socket_mode

_CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
# The limits follow Envoy's best practices for edge proxies.
_IDLE_CONNECTION = timedelta(minutes=15)
_HEADERS_IN = timedelta(seconds=10)
# The time limit for the request alone, so answers may stream for longer.
REQUEST_IN = timedelta(minutes=5)
_STREAMS_PER_CONNECTION = 100
_EGRESS = "egress"
_EGRESS_IDLE = timedelta(seconds=60)


def listener(registry: Registry, routes: RouteConfiguration, site: Site) -> Listener:
    """The listener for clients, at ``envoy.listen``."""
    manager = connection_manager(registry, routes, site)
    return Listener(name="llm", address=address(registry.envoy.listen), filter_chains=_http(manager))


def connection_manager(registry: Registry, routes: RouteConfiguration, site: Site) -> HttpConnectionManager:
    """How requests are read, cleaned, filtered, routed and logged."""
    return HttpConnectionManager(
        stat_prefix="llm",
        route_config=site.inline(routes),
        rds=site.rds(routes),
        http_filters=http_filters(registry),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=_IDLE_CONNECTION,
            # Many servers take x_router_cluster and x-router-cluster for the same header.
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER,
        ),
        http2_protocol_options=Http2ProtocolOptions(max_concurrent_streams=_STREAMS_PER_CONNECTION),
        request_headers_timeout=_HEADERS_IN,
        request_timeout=REQUEST_IN,
        access_log=outcome_logs(registry, site),
        # The client's address is that of the connection, never that of a header.
        use_remote_address=True,
        early_header_mutation_extensions=[_unforgeable()],
        always_set_request_id_in_response=True,
        # Paths that a provider may read as the chat path are normalized to it.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_FORWARD,
        local_reply_config=local_replies(registry),
    )


def _unforgeable() -> TypedExtensionConfig:
    """Removes the headers that only the router may set, before any filter reads them."""
    mutations = [without_prefix(ROUTER_PREFIX), without_prefix("x-envoy-"), Mutation(remove="x-request-id")]
    return extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=mutations))


def egress(registry: Registry, names: Names) -> Iterator[Listener]:
    """The listener at ``envoy.egress``, if some gate calls a model."""
    asked = consulted_models(registry)
    if not asked:
        return
    manager = HttpConnectionManager(
        stat_prefix=_EGRESS,
        route_config=RouteConfiguration(
            name=_EGRESS,
            virtual_hosts=[
                VirtualHost(
                    name=_EGRESS,
                    domains=["*"],
                    routes=[_to(registry, model, names) for model in asked],
                    request_headers_to_remove=[EGRESS_HEADER],
                )
            ],
        ),
        http_filters=[HttpFilter(name=ROUTER, typed_config=Any.pack(Router(suppress_envoy_headers=True)))],
        generate_request_id=False,  # a call has the id of the request whose answer is judged
        stream_idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
        request_headers_timeout=_EGRESS_IDLE,
    )
    yield Listener(
        name=_EGRESS,
        # Envoy sets no group, so the socket gets the group of its directory.
        address=address(registry.envoy.egress, mode=socket_mode(shared=registry.envoy.socket_group != "")),
        filter_chains=_http(manager),
    )


def _http(manager: HttpConnectionManager) -> list[FilterChain]:
    return [FilterChain(filters=[Filter(name=_CONNECTION_MANAGER, typed_config=Any.pack(manager))])]


def _to(registry: Registry, name: str, names: Names) -> Route:
    model = registry.models[name]
    # Anthropic rejects a request without a version of its API.
    version = [header("anthropic-version", "2023-06-01")] if Api.ANTHROPIC_MESSAGES in model.speaks else []
    return Route(
        name=name,
        match=RouteMatch(
            prefix=f"{API_ROOT}/", headers=[exactly(":method", LLM_METHOD), exactly(EGRESS_HEADER, name)]
        ),
        route=action(registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(name)]),
        request_headers_to_add=[header("accept-encoding", "identity"), *version],
    )
