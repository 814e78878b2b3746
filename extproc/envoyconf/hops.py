"""A hop: the internal listener behind one call of a chain.

It puts its model's name into the body and sends the request to the model's cluster, with that provider's key,
path and host. As a tier of a cascade, it keeps that tier's timeout, and its gate judges the answer before
Envoy releases it.
"""

import json
from collections.abc import Iterator

from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    Listener,
    ListenerInternalListenerConfig,
)
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
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
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.chains import Call, hop_calls
from extproc.envoyconf.http_filters import (
    EDITS,
    LUA,
    ROUTER,
    enabled_script,
    gate,
    hop_observed,
    hop_observer,
    script,
)
from extproc.envoyconf.local_replies import hop_replies
from extproc.envoyconf.outcome_logs import attempt_log
from extproc.envoyconf.route_actions import API_ROOT, action, exactly, header
from extproc.envoyconf.typed_config import Names
from extproc.registry.cascade_settings import Tier
from extproc.registry.schema import Registry, cluster_name
from extproc.wire.decide_messages import (
    CLEARANCE_HEADER,
    CLUSTER_HEADER,
    ROUTE_HEADER,
    SPAN_HEADER,
    VERSION_KEY,
)
from extproc.wire.gate_messages import BEGAN_HEADER

# Headers of the decision and of the outer router for the hops. Providers must not get them.
_BOOKKEEPING = [
    CLUSTER_HEADER,
    ROUTE_HEADER,
    SPAN_HEADER,
    CLEARANCE_HEADER,
    VERSION_KEY,
    BEGAN_HEADER,
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-internal",
]
SERVED_BY = "x-router-served-by"  # on answers: the model of the chain that answered
_MANAGER = "envoy.filters.network.http_connection_manager"


def hops(registry: Registry, names: Names) -> list[Listener]:
    """One internal listener per model of any chain, and per tier of any cascade that is used.

    A hop always contains its routes. A request decided by one version of the registry must not reach a hop of
    the next version, so a hop that changes gets another name.
    """
    return [_hop(registry, call, names) for call in hop_calls(registry)]


def _hop(registry: Registry, call: Call, names: Names) -> Listener:
    manager = HttpConnectionManager(
        stat_prefix=call.hop,
        route_config=_routes(registry, call, names),
        http_filters=[
            *([gate(registry, call.cascade, call.tier)] if call.judged and call.tier is not None else []),
            HttpFilter(name=LUA, typed_config=Any.pack(script("hop"))),
            hop_observer(),
            HttpFilter(name=ROUTER, typed_config=Any.pack(Router(suppress_envoy_headers=True))),
        ],
        generate_request_id=False,
        access_log=[attempt_log()],
        local_reply_config=hop_replies(registry),
    )
    return Listener(
        name=names[call.hop],
        internal_listener=ListenerInternalListenerConfig(),
        filter_chains=[FilterChain(filters=[Filter(name=_MANAGER, typed_config=Any.pack(manager))])],
    )


def _routes(registry: Registry, call: Call, names: Names) -> RouteConfiguration:
    return RouteConfiguration(
        name=call.hop,
        virtual_hosts=[
            VirtualHost(
                name=call.hop,
                domains=["*"],
                routes=list(_ways_to_name(registry, call, names)),
                request_headers_to_remove=_BOOKKEEPING,
                response_headers_to_add=[header(SERVED_BY, call.model)],
            )
        ],
    )


def _ways_to_name(registry: Registry, call: Call, names: Names) -> Iterator[Route]:
    """Two routes: either the body already names this model, or the script replaces the name in it."""
    model = registry.models[call.model]
    sent = model.name or call.model
    tier = _tier(registry, call)

    def route(kind: str, header: HeaderMatcher, **context: str) -> Route:
        to = action(
            registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(call.model)], policy=tier
        )
        return Route(
            name=kind,
            match=RouteMatch(prefix=f"{API_ROOT}/", headers=[header]),
            route=to,
            # The decision's edits may make a body longer than the limit for clients.
            request_body_buffer_limit=registry.envoy.max_body_bytes + EDITS,
            typed_per_filter_config={
                **hop_observed(call.model, sent, model.provider, **_place(call)),
                **enabled_script(LUA, **context, **_time(registry, call)),
            },
        )

    yield route("named", exactly(CLUSTER_HEADER, cluster_name(call.model)))
    yield route("renamed", HeaderMatcher(name=SPAN_HEADER, present_match=True), model=json.dumps(sent))


def _tier(registry: Registry, call: Call) -> Tier | None:
    return None if call.tier is None else registry.cascades[call.cascade].tiers[call.tier]


def _place(call: Call) -> dict[str, str]:
    """The place of a cascade's call, for the record."""
    place = {"cascade": call.cascade} if call.cascade else {}
    return place if call.tier is None else {**place, "tier": str(call.tier)}


def _time(registry: Registry, call: Call) -> dict[str, str]:
    """The time limits of a cascade's call, for the script: milliseconds as texts."""
    deadline = registry.cascades[call.cascade].deadline_s if call.cascade else None
    if deadline is None:
        return {}
    tier = _tier(registry, call)
    own = {"timeout": str(round(tier.timeout_s * 1000))} if tier and tier.timeout_s else {}
    return {"deadline": str(round(deadline * 1000)), **own}
