"""What is no LLM call: the paths that pass unread, and those that never do.

A provider may accept more spellings of an API's path than Envoy does. A request by one of them would
pass unread, with the operator's key, so it is a 404 here.
"""

import re
from collections.abc import Iterator

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, Route, RouteMatch
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from extproc.apis.api_paths import DOT_SEGMENT, PATHS, misspellings
from extproc.envoyconf import direct_responses
from extproc.envoyconf.clusters import PASSTHROUGH_CLUSTER
from extproc.envoyconf.route_actions import API_ROOT, LLM_METHOD, action, exactly
from extproc.envoyconf.site import Names
from extproc.registry.passthrough_list import SEGMENT, Passing, passing
from extproc.registry.schema import Registry

_ROOTS = (f"{API_ROOT}/", "/")  # a provider's own path stands in place of the first


def misspelt() -> Iterator[Route]:
    """404 for other spellings of the APIs' paths. They come after the routes of the APIs themselves."""
    for api, path in PATHS.items():
        another = _path(re.escape(path), invert=True)
        for regex in misspellings(api):
            match = RouteMatch(safe_regex=RegexMatcher(regex=regex), headers=[another])
            yield direct_responses.misspelt(api, match)
        # HTTP/2 takes any word for a method, and some servers any case of one.
        yield direct_responses.misspelt(api, RouteMatch(path=path, headers=[_in_any_case(LLM_METHOD)]))
    yield from direct_responses.nothing_here("dot-segment", safe_regex=RegexMatcher(regex=DOT_SEGMENT))


def passed(registry: Registry, names: Names) -> Iterator[Route]:
    """What goes to ``passthrough`` as it is; all else is a 404."""
    if registry.passthrough is not None:
        for prefix, match in _matches(passing(registry)):
            to = action(registry, registry.passthrough, matched=prefix, cluster=names[PASSTHROUGH_CLUSTER])
            # No filter is on, and no limit of ours holds.
            yield Route(name="passthrough", match=match, route=to)
    yield from direct_responses.nothing_here("nothing-here", prefix="/")


def _matches(entries: tuple[Passing, ...] | None) -> Iterator[tuple[str, RouteMatch]]:
    """Each with the path or prefix that it matches."""
    if entries is None:
        for prefix in _ROOTS:
            yield prefix, RouteMatch(prefix=prefix)
        return
    for entry in entries:
        methods = [exactly(":method", entry.method)] if entry.method else []
        if not entry.below:
            yield entry.path, RouteMatch(path=entry.path, headers=methods)
            continue
        # Below an entry only what every server reads in one way.
        below = _path(f"{re.escape(entry.path)}(/{SEGMENT})+")
        for prefix in [f"{entry.path}/"] if entry.path else _ROOTS:
            yield prefix, RouteMatch(prefix=prefix, headers=[*methods, below])


def _path(regex: str, *, invert: bool = False) -> HeaderMatcher:
    """The request's path, without its query, matches ``regex`` as a whole."""
    whole = StringMatcher(safe_regex=RegexMatcher(regex=rf"{regex}(\?\C*)?"))
    return HeaderMatcher(name=":path", string_match=whole, invert_match=invert)


def _in_any_case(method: str) -> HeaderMatcher:
    return HeaderMatcher(name=":method", string_match=StringMatcher(exact=method, ignore_case=True))
