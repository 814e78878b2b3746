"""What Envoy answers by itself: the list of models, and paths that lead nowhere."""

import json
import typing
from collections.abc import Iterator, Mapping

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import DirectResponseAction, HeaderMatcher, Route, RouteMatch

from extproc import apis
from extproc.apis.api_paths import PATHS
from extproc.envoyconf.route_actions import API_ROOT, exactly, header
from extproc.registry.schema import Registry
from extproc.routing.stages import AUTO
from extproc.vocabulary import Api

_MODELS = f"{API_ROOT}/models"
# By this header, which all of Anthropic's clients send, theirs are known where the path does not tell.
_ANTHROPICS = HeaderMatcher(name="anthropic-version", present_match=True)
_LEAST_BODY_LIMIT = 4096  # Envoy's default
# Nobody knows when a model came into being, and clients require a time.
_CREATED, _CREATED_AT = 0, "1970-01-01T00:00:00Z"

_Json = Mapping[str, typing.Any]


def routes(registry: Registry) -> Iterator[Route]:
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


def unsupported_api(api: Api, match: RouteMatch) -> Route:
    """An API that no model of the registry speaks."""
    body = apis.error_body(api, status=404, message=f"No model here speaks {api}.")
    return _direct(f"unsupported_api-{api}", match, 404, body.decode())


def nothing_here(
    name: str, message: str = "There is nothing at this path.", **path: typing.Any
) -> Iterator[Route]:
    """404 in each API's shape, for what ``path`` matches: a field of ``RouteMatch``."""
    for api, headers in ((Api.ANTHROPIC_MESSAGES, [_ANTHROPICS]), (Api.OPENAI_CHAT, [])):
        body = apis.error_body(api, status=404, message=message)
        yield _direct(name, RouteMatch(**path, headers=headers), 404, body.decode())


def misspelt(api: Api, match: RouteMatch) -> Route:
    """A path that some server may take for that of ``api``, or a method that it may take for POST."""
    message = f"There is nothing at this path. {api} is at POST {PATHS[api]}."
    return _direct(f"misspelt-{api}", match, 404, apis.error_body(api, status=404, message=message).decode())


def body_limit(registry: Registry) -> int:
    """Bytes of the longest direct answer, which Envoy wants to be told of."""
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


def _direct(name: str, match: RouteMatch, status: int, body: str) -> Route:
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body)),
        response_headers_to_add=[header("content-type", "application/json")],
    )


def _encoded(value: _Json) -> str:
    return json.dumps(value, separators=(",", ":"))
