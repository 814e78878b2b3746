"""The listener by which gates ask other models: loopback or a unix socket, and no filter but the router.

A call takes the model's own cluster, with that provider's key, path and host, as a hop's does. Neither
ext_proc nor a log sees it: the gate that made it tells of it, with the answer that it judged.
"""

from collections.abc import Iterator
from datetime import timedelta

from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.google.protobuf import Any

from extproc.egress.model_calls import EGRESS_HEADER
from extproc.envoyconf.http_filters import ROUTER
from extproc.envoyconf.route_actions import API_ROOT, LLM_METHOD, action, exactly, header
from extproc.envoyconf.site import Names
from extproc.envoyconf.typed_config import address
from extproc.registry.schema import Registry, cluster_name
from extproc.registry.tier_compiling import consulted_models
from extproc.vocabulary import Api
from extproc.wire.socket_files import socket_mode

_NAME = "egress"
_MANAGER = "envoy.filters.network.http_connection_manager"
_IDLE = timedelta(seconds=60)


def egress(registry: Registry, names: Names) -> Iterator[Listener]:
    """The listener at ``envoy.egress``; none where no gate asks anybody."""
    asked = consulted_models(registry)
    if not asked:
        return
    manager = HttpConnectionManager(
        stat_prefix=_NAME,
        route_config=RouteConfiguration(
            name=_NAME,
            virtual_hosts=[
                VirtualHost(
                    name=_NAME,
                    domains=["*"],
                    routes=[_to(registry, model, names) for model in asked],
                    request_headers_to_remove=[EGRESS_HEADER],
                )
            ],
        ),
        http_filters=[HttpFilter(name=ROUTER, typed_config=Any.pack(Router(suppress_envoy_headers=True)))],
        generate_request_id=False,  # the calls have that of the request whose answer is judged
        stream_idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
        request_headers_timeout=_IDLE,
    )
    yield Listener(
        name=_NAME,
        # Envoy sets no group: the socket has that of its directory.
        address=address(registry.envoy.egress, mode=socket_mode(shared=registry.envoy.socket_group != "")),
        filter_chains=[FilterChain(filters=[Filter(name=_MANAGER, typed_config=Any.pack(manager))])],
    )


def _to(registry: Registry, name: str, names: Names) -> Route:
    model = registry.models[name]
    # Anthropic refuses a request that does not say by which version of its API it is made.
    version = [header("anthropic-version", "2023-06-01")] if Api.ANTHROPIC_MESSAGES in model.speaks else []
    return Route(
        name=name,
        match=RouteMatch(
            prefix=f"{API_ROOT}/", headers=[exactly(":method", LLM_METHOD), exactly(EGRESS_HEADER, name)]
        ),
        route=action(registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(name)]),
        request_headers_to_add=[header("accept-encoding", "identity"), *version],
    )
