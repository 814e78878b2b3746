"""The listener that clients speak to: HTTP/1.1 and h2c, nothing forged, every outcome logged."""

from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.http_filters import http_filters
from extproc.envoyconf.local_replies import local_replies
from extproc.envoyconf.outcome_logs import outcome_logs
from extproc.envoyconf.site import Site
from extproc.envoyconf.typed_config import ROUTER_PREFIX, address, extension, without_prefix
from extproc.registry.schema import Registry

_CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
# The limits are those of Envoy's own advice for an edge proxy.
_IDLE_CONNECTION = timedelta(minutes=15)
_HEADERS_IN = timedelta(seconds=10)
# For the request alone: it ends when the request is sent on, so answers may stream for longer.
REQUEST_IN = timedelta(minutes=5)
_STREAMS_PER_CONNECTION = 100


def listener(registry: Registry, routes: RouteConfiguration, site: Site) -> Listener:
    """The listener for clients, at ``envoy.listen``."""
    manager = connection_manager(registry, routes, site)
    return Listener(
        name="llm",
        address=address(registry.envoy.listen),
        filter_chains=[
            FilterChain(filters=[Filter(name=_CONNECTION_MANAGER, typed_config=Any.pack(manager))])
        ],
    )


def connection_manager(registry: Registry, routes: RouteConfiguration, site: Site) -> HttpConnectionManager:
    """How requests are read, cleaned, filtered, routed and logged."""
    return HttpConnectionManager(
        stat_prefix="llm",
        route_config=site.inline(routes),
        rds=site.rds(routes),
        http_filters=http_filters(registry),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=_IDLE_CONNECTION,
            # To many servers x_router_cluster and x-router-cluster are one header.
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER,
        ),
        http2_protocol_options=Http2ProtocolOptions(max_concurrent_streams=_STREAMS_PER_CONNECTION),
        request_headers_timeout=_HEADERS_IN,
        request_timeout=REQUEST_IN,
        access_log=outcome_logs(registry, site),
        # Nobody's word is taken for where a request came from.
        use_remote_address=True,
        early_header_mutation_extensions=[_unforgeable()],
        always_set_request_id_in_response=True,
        # Every spelling of a path that a provider may take for the chat path is the chat path.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_FORWARD,
        local_reply_config=local_replies(registry),
    )


def _unforgeable() -> TypedExtensionConfig:
    """Removes, before anything reads them, headers by which a client could steer or pose."""
    mutations = [without_prefix(ROUTER_PREFIX), without_prefix("x-envoy-"), Mutation(remove="x-request-id")]
    return extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=mutations))
