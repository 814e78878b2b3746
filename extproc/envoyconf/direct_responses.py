"""What Envoy answers without a provider: the list of models, feedback, and 404 for unknown paths.

The sidecar answers feedback through ext_proc, and its route has no cluster. If the sidecar is down, slow or
broken, the filter passes the request on, and Envoy answers 503. Such a route cannot limit the size of bodies:
the sidecar does, and Envoy where a connection's buffer ends, at 1 MiB. Every other path below ``/v1/router``
is a 404, so that a mistyped path never sends a feedback token to the ``passthrough`` provider.
"""

import json
import typing
from collections.abc import Iterator, Mapping

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import DirectResponseAction, HeaderMatcher, Route, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExtProcOverrides, ExtProcPerRoute
from envoy_data_plane.google.protobuf import Any

from extproc import apis
from extproc.apis.api_paths import PATHS
from extproc.envoyconf.http_filters import FEEDBACK
from extproc.envoyconf.route_actions import API_ROOT, exactly, header
from extproc.registry.schema import Registry
from extproc.routing.stages import AUTO
from extproc.vocabulary import Api

_MODELS = f"{API_ROOT}/models"
# All of Anthropic's clients send this header. It identifies them where the path does not.
_ANTHROPICS = HeaderMatcher(name="anthropic-version", present_match=True)
_LEAST_BODY_LIMIT = 4096  # Envoy's default
# Clients require a time of creation, and the registry has none.
_CREATED, _CREATED_AT = 0, "1970-01-01T00:00:00Z"
_OURS = f"{API_ROOT}/router"
FEEDBACK_PATH = f"{_OURS}/feedback"
_FEEDBACK_METHOD = "POST"
_NOT_FOUND = "There is nothing at this path."

_Json = Mapping[str, typing.Any]


def model_list(registry: Registry) -> Iterator[Route]:
    """``GET /v1/models`` and ``/v1/models/NAME``, in Anthropic's shape for its clients, else in OpenAI's."""
    for listed, headers in ((_anthropic(registry), [_ANTHROPICS]), (_openai(registry), [])):
        get = exactly(":method", "GET")
        whole, each = listed
        yield _direct("models", RouteMatch(path=_MODELS, headers=[get, *headers]), 200, _encoded(whole))
        for name, entry in each.items():
            match = RouteMatch(path=f"{_MODELS}/{name}", headers=[get, *headers])
            yield _direct(f"models-{name}", match, 200, _encoded(entry))
        api = Api.ANTHROPIC_MESSAGES if headers else Api.OPENAI_CHAT
        absent = apis.error_body(api, status=404, message="There is no such model.", code="model_not_found")
        other = RouteMatch(prefix=f"{_MODELS}/", headers=[get, *headers])
        yield _direct("models-unknown", other, 404, absent.decode())


def feedback(registry: Registry) -> Iterator[Route]:
    """The routes below ``/v1/router``. They must come before all others."""
    if registry.feedback is not None:
        yield _accepted_feedback()
        other = _error(
            "feedback-method",
            RouteMatch(path=FEEDBACK_PATH),
            405,
            f"Feedback is sent by {_FEEDBACK_METHOD}.",
        )
        other.response_headers_to_add.append(header("allow", _FEEDBACK_METHOD))
        yield other
    message = _NOT_FOUND if registry.feedback else "This router takes no feedback."
    ours = RouteMatch(path_separated_prefix=_OURS, case_sensitive=False)
    yield _error("router-nothing", ours, 404, message)


def _accepted_feedback() -> Route:
    """The sidecar answers. The direct response is for when it does not."""
    route = _error(
        "feedback",
        RouteMatch(path=FEEDBACK_PATH, headers=[exactly(":method", _FEEDBACK_METHOD)]),
        503,
        "Feedback cannot be taken now; it may be sent again.",
    )
    route.typed_per_filter_config = {FEEDBACK: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides()))}
    return route


def unsupported_api(api: Api, match: RouteMatch) -> Route:
    """404 for an API that no model of the registry supports."""
    return _error(f"unsupported_api-{api}", match, 404, f"No model here speaks {api}.", api)


def nothing_here(name: str, **path: typing.Any) -> Iterator[Route]:
    """404 in each API's shape. ``path`` is a field of ``RouteMatch``."""
    for api, headers in ((Api.ANTHROPIC_MESSAGES, [_ANTHROPICS]), (Api.OPENAI_CHAT, [])):
        yield _error(name, RouteMatch(**path, headers=headers), 404, _NOT_FOUND, api)


def misspelt(api: Api, match: RouteMatch) -> Route:
    """404 for a path that some server may take for that of ``api``, or a method that it may take for POST."""
    return _error(f"misspelt-{api}", match, 404, f"{_NOT_FOUND} {api} is at POST {PATHS[api]}.", api)


def body_limit(registry: Registry) -> int:
    """The size of the longest direct response in bytes. Envoy rejects a configuration with a longer one."""
    longest = max(len(_encoded(whole).encode()) for whole, _ in (_anthropic(registry), _openai(registry)))
    return max(longest, _LEAST_BODY_LIMIT)


def _openai(registry: Registry) -> tuple[_Json, Mapping[str, _Json]]:
    """The list object and each model's: https://platform.openai.com/docs/api-reference/models."""
    owners = {AUTO: "router", **{name: registry.models[name].provider for name in _named(registry, False)}}
    each = {
        name: {"id": name, "object": "model", "created": _CREATED, "owned_by": owner}
        for name, owner in owners.items()
    }
    return {"object": "list", "data": list(each.values())}, each


def _anthropic(registry: Registry) -> tuple[_Json, Mapping[str, _Json]]:
    """The page and each model's object: https://docs.anthropic.com/en/api/models-list."""
    names = [AUTO, *_named(registry, True)]
    each = {
        name: {"type": "model", "id": name, "display_name": name, "created_at": _CREATED_AT} for name in names
    }
    page = {"data": list(each.values()), "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return page, each


def _named(registry: Registry, anthropic: bool) -> list[str]:
    """The models that a client of one kind of API may name."""
    return [
        name
        for name, model in registry.models.items()
        if model.pin and any((api is Api.ANTHROPIC_MESSAGES) is anthropic for api in model.speaks)
    ]


def _error(name: str, match: RouteMatch, status: int, message: str, api: Api = Api.OPENAI_CHAT) -> Route:
    return _direct(name, match, status, apis.error_body(api, status=status, message=message).decode())


def _direct(name: str, match: RouteMatch, status: int, body: str) -> Route:
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body)),
        response_headers_to_add=[header("content-type", "application/json")],
    )


def _encoded(value: _Json) -> str:
    return json.dumps(value, separators=(",", ":"))
