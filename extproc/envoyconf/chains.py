"""Chains: Envoy asks one model after another by its own retries, when a call fails or an answer is rejected.

A chain is a cluster whose endpoints are internal listeners, one per call, with falling priority. Each retry
goes to the next one. Behind each is a hop (see ``hops``). For the outer router, a failure or a rejected
answer is an ordinary upstream response. So every attempt gets the decided request, and nothing of another
attempt.

A route's ``fallback`` and its ``cascade`` both become chains. Only their hops differ.
"""

from collections.abc import Collection, Iterator, Sequence
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
from extproc.envoyconf.typed_config import Names
from extproc.registry import schema
from extproc.registry.schema import Registry, cleared_for
from extproc.registry.section import many
from extproc.routing.clearance import clearances
from extproc.vocabulary import Api
from extproc.wire.gate_messages import ESCALATE_HEADER
from extproc.wire.observed_metadata import CASCADE, CHAIN, CONTENT_MARK, HOP_PREFIX, place

# What causes a retry: a 5xx, no answer, a provider at its rate limit, a verdict.
_FAILED = "5xx,reset,connect-failure,retriable-status-codes,retriable-headers"
_BACK_OFF = RetryPolicyRetryBackOff(
    base_interval=timedelta(milliseconds=1), max_interval=timedelta(milliseconds=10)
)


class Call(msgspec.Struct, frozen=True):
    """One call of a chain: the model, and its place in a cascade."""

    model: str  # its public name
    cascade: str = ""  # empty: the call is of a fallback
    tier: int | None = None  # of the cascade; None: the default model, as the last resort
    judged: bool = False  # whether a gate may reject the answer

    @property
    def hop(self) -> str:
        """The name of its listener. The outer access log contains the part before the mark."""
        if not self.cascade:
            return f"{HOP_PREFIX}{self.model}"
        tier = "last" if self.tier is None else str(self.tier)
        return f"{HOP_PREFIX}{self.model}{CONTENT_MARK}{self.cascade}.{tier}{'.judged' * self.judged}"


Calls = tuple[Call, ...]  # in the order in which they are made


Models = Collection[str]  # that may be asked, by their public names


def calls_of(
    registry: Registry, route: schema.RouteSettings, first: str, api: Api, allowed: Models | None = None
) -> Calls:
    """The calls for a request of ``api``, beginning with ``first``. Every model in it supports the API.

    Only ``allowed`` models are asked, of which ``first`` is one; None: any model.
    """
    able = [
        name
        for name, model in registry.models.items()
        if api in model.speaks and (allowed is None or name in allowed)
    ]
    if route.cascade:
        return _tiers(registry, route.cascade, first, able, registry.defaults[api])
    others = [name for name in many(route.fallback) if name != first and name in able]
    times = 1 + (route.retry.attempts if route.retry else 0)
    return tuple(Call(name) for name in (first, *others) for _ in range(times))


def _tiers(registry: Registry, name: str, first: str, able: Models, default: str) -> Calls:
    """The calls from the tier of ``first`` on, then the default if all of them fail; only ``able`` models.

    The last call is not judged, because no other answer can follow.
    """
    cascade = registry.cascades[name]
    models = [tier.model for tier in cascade.tiers]
    begin = models.index(first) if first in models else len(models)
    calls = [
        Call(tier.model, name, number, judged=bool(tier.gate))
        for number, tier in enumerate(cascade.tiers)
        if number >= begin and tier.model in able
    ]
    if default in able and default not in [call.model for call in calls]:
        calls.append(Call(default, name))
    *before, last = calls[: cascade.max_calls]
    return (*before, msgspec.structs.replace(last, judged=False))


def chains(registry: Registry) -> dict[str, Calls]:
    """Every chain that some route needs, by its cluster's name."""
    return {
        chain_name(calls): calls
        for route in registry.routes.values()
        if route.asks_in_turn
        for first in firsts(registry, route)
        for _, _, calls in ways(registry, route, first)
    }


def firsts(registry: Registry, route: schema.RouteSettings) -> list[str]:
    """The models that a decision for the route may name: its candidates, and the defaults."""
    return list(dict.fromkeys((*many(route.candidates), *registry.defaults.values())))


def ways(registry: Registry, route: schema.RouteSettings, first: str) -> Iterator[tuple[Api, str, Calls]]:
    """The chains that begin with ``first``: one per API and clearance (empty: the request has no labels)."""
    cleared = {name: models for name, models in clearances(cleared_for(registry)).items() if first in models}
    for api in registry.models[first].speaks:
        yield api, "", calls_of(registry, route, first, api)
        for clearance, allowed in cleared.items():
            yield api, clearance, calls_of(registry, route, first, api, allowed)


def chain_name(calls: Calls) -> str:
    """The cluster of one chain. Equal chains of several routes share it."""
    models = "|".join(call.model for call in calls)
    cascade = calls[0].cascade
    return f"{CASCADE}{cascade}-{models}" if cascade else f"{CHAIN}{models}"


def tries(calls: Calls, route: schema.RouteSettings, deadline_s: float | None = None) -> RetryPolicy:
    """Each retry goes to the next priority. There are as many as calls, because one more would start again.

    Each hop keeps the rest of the deadline by itself. The timeout here, which is the whole deadline, ends a
    hop whose gate hangs.
    """
    timeout_s = route.timeout_s or deadline_s
    statuses = {429, *(route.retry.statuses if route.retry else ())}
    return RetryPolicy(
        retry_on=_FAILED,
        retriable_status_codes=sorted(statuses),
        retriable_headers=[exactly(ESCALATE_HEADER, "1")],
        num_retries=len(calls) - 1,
        per_try_timeout=timedelta(seconds=timeout_s) if timeout_s else None,
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
        # With HTTP/1, every failed attempt would close a connection.
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
    # A hop may have several priorities, an endpoint may not. The id also tells the hop its place.
    internal = EnvoyInternalAddress(server_listener_name=hop, endpoint_id=place(priority + 1))
    return LbEndpoint(endpoint=Endpoint(address=Address(envoy_internal_address=internal)))
