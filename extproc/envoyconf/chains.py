"""Asking models in turn, by Envoy's own retry: when one fails, and when its answer is not good enough.

A chain is a cluster whose endpoints are internal listeners, one per call, at falling priority; each
retry goes to the next. Behind each stands a hop (see ``hops``). To the outer router a failure, or a
verdict that an answer will not do, is just an upstream's answer. So every attempt sees the client's
request as the decision left it, and nothing of another attempt.

A route's ``fallback`` and its ``cascade`` both become chains; what differs is what their hops do.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import msgspec
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
from envoy_data_plane.envoy.config.route.v3 import (
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryPriority,
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

from extproc.envoyconf.clusters import plain_cluster
from extproc.envoyconf.route_actions import exactly
from extproc.envoyconf.site import Names
from extproc.registry import schema
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.vocabulary import Api
from extproc.wire.gate_messages import ESCALATE_HEADER
from extproc.wire.observed_metadata import CASCADE, CHAIN, CONTENT_MARK, HOP_PREFIX, place

# What ends an attempt: any answer that is the server's fault, none at all, a full provider, a verdict.
_FAILED = "5xx,reset,connect-failure,retriable-status-codes,retriable-headers"
_BACK_OFF = RetryPolicyRetryBackOff(
    base_interval=timedelta(milliseconds=1), max_interval=timedelta(milliseconds=10)
)


class Call(msgspec.Struct, frozen=True):
    """One call of a chain: whom it asks, and as what."""

    model: str  # its public name
    cascade: str = ""  # empty: a fallback's
    tier: int | None = None  # of the cascade; None: its last resort, the default
    judged: bool = False  # whether a gate may send the request on

    @property
    def hop(self) -> str:
        """The listener behind it. What is told to the outer log of its name ends before the mark."""
        if not self.cascade:
            return f"{HOP_PREFIX}{self.model}"
        tier = "last" if self.tier is None else str(self.tier)
        return f"{HOP_PREFIX}{self.model}{CONTENT_MARK}{self.cascade}.{tier}{'.judged' * self.judged}"


Calls = tuple[Call, ...]  # in the order in which they are made


def calls_of(registry: Registry, route: schema.RouteSettings, first: str, api: Api) -> Calls:
    """Whom a request of ``api`` asks, beginning with ``first``: no model that does not speak it."""
    if route.cascade:
        return _tiers(registry, route.cascade, first, api)
    others = [name for name in many(route.fallback) if name != first and api in registry.models[name].speaks]
    times = 1 + (route.retry.attempts if route.retry else 0)
    return tuple(Call(name) for name in (first, *others) for _ in range(times))


def _tiers(registry: Registry, name: str, first: str, api: Api) -> Calls:
    """From the tier of ``first`` on, and the API's default where all of them failed.

    The last of them is not judged: its answer is the one there is.
    """
    cascade = registry.cascades[name]
    models = [tier.model for tier in cascade.tiers]
    begin = models.index(first) if first in models else len(models)
    calls = [
        Call(tier.model, name, number, judged=bool(tier.gate))
        for number, tier in enumerate(cascade.tiers)
        if number >= begin and api in registry.models[tier.model].speaks
    ]
    if registry.defaults[api] not in [call.model for call in calls]:
        calls.append(Call(registry.defaults[api], name))
    *before, last = calls[: cascade.max_calls]
    return (*before, msgspec.structs.replace(last, judged=False))


def chains(registry: Registry) -> dict[str, Calls]:
    """Every chain that some route needs, by its cluster's name."""
    found: dict[str, Calls] = {}
    for route in registry.routes.values():
        if not route.asks_in_turn:
            continue
        for first in dict.fromkeys((*many(route.candidates), *registry.defaults.values())):
            for api in registry.models[first].speaks:
                calls = calls_of(registry, route, first, api)
                found[chain_name(calls)] = calls
    return found


def chain_name(calls: Calls) -> str:
    """The cluster of one chain: equal chains of several routes are one."""
    models = "|".join(call.model for call in calls)
    cascade = calls[0].cascade
    return f"{CASCADE}{cascade}-{models}" if cascade else f"{CHAIN}{models}"


def tries(calls: Calls, route: schema.RouteSettings, deadline_s: float | None = None) -> RetryPolicy:
    """Each retry goes to the next priority; one more than there are would begin anew.

    Hops keep the deadline by themselves, each by what is left of it; that none takes more than all of
    it is for one whose gate hangs.
    """
    patience = route.timeout_s or deadline_s
    statuses = {429, *(route.retry.statuses if route.retry else ())}
    return RetryPolicy(
        retry_on=_FAILED,
        retriable_status_codes=sorted(statuses),
        retriable_headers=[exactly(ESCALATE_HEADER, "1")],
        num_retries=len(calls) - 1,
        per_try_timeout=timedelta(seconds=patience) if patience else None,
        retry_back_off=_BACK_OFF,
        retry_priority=RetryPolicyRetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=Any.pack(PreviousPrioritiesConfig(update_frequency=1)),
        ),
    )


def chain_clusters(registry: Registry, names: Names) -> list[Cluster]:
    """One cluster per chain."""
    return [_chain(name, calls, names) for name, calls in chains(registry).items()]


def hop_calls(registry: Registry) -> Iterator[Call]:
    """One call per hop that some chain needs."""
    yield from {call.hop: call for calls in chains(registry).values() for call in calls}.values()


def _chain(name: str, calls: Sequence[Call], names: Names) -> Cluster:
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
            LocalityLbEndpoints(lb_endpoints=[_to_hop(names[call.hop], priority)], priority=priority)
            for priority, call in enumerate(calls)
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
