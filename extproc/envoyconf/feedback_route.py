"""The path under which clients say what they think of answers: ext_proc answers, and nobody else.

Its route leads nowhere. A sidecar that is down, slow or broken is let pass by the filter, as ever,
and then Envoy itself answers that feedback cannot be taken now. (Such a route cannot limit bodies
either: the sidecar does, and Envoy where a connection's buffer ends, at 1 MiB.) What lies beside the
path is ours too, so that no mistyped path shows a token to whoever ``passthrough`` is.
"""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import DirectResponseAction, Route, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExtProcOverrides, ExtProcPerRoute
from envoy_data_plane.google.protobuf import Any

from extproc import apis
from extproc.envoyconf.http_filters import FEEDBACK
from extproc.envoyconf.route_actions import API_ROOT, exactly, header
from extproc.registry.schema import Registry
from extproc.vocabulary import Api

PATH = f"{API_ROOT}/router/feedback"
_OURS = f"{API_ROOT}/router"
_METHOD = "POST"


def routes(registry: Registry) -> Iterator[Route]:
    """What is answered under ``/v1/router``; they come before all others."""
    if registry.feedback is not None:
        yield _taken()
        other = _direct("feedback-method", RouteMatch(path=PATH), 405, f"Feedback is sent by {_METHOD}.")
        other.response_headers_to_add.append(header("allow", _METHOD))
        yield other
    nothing = "There is nothing at this path." if registry.feedback else "This router takes no feedback."
    ours = RouteMatch(path_separated_prefix=_OURS, case_sensitive=False)
    yield _direct("router-nothing", ours, 404, nothing)


def _taken() -> Route:
    route = _direct(
        "feedback",
        RouteMatch(path=PATH, headers=[exactly(":method", _METHOD)]),
        503,
        "Feedback cannot be taken now; it may be sent again.",
    )
    route.typed_per_filter_config = {FEEDBACK: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides()))}
    return route


def _direct(name: str, match: RouteMatch, status: int, message: str) -> Route:
    body = apis.error_body(Api.OPENAI_CHAT, status=status, message=message)
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body.decode())),
        response_headers_to_add=[header("content-type", "application/json")],
    )
