"""Which requests are decided, where they go when they are not, and what passes untouched."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import HeaderValueOption
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)

from extproc.apis.api_paths import PATHS
from extproc.envoyconf import cors_policy, direct_responses, feedback_route, passthrough_routes
from extproc.envoyconf.chains import Calls, calls_of, chain_name, tries
from extproc.envoyconf.hops import SERVED_BY
from extproc.envoyconf.http_filters import EDITS, fail_open, refused
from extproc.envoyconf.route_actions import API_ROOT, LLM_METHOD, action, exactly, header, literal, one_of
from extproc.envoyconf.site import Names
from extproc.registry import schema
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, cluster_name
from extproc.registry.section import many
from extproc.vocabulary import Api
from extproc.wire.decide_messages import (
    CHECKED_HEADER,
    CLUSTER_HEADER,
    ROUTE_HEADER,
    SPAN_HEADER,
    VERSION_KEY,
)
from extproc.wire.envelope import NAMESPACE
from extproc.wire.gate_messages import BEGAN_HEADER, ESCALATE_HEADER

NAME = "llm"
_NO_HEADER = "x-router-none"  # nobody sets it, and what a client sends of the kind is removed
_BEGAN = "%START_TIME(%s%3f)%"

# Fields of the envelope that clients see as x-router-<field>.
_ANSWERED = ("route", "model", "reason", "margin", "probability", "version")


def route_configuration(registry: Registry, version: str, names: Names) -> RouteConfiguration:
    """The routes, in the order in which they are tried.

    ``version`` is the registry's; ``names`` are those under which Envoy has its clusters.

    A request to an LLM first matches its API's ``fail-open``, since clients cannot send the headers
    of a decision. When the sidecar has set them, Envoy looks again and finds the route that was
    decided; else it goes on as it was. So does a request for a cluster that this Envoy does not
    hold: it matches no decided route. With ``without_sidecar: refuse`` what comes first is ``refuse``, which
    answers 503, and ``fail-open`` is for what the sidecar lets through to it.
    """
    return RouteConfiguration(
        name=NAME,
        virtual_hosts=[
            VirtualHost(
                name=NAME,
                domains=["*"],
                routes=list(cors_policy.applied(registry, _routes(registry, version, names))),
                typed_per_filter_config=cors_policy.policy(registry),
                response_headers_to_add=_answers() if registry.envoy.response_headers else [],
            )
        ],
        max_direct_response_body_size_bytes=direct_responses.body_limit(registry),
    )


def _routes(registry: Registry, version: str, names: Names) -> Iterator[Route]:
    yield from feedback_route.routes(registry)
    yield from direct_responses.routes(registry)
    yield from _decided_with_policy(registry, version, names)
    yield from _decided(registry, names)
    yield from _undecided(registry, version, names)
    yield from passthrough_routes.misspelt()
    yield from passthrough_routes.passed(registry, names)


def _decided(registry: Registry, names: Names) -> Iterator[Route]:
    """One route per model: providers differ in path and host."""
    for name, model in registry.models.items():
        to = action(registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(name)])
        match = _llm(exactly(CLUSTER_HEADER, cluster_name(name)), _has_supported_path(model))
        yield _to_model(cluster_name(name), match, to)


def _decided_with_policy(registry: Registry, version: str, names: Names) -> Iterator[Route]:
    """One route per route of the registry that asks for something, and model that may answer it."""
    for name, route in registry.routes.items():
        if not route.has_envoy_policy:
            continue
        for target in dict.fromkeys((*many(route.candidates), *registry.defaults.values())):
            conditions = (
                exactly(ROUTE_HEADER, name),
                exactly(CLUSTER_HEADER, cluster_name(target)),
                _has_supported_path(registry.models[target]),
            )
            if route.asks_in_turn:
                yield from _chained(registry, name, route, target, conditions, version, names)
                continue
            model = registry.models[target]
            to = action(
                registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(target)], policy=route
            )
            yield _repeatable(registry, _to_model(f"{name}-{target}", _llm(*conditions), to, route))


def _chained(
    registry: Registry,
    name: str,
    route: schema.RouteSettings,
    first: str,
    conditions: Iterable[HeaderMatcher],
    version: str,
    names: Names,
) -> Iterator[Route]:
    """One route per API: a model that does not speak it is no fallback for it."""
    cascade = registry.cascades.get(route.cascade)
    for api in registry.models[first].speaks:
        calls = calls_of(registry, route, first, api)
        match = RouteMatch(path=PATHS[api], headers=[exactly(":method", LLM_METHOD), *conditions])
        to = RouteAction(
            cluster=names[chain_name(calls)],
            timeout=timedelta(0),
            idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
            retry_policy=tries(calls, route, cascade.deadline_s if cascade else None),
        )
        chained = _to_model(f"{name}-{first}-{api}", match, to, route)
        chained.request_headers_to_remove = []  # the hops need them
        chained.request_headers_to_add += _headers_for_hops(version, calls)
        chained.response_headers_to_remove.append(ESCALATE_HEADER)  # the last one's
        if not registry.envoy.response_headers:
            chained.response_headers_to_remove.append(SERVED_BY)
        yield _repeatable(registry, chained)


def _headers_for_hops(version: str, calls: Calls) -> Iterator[HeaderValueOption]:
    if version:
        yield header(VERSION_KEY, version)
    if calls[0].cascade:
        yield header(BEGAN_HEADER, _BEGAN)


def _repeatable(registry: Registry, route: Route) -> Route:
    """A retry sends the whole request again, with the decision's edits, so Envoy keeps that much.

    Envoy takes the limit of the route that matched first: the fail-open routes have the same one.
    """
    route.request_body_buffer_limit = registry.envoy.max_body_bytes + EDITS
    return route


def _undecided(registry: Registry, version: str, names: Names) -> Iterator[Route]:
    """An API's default by Envoy alone; an API that no model speaks is a 404 in its own shape."""
    for api, path in PATHS.items():
        match = RouteMatch(path=path, headers=[exactly(":method", LLM_METHOD)])
        name = registry.defaults.get(api)
        if name is None:
            yield direct_responses.unsupported_api(api, match)
            continue
        model = registry.models[name]
        to = action(registry, model, matched=path, cluster=names[cluster_name(name)])
        route = _to_model(f"fail-open-{api}", match, to)
        # This is the route while the body is awaited, decided or not.
        limit = registry.envoy.max_body_bytes
        route.request_body_buffer_limit = limit + EDITS  # as in ``_repeatable``
        route.typed_per_filter_config = fail_open(api, model.name or name, version, limit)
        if api not in registry.refusing:
            yield route
            continue
        yield from _unless_checked(api, path, route)


def _unless_checked(api: Api, path: str, fail_open: Route) -> Iterator[Route]:
    """``fail_open`` for requests that the sidecar lets through to it; every other one is refused.

    So it does not matter how it came that nobody decided. The route that refuses names its cluster by a
    header that no request has, which Envoy answers with 503. (A direct response would not do: Envoy applies
    no ``request_body_buffer_limit`` to its route.)
    """
    post = exactly(":method", LLM_METHOD)
    fail_open.match = RouteMatch(path=path, headers=[post, exactly(CHECKED_HEADER, "1")])
    yield fail_open
    yield Route(
        name=f"refuse-{api}",
        match=RouteMatch(path=path, headers=[post]),
        route=RouteAction(cluster_header=_NO_HEADER),
        request_body_buffer_limit=fail_open.request_body_buffer_limit,
        typed_per_filter_config={**fail_open.typed_per_filter_config, **refused()},
    )


def _to_model(
    name: str, match: RouteMatch, to: RouteAction, policy: schema.RouteSettings | None = None
) -> Route:
    added = policy.request_headers if policy else {}
    answered = policy.response_headers if policy else {}
    return Route(
        name=name,
        match=match,
        route=to,
        request_headers_to_remove=[CLUSTER_HEADER, ROUTE_HEADER, SPAN_HEADER, CHECKED_HEADER],
        request_headers_to_add=[
            # Usage is read from the answer, which must not be compressed for that.
            header("accept-encoding", "identity"),
            *(header(key, literal(value)) for key, value in added.items()),
        ],
        response_headers_to_add=[header(key, literal(value)) for key, value in answered.items()],
    )


def _llm(*headers: HeaderMatcher) -> RouteMatch:
    return RouteMatch(prefix=f"{API_ROOT}/", headers=[exactly(":method", LLM_METHOD), *headers])


def _has_supported_path(model: Model) -> HeaderMatcher:
    """Whatever was decided: no request goes to a model that does not speak its API."""
    return one_of(PATHS[api] for api in model.speaks)


def _answers() -> list[HeaderValueOption]:
    """Headers from the decision; one whose key is absent or empty is not sent."""
    return [header(_answer_header(key), f"%DYNAMIC_METADATA({NAMESPACE}:{key})%") for key in _ANSWERED]


def _answer_header(key: str) -> str:
    return f"x-router-{key}"
