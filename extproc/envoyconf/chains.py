"""Fallback: other models asked in order when the chosen one fails, by Envoy's own retry.

A chain is a cluster whose endpoints are internal listeners, one per attempt, at falling priority;
each retry goes to the next. Behind each stands a hop: a listener of one model that names this
model in the body and sends the request to the model's own cluster, with that provider's key, path
and host. To the outer router a hop's failure is just an upstream's answer. So every attempt sees the
client's request as the decision left it, and nothing of another attempt.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterCommonLbConfig
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    EnvoyInternalAddress,
    Http2ProtocolOptions,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    Listener,
    ListenerInternalListenerConfig,
)
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryPriority,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import PreviousPrioritiesConfig
from envoy_data_plane.envoy.extensions.transport_sockets.internal_upstream.v3 import InternalUpstreamTransport
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.access_log import attempts
from extproc.envoyconf.actions import API_ROOT, action, exactly, header
from extproc.envoyconf.clusters import plain_cluster
from extproc.envoyconf.filters import ROUTER
from extproc.envoyconf.observing import LUA, hop_observed, hop_observer, script, told
from extproc.envoyconf.replies import hop_replies
from extproc.envoyconf.site import Names
from extproc.registry import schema
from extproc.registry.schema import Registry, cluster_name
from extproc.registry.section import many
from extproc.vocabulary import Api
from extproc.wire.messages import CLUSTER_HEADER, ROUTE_HEADER, SPAN_HEADER, VERSION_KEY
from extproc.wire.observed import HOP_PREFIX, place

# What the decision and the outer router noted for the hops, and is not for providers.
_BOOKKEEPING = [
    CLUSTER_HEADER,
    ROUTE_HEADER,
    SPAN_HEADER,
    VERSION_KEY,
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-internal",
]
SERVED_BY = "x-router-served-by"  # on answers: the model of the chain that gave it
_MANAGER = "envoy.filters.network.http_connection_manager"
# What ends an attempt: any answer that is the server's fault, none at all, or a full provider.
_FAILED = "5xx,reset,connect-failure,retriable-status-codes"
_BACK_OFF = RetryPolicyRetryBackOff(
    base_interval=timedelta(milliseconds=1), max_interval=timedelta(milliseconds=10)
)

# Bytes by which edits may lengthen a body: the provider's name of a model, most of all.
_EDITS = 64 * 1024

Models = tuple[str, ...]  # public names, in the order in which they are asked


def chain_of(registry: Registry, route: schema.Route, first: str, api: Api) -> Models:
    """Whom a request of ``api`` asks, beginning with ``first``: no model that does not speak it."""
    others = [name for name in many(route.fallback) if name != first and api in registry.models[name].speaks]
    return (first, *others)


def chains(registry: Registry) -> dict[str, Models]:
    """Every chain that some route needs, by its cluster's name."""
    found: dict[str, Models] = {}
    for route in registry.routes.values():
        if not route.fallback:
            continue
        for first in dict.fromkeys((*many(route.candidates), *registry.defaults.values())):
            for api in registry.models[first].speaks:
                models = chain_of(registry, route, first, api)
                found[chain_name(models, route)] = _attempts(models, route)
    return found


def chain_name(models: Models, route: schema.Route) -> str:
    """The cluster of one chain: equal chains of several routes are one."""
    return "chain-" + "|".join(_attempts(models, route))


def _attempts(models: Models, route: schema.Route) -> Models:
    """With ``retry`` each model is asked several times before the next."""
    times = 1 + (route.retry.attempts if route.retry else 0)
    return tuple(name for name in models for _ in range(times))


def tries(models: Models, route: schema.Route) -> RetryPolicy:
    """Each retry goes to the next priority; one more than there are would begin anew."""
    statuses = {429, *(route.retry.statuses if route.retry else ())}
    return RetryPolicy(
        retry_on=_FAILED,
        retriable_status_codes=sorted(statuses),
        num_retries=len(_attempts(models, route)) - 1,
        per_try_timeout=timedelta(seconds=route.timeout_s) if route.timeout_s else None,
        retry_back_off=_BACK_OFF,
        retry_priority=RetryPolicyRetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=Any.pack(PreviousPrioritiesConfig(update_frequency=1)),
        ),
    )


def chain_clusters(registry: Registry, names: Names) -> list[Cluster]:
    """One cluster per chain."""
    return [_chain(name, models, names) for name, models in chains(registry).items()]


def hop_names(registry: Registry) -> list[str]:
    """The models that stand in some chain."""
    return list(dict.fromkeys(model for models in chains(registry).values() for model in models))


def hops(registry: Registry, names: Names) -> list[Listener]:
    """One internal listener per model of any chain.

    Its routes always stand in it: a request that was decided by one version of the registry must
    not meet a hop of the next, so a hop that changes is another hop.
    """
    return [_hop(registry, name, names) for name in hop_names(registry)]


def hop_listener(model: str) -> str:
    """The name of a model's hop."""
    return f"{HOP_PREFIX}{model}"


def _chain(name: str, models: Sequence[str], names: Names) -> Cluster:
    http = HttpProtocolOptions(
        # By HTTP/1 every failed attempt would cost a connection.
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions()
        )
    )
    cluster = plain_cluster(names[name], [], http)
    cluster.alt_stat_name = name if names[name] != name else ""
    cluster.load_assignment = ClusterLoadAssignment(
        cluster_name=names[name],
        endpoints=[
            LocalityLbEndpoints(lb_endpoints=[_to_hop(names[hop], priority)], priority=priority)
            for priority, hop in enumerate(map(hop_listener, models))
        ],
    )
    cluster.common_lb_config = ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0.0))
    cluster.transport_socket = TransportSocket(
        name="envoy.transport_sockets.internal_upstream",
        typed_config=Any.pack(
            InternalUpstreamTransport(
                transport_socket=TransportSocket(
                    name="envoy.transport_sockets.raw_buffer", typed_config=Any.pack(RawBuffer())
                )
            )
        ),
    )
    return cluster


def _to_hop(hop: str, priority: int) -> LbEndpoint:
    # The same hop may stand at several priorities; an endpoint may not. And it is how a hop knows.
    internal = EnvoyInternalAddress(server_listener_name=hop, endpoint_id=place(priority + 1))
    return LbEndpoint(endpoint=Endpoint(address=Address(envoy_internal_address=internal)))


def _hop(registry: Registry, name: str, names: Names) -> Listener:
    manager = HttpConnectionManager(
        stat_prefix=hop_listener(name),
        route_config=_hop_routes(registry, name, names),
        http_filters=[
            HttpFilter(name=LUA, typed_config=Any.pack(script("rename")), disabled=True),
            hop_observer(),
            HttpFilter(name=ROUTER, typed_config=Any.pack(Router(suppress_envoy_headers=True))),
        ],
        generate_request_id=False,
        access_log=[attempts()],
        local_reply_config=hop_replies(registry),
    )
    return Listener(
        name=names[hop_listener(name)],
        internal_listener=ListenerInternalListenerConfig(),
        filter_chains=[FilterChain(filters=[Filter(name=_MANAGER, typed_config=Any.pack(manager))])],
    )


def _hop_routes(registry: Registry, name: str, names: Names) -> RouteConfiguration:
    return RouteConfiguration(
        name=hop_listener(name),
        virtual_hosts=[
            VirtualHost(
                name=hop_listener(name),
                domains=["*"],
                routes=list(_ways_to_name(registry, name, names)),
                request_headers_to_remove=_BOOKKEEPING,
                response_headers_to_add=[header(SERVED_BY, name)],
            )
        ],
    )


def _ways_to_name(registry: Registry, name: str, names: Names) -> Iterator[Route]:
    """The body names this model already, as the decision's own; else the name's bytes are replaced."""
    model = registry.models[name]

    def route(kind: str, header: HeaderMatcher) -> Route:
        return Route(
            name=kind,
            match=RouteMatch(prefix=f"{API_ROOT}/", headers=[header]),
            route=action(registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(name)]),
            # The decision's edits may have made it longer than a client's may be.
            request_body_buffer_limit=registry.envoy.max_body_bytes + _EDITS,
            typed_per_filter_config=hop_observed(name, model.name or name, model.provider),
        )

    yield route("named", exactly(CLUSTER_HEADER, cluster_name(name)))
    renamed = route("renamed", HeaderMatcher(name=SPAN_HEADER, present_match=True))
    renamed.typed_per_filter_config |= told(LUA, model=json.dumps(model.name or name))
    yield renamed
