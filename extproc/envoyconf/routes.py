"""The routes of the client listener: decided LLM calls, undecided ones, and everything else.

A provider may accept more spellings of an API's path than Envoy does. Such a request would pass undecided,
with the operator's key. So every other spelling that a provider may accept is a 404.
"""

import re
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
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from extproc.apis.api_paths import DOT_SEGMENT, PATHS, misspellings
from extproc.envoyconf import cors_policy, direct_responses
from extproc.envoyconf.chains import Calls, chain_name, firsts, tries, ways
from extproc.envoyconf.clusters import PASSTHROUGH_CLUSTER
from extproc.envoyconf.hops import SERVED_BY
from extproc.envoyconf.http_filters import EDITS, fail_open, refused
from extproc.envoyconf.route_actions import (
    API_ROOT,
    LLM_METHOD,
    absent,
    action,
    exactly,
    header,
    literal,
    one_of,
)
from extproc.envoyconf.typed_config import Names
from extproc.registry import schema
from extproc.registry.model_settings import Model
from extproc.registry.passthrough_list import SEGMENT, Passing, passing
from extproc.registry.schema import Registry, cluster_name
from extproc.vocabulary import Api
from extproc.wire.decide_messages import (
    CHECKED_HEADER,
    CLEARANCE_HEADER,
    CLUSTER_HEADER,
    ROUTE_HEADER,
    SPAN_HEADER,
    VERSION_KEY,
)
from extproc.wire.envelope import NAMESPACE
from extproc.wire.gate_messages import BEGAN_HEADER, ESCALATE_HEADER

NAME = "llm"
_NO_HEADER = "x-router-none"  # never set: Envoy removes every x-router-* header of a client
_BEGAN = "%START_TIME(%s%3f)%"

# Fields of the envelope that clients see as x-router-<field>.
_ANSWERED = ("route", "model", "reason", "margin", "probability", "version")
# A provider's own path replaces the first.
_ROOTS = (f"{API_ROOT}/", "/")


def route_configuration(registry: Registry, version: str, names: Names) -> RouteConfiguration:
    """The routes, in the order in which Envoy tries them.

    ``version`` is the registry's; ``names`` maps our names of clusters to Envoy's.

    An LLM request first matches its API's ``fail-open`` route, because clients cannot send the headers of a
    decision. When the sidecar sets them, Envoy matches again and finds the decided route. Without them, or
    with a cluster that this Envoy does not have, the request stays on ``fail-open``. With ``without_sidecar:
    refuse``, the request first matches ``refuse``, which answers 503; ``fail-open`` then needs a header that
    the sidecar sets.
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
    yield from direct_responses.feedback(registry)
    yield from direct_responses.model_list(registry)
    yield from _decided_with_policy(registry, version, names)
    yield from _decided(registry, names)
    yield from _undecided(registry, version, names)
    yield from _misspelt()
    yield from _passed(registry, names)


def _decided(registry: Registry, names: Names) -> Iterator[Route]:
    """One route per model, because providers differ in path and host."""
    for name, model in registry.models.items():
        to = action(registry, model, matched=f"{API_ROOT}/", cluster=names[cluster_name(name)])
        match = _llm(exactly(CLUSTER_HEADER, cluster_name(name)), _has_supported_path(model))
        yield _to_model(cluster_name(name), match, to)


def _decided_with_policy(registry: Registry, version: str, names: Names) -> Iterator[Route]:
    """One route per registry route that has settings for Envoy, and per model that may answer it."""
    for name, route in registry.routes.items():
        if not route.has_envoy_policy:
            continue
        for target in firsts(registry, route):
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
            yield _with_body_limit(registry, _to_model(f"{name}-{target}", _llm(*conditions), to, route))


def _chained(
    registry: Registry,
    name: str,
    route: schema.RouteSettings,
    first: str,
    conditions: Iterable[HeaderMatcher],
    version: str,
    names: Names,
) -> Iterator[Route]:
    """One route per API and clearance: only models that support the API and are cleared are asked.

    A request with labels never matches the route for those without.
    """
    cascade = registry.cascades.get(route.cascade)
    for api, clearance, calls in ways(registry, route, first):
        cleared = list(_of_clearance(registry, clearance))
        match = RouteMatch(path=PATHS[api], headers=[exactly(":method", LLM_METHOD), *conditions, *cleared])
        to = RouteAction(
            cluster=names[chain_name(calls)],
            timeout=timedelta(0),
            idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
            retry_policy=tries(calls, route, cascade.deadline_s if cascade else None),
        )
        chained = _to_model("-".join(filter(None, (name, first, api, clearance))), match, to, route)
        chained.request_headers_to_remove = []  # the hops need them
        chained.request_headers_to_add += _headers_for_hops(version, calls)
        chained.response_headers_to_remove.append(ESCALATE_HEADER)  # the last one's
        if not registry.envoy.response_headers:
            chained.response_headers_to_remove.append(SERVED_BY)
        yield _with_body_limit(registry, chained)


def _of_clearance(registry: Registry, clearance: str) -> Iterator[HeaderMatcher]:
    if clearance:
        yield exactly(CLEARANCE_HEADER, clearance)
    elif registry.labels_requests:
        yield absent(CLEARANCE_HEADER)


def _headers_for_hops(version: str, calls: Calls) -> Iterator[HeaderValueOption]:
    if version:
        yield header(VERSION_KEY, version)
    if calls[0].cascade:
        yield header(BEGAN_HEADER, _BEGAN)


def _with_body_limit(registry: Registry, route: Route) -> Route:
    """The route, with a buffer for the largest body and the decision's edits: a retry sends it again.

    Envoy uses the limit of the route that matched first, so the fail-open routes have the same limit.
    """
    route.request_body_buffer_limit = registry.envoy.max_body_bytes + EDITS
    return route


def _undecided(registry: Registry, version: str, names: Names) -> Iterator[Route]:
    """Per API, the route to its default model; 404 for an API that no model supports."""
    for api, path in PATHS.items():
        match = RouteMatch(path=path, headers=[exactly(":method", LLM_METHOD)])
        name = registry.defaults.get(api)
        if name is None:
            yield direct_responses.unsupported_api(api, match)
            continue
        model = registry.models[name]
        to = action(registry, model, matched=path, cluster=names[cluster_name(name)])
        route = _to_model(f"fail-open-{api}", match, to)
        # Envoy is on this route while it reads the body, also of a request that will be decided.
        limit = registry.envoy.max_body_bytes
        route.request_body_buffer_limit = limit + EDITS  # as in ``_with_body_limit``
        route.typed_per_filter_config = fail_open(api, model.name or name, version, limit)
        if api not in registry.refusing:
            yield route
            continue
        yield from _unless_checked(api, path, route)


def _unless_checked(api: Api, path: str, fail_open: Route) -> Iterator[Route]:
    """``fail_open`` for requests that the sidecar marked as checked, and a route that refuses all others.

    So the reason why a request is undecided does not matter. The route that refuses reads its cluster from a
    header that no request has, and Envoy answers 503. A direct response does not work here: Envoy applies no
    ``request_body_buffer_limit`` to its route.
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
        request_headers_to_remove=[
            CLUSTER_HEADER,
            ROUTE_HEADER,
            SPAN_HEADER,
            CLEARANCE_HEADER,
            CHECKED_HEADER,
        ],
        request_headers_to_add=[
            # Usage is read from the answer, so the answer must not be compressed.
            header("accept-encoding", "identity"),
            *(header(key, literal(value)) for key, value in added.items()),
        ],
        response_headers_to_add=[header(key, literal(value)) for key, value in answered.items()],
    )


def _llm(*headers: HeaderMatcher) -> RouteMatch:
    return RouteMatch(prefix=f"{API_ROOT}/", headers=[exactly(":method", LLM_METHOD), *headers])


def _has_supported_path(model: Model) -> HeaderMatcher:
    """Never sends a request to a model that does not support its API, whatever the decision says."""
    return one_of(PATHS[api] for api in model.speaks)


def _answers() -> list[HeaderValueOption]:
    """Headers from the decision. Envoy omits a header whose key is absent or empty."""
    return [header(_answer_header(key), f"%DYNAMIC_METADATA({NAMESPACE}:{key})%") for key in _ANSWERED]


def _answer_header(key: str) -> str:
    return f"x-router-{key}"


def _misspelt() -> Iterator[Route]:
    """404 for other spellings of the APIs' paths. They come after the routes of the APIs themselves."""
    for api, path in PATHS.items():
        another = _path(re.escape(path), invert=True)
        for regex in misspellings(api):
            match = RouteMatch(safe_regex=RegexMatcher(regex=regex), headers=[another])
            yield direct_responses.misspelt(api, match)
        # HTTP/2 accepts any word as a method, and some servers accept any case of it.
        yield direct_responses.misspelt(api, RouteMatch(path=path, headers=[_in_any_case(LLM_METHOD)]))
    yield from direct_responses.nothing_here("dot-segment", safe_regex=RegexMatcher(regex=DOT_SEGMENT))


def _passed(registry: Registry, names: Names) -> Iterator[Route]:
    """Routes to ``passthrough``, which change nothing; 404 for all other paths."""
    if registry.passthrough is not None:
        for prefix, match in _matches(passing(registry)):
            to = action(registry, registry.passthrough, matched=prefix, cluster=names[PASSTHROUGH_CLUSTER])
            # No filter and no limit of ours applies.
            yield Route(name="passthrough", match=match, route=to)
    yield from direct_responses.nothing_here("nothing-here", prefix="/")


def _matches(entries: tuple[Passing, ...] | None) -> Iterator[tuple[str, RouteMatch]]:
    """Each path or prefix, with its match."""
    if entries is None:
        for prefix in _ROOTS:
            yield prefix, RouteMatch(prefix=prefix)
        return
    for entry in entries:
        methods = [exactly(":method", entry.method)] if entry.method else []
        if not entry.below:
            yield entry.path, RouteMatch(path=entry.path, headers=methods)
            continue
        # Below an entry, only paths that every server reads the same way.
        below = _path(f"{re.escape(entry.path)}(/{SEGMENT})+")
        for prefix in [f"{entry.path}/"] if entry.path else _ROOTS:
            yield prefix, RouteMatch(prefix=prefix, headers=[*methods, below])


def _path(regex: str, *, invert: bool = False) -> HeaderMatcher:
    """The request's path, without its query, matches ``regex`` as a whole."""
    whole = StringMatcher(safe_regex=RegexMatcher(regex=rf"{regex}(\?\C*)?"))
    return HeaderMatcher(name=":path", string_match=whole, invert_match=invert)


def _in_any_case(method: str) -> HeaderMatcher:
    return HeaderMatcher(name=":method", string_match=StringMatcher(exact=method, ignore_case=True))
