"""Cross-origin requests: which pages in browsers may call the API.

Envoy's filter answers preflight requests and adds its headers to other answers, including errors. It is
disabled unless the registry lists origins. It ignores routes with a direct response, so these routes add the
headers themselves for allowed origins.
"""

import copy
import re
from collections.abc import Iterable, Iterator

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, Route, RouteAction, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors, CorsPolicy
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.route_actions import exactly, header
from extproc.registry.schema import Registry

FILTER = "envoy.filters.http.cors"
_ORIGIN, _REQUESTED = "origin", "access-control-request-method"
_METHODS = "GET, POST, PUT, PATCH, DELETE"
# `*` is any header but this one, which must be listed.
_HEADERS = "authorization, *"
_ANSWERS = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-expose-headers",
    "access-control-max-age",
)


def cross_origin() -> HttpFilter:
    """The filter, off until the virtual host has a policy."""
    return HttpFilter(name=FILTER, typed_config=Any.pack(Cors()), disabled=True)


def policy(registry: Registry) -> dict[str, Any]:
    """The virtual host's settings of the filter."""
    if (cors := registry.envoy.cors) is None:
        return {}
    asked = CorsPolicy(
        allow_origin_string_match=[_origin(origin) for origin in cors.origins],
        allow_methods=_METHODS,
        allow_headers=_HEADERS,
        expose_headers="*",
        max_age=str(cors.max_age_s),
        # The filter also answers preflight requests of other origins, and allows them nothing.
        forward_not_matching_preflights=False,
    )
    return {FILTER: Any.pack(asked)}


def applied(registry: Registry, routes: Iterable[Route]) -> Iterator[Route]:
    """The routes of a virtual host with what the registry's origins need."""
    if (cors := registry.envoy.cors) is None:
        yield from routes
        return
    yield _preflight()
    for route in routes:
        if route.direct_response is not None:
            yield _readable(route, cors.origins)
        else:
            # Some providers reject requests with an origin, others set these headers themselves.
            route.request_headers_to_remove.append(_ORIGIN)
            route.response_headers_to_remove += _ANSWERS
        yield route


def _preflight() -> Route:
    """Matches preflight requests of every path and origin. The filter answers all of them."""
    asked = [HeaderMatcher(name=name, present_match=True) for name in (_ORIGIN, _REQUESTED)]
    return Route(
        name="preflight",
        match=RouteMatch(prefix="/", headers=[exactly(":method", "OPTIONS"), *asked]),
        # No client can send this header, and without it there is no cluster.
        route=RouteAction(cluster_header="x-router-none"),
    )


def _readable(route: Route, origins: Iterable[str]) -> Route:
    """The route with a direct response, for requests of allowed origins."""
    readable = copy.deepcopy(route)
    assert readable.match is not None  # every route has one
    allowed = StringMatcher(safe_regex=RegexMatcher(regex="|".join(map(_pattern, origins))))
    readable.match.headers.append(HeaderMatcher(name=_ORIGIN, string_match=allowed))
    readable.response_headers_to_add += [
        header("access-control-allow-origin", "%REQ(ORIGIN)%"),
        header("access-control-expose-headers", "*"),
    ]
    return readable


def _pattern(origin: str) -> str:
    return ".*" if origin == "*" else re.escape(origin)


def _origin(origin: str) -> StringMatcher:
    return StringMatcher(safe_regex=RegexMatcher(regex=_pattern(origin)))
