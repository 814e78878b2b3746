"""Which requests are decided, where they go when they are not, and what passes untouched."""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.core.v3 import HeaderValueOption
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from extproc.envoyconf import catalogue
from extproc.envoyconf.actions import (
    API_ROOT,
    LLM_METHOD,
    LLM_PATHS,
    action,
    header,
    literal,
    removed_headers,
)
from extproc.envoyconf.clusters import PASSTHROUGH_CLUSTER
from extproc.envoyconf.filters import fail_open, reads_usage
from extproc.registry import schema
from extproc.registry.schema import Registry, cluster_name
from extproc.registry.section import many
from extproc.registry.upstreams import Model, Passthrough
from extproc.vocabulary import Api
from extproc.wire.envelope import NAMESPACE
from extproc.wire.messages import CLUSTER_HEADER, ROUTE_HEADER

NAME = "llm"

# Fields of the envelope that clients see as x-router-<field>.
_ANSWERED = ("route", "model", "reason", "margin", "probability", "version")


def route_configuration(registry: Registry, version: str) -> RouteConfiguration:
    """The routes, in the order in which they are tried.

    A request to an LLM first matches its API's ``fail-open``, since clients cannot send the headers
    of a decision. When the sidecar has set them, Envoy looks again and finds the route that was
    decided; else it goes on as it was. So does a request for a cluster that this Envoy does not
    hold: it matches no decided route.
    """
    return RouteConfiguration(
        name=NAME,
        virtual_hosts=[
            VirtualHost(
                name=NAME,
                domains=["*"],
                routes=[
                    *catalogue.routes(registry),
                    *_decided_with_policy(registry),
                    *_decided(registry),
                    *_undecided(registry, version),
                    *_passthrough(registry),
                ],
                # Removed first, so that a provider cannot pass its own off as the router's.
                response_headers_to_remove=[_answer_header(key) for key in _ANSWERED],
                response_headers_to_add=_answers() if registry.envoy.response_headers else [],
            )
        ],
        max_direct_response_body_size_bytes=catalogue.body_limit(registry),
    )


def _decided(registry: Registry) -> Iterator[Route]:
    """One route per model: providers differ in path, host and what they may see of a client."""
    for name, model in registry.models.items():
        match = _llm(_is(CLUSTER_HEADER, cluster_name(name)))
        yield _to_model(cluster_name(name), match, model, _to_decided_cluster(registry, model))


def _decided_with_policy(registry: Registry) -> Iterator[Route]:
    for name, route in registry.routes.items():
        if not route.has_envoy_policy:
            continue
        for target in dict.fromkeys((*many(route.candidates), *registry.defaults.values())):
            model = registry.models[target]
            match = _llm(_is(ROUTE_HEADER, name), _is(CLUSTER_HEADER, cluster_name(target)))
            yield _to_model(
                f"{name}-{target}", match, model, _to_decided_cluster(registry, model, route), route
            )


def _to_decided_cluster(registry: Registry, model: Model, policy: schema.Route | None = None) -> RouteAction:
    return action(
        registry, model, matched=f"{API_ROOT}/", cluster_header=CLUSTER_HEADER, policy=policy
    )


def _undecided(registry: Registry, version: str) -> Iterator[Route]:
    """An API's default by Envoy alone; an API that no model speaks is a 404 in its own shape."""
    for api, path in LLM_PATHS.items():
        match = RouteMatch(path=path, headers=[_is(":method", LLM_METHOD)])
        name = registry.defaults.get(api)
        yield catalogue.unspoken(api, match) if name is None else _fail_open(registry, version, api, name)


def _fail_open(registry: Registry, version: str, api: Api, name: str) -> Route:
    path, model = LLM_PATHS[api], registry.models[name]
    match = RouteMatch(path=path, headers=[_is(":method", LLM_METHOD)])
    route = _to_model(
        f"fail-open-{api}", match, model, action(registry, model, matched=path, cluster=cluster_name(name))
    )
    # This is the route while the body is awaited, decided or not.
    route.request_body_buffer_limit = registry.envoy.max_body_bytes
    route.typed_per_filter_config |= fail_open(model.name or name, version)
    return route


def _to_model(
    name: str, match: RouteMatch, model: Model, to: RouteAction, policy: schema.Route | None = None
) -> Route:
    added = policy.request_headers if policy else {}
    answered = policy.response_headers if policy else {}
    return Route(
        name=name,
        match=match,
        route=to,
        request_headers_to_remove=[CLUSTER_HEADER, ROUTE_HEADER, *removed_headers(model)],
        request_headers_to_add=[
            # Usage is read from the answer, which must not be compressed for that.
            header("accept-encoding", "identity"),
            *(header(key, literal(value)) for key, value in added.items()),
        ],
        response_headers_to_add=[header(key, literal(value)) for key, value in answered.items()],
        typed_per_filter_config=reads_usage(),
    )


def _passthrough(registry: Registry) -> Iterator[Route]:
    """All else, untouched: no filter is on, and no limit of ours holds."""
    upstream = registry.passthrough
    if upstream is None:
        yield catalogue.nothing_here()
        return
    if upstream.path != API_ROOT:
        yield _passing(registry, upstream, f"{API_ROOT}/")
    yield _passing(registry, upstream, "/")


def _passing(registry: Registry, upstream: Passthrough, prefix: str) -> Route:
    return Route(
        name="passthrough",
        match=RouteMatch(prefix=prefix),
        route=action(registry, upstream, matched=prefix, cluster=PASSTHROUGH_CLUSTER),
        request_headers_to_remove=[CLUSTER_HEADER, ROUTE_HEADER, *removed_headers(upstream)],
    )


def _llm(*headers: HeaderMatcher) -> RouteMatch:
    return RouteMatch(prefix=f"{API_ROOT}/", headers=[_is(":method", LLM_METHOD), *headers])


def _is(name: str, value: str) -> HeaderMatcher:
    return HeaderMatcher(name=name, string_match=StringMatcher(exact=value))


def _answers() -> list[HeaderValueOption]:
    """Headers from the decision; one whose key is absent or empty is not sent."""
    return [header(_answer_header(key), f"%DYNAMIC_METADATA({NAMESPACE}:{key})%") for key in _ANSWERED]


def _answer_header(key: str) -> str:
    return f"x-router-{key}"
