"""The HTTP conventions of each fake API: its path, keys, events and errors."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from extproc.demo import fake_completions, fake_messages, fake_responses
from extproc.demo.fake_answers import ApiError, Ask, FakeAnswer, Identity, JsonObject
from extproc.vocabulary import Api


class _Document(Protocol):
    def __call__(
        self, identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool
    ) -> JsonObject: ...


class _Events(Protocol):
    def __call__(
        self, identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool
    ) -> Iterator[JsonObject]: ...


class FakeApi(msgspec.Struct, frozen=True):
    """One API. ``end`` closes every stream of it."""

    path: str
    parse: Callable[[bytes, Mapping[str, str]], Ask]  # of body and headers; raises ApiError
    document: _Document
    events: _Events
    event: Callable[[JsonObject], bytes]
    conventions: "ProviderConventions"
    end: bytes = b""


class ProviderConventions(msgspec.Struct, frozen=True):
    """What all APIs of one provider share."""

    request_id_header: str
    key: Callable[[Mapping[str, str]], str]  # of headers; empty without one
    error_object: Callable[[ApiError, str], JsonObject]  # error, request id
    no_key: Callable[[], ApiError]
    wrong_key: Callable[[], ApiError]
    unknown_model: Callable[[str], ApiError]
    failures: Mapping[int, ApiError]  # how an injected status reads; 500 stands for all others


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


OPENAI = ProviderConventions(
    request_id_header="x-request-id",
    key=_bearer,
    error_object=lambda error, _: fake_completions.error_object(error),
    no_key=lambda: ApiError(401, "You didn't provide an API key."),
    wrong_key=lambda: ApiError(401, "Incorrect API key provided.", code="invalid_api_key"),
    unknown_model=lambda name: ApiError(
        404, f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found"
    ),
    failures={
        429: ApiError(429, "Rate limit reached for requests.", kind="requests", code="rate_limit_exceeded"),
        503: ApiError(
            503, "The engine is currently overloaded, please try again later.", kind="server_error"
        ),
        500: ApiError(
            500,
            "The server had an error while processing your request. Sorry about that!",
            kind="server_error",
        ),
    },
)

ANTHROPIC = ProviderConventions(
    request_id_header="request-id",
    key=lambda headers: headers.get("x-api-key") or _bearer(headers),  # what clients send since version 2
    error_object=fake_messages.error_object,
    no_key=lambda: ApiError(401, "x-api-key header is required"),
    wrong_key=lambda: ApiError(401, "invalid x-api-key"),
    unknown_model=lambda name: ApiError(404, f"model: {name}"),
    failures={
        429: ApiError(429, "This request would exceed your organization's rate limit."),
        529: ApiError(529, "Overloaded"),
        500: ApiError(500, "Internal server error"),
    },
)

FAKE_APIS: Mapping[Api, FakeApi] = {
    Api.OPENAI_CHAT: FakeApi(
        "/v1/chat/completions",
        lambda body, _: fake_completions.parse_chat(body),
        fake_completions.chat_document,
        fake_completions.chat_events,
        fake_completions.event,
        OPENAI,
        fake_completions.DONE,
    ),
    Api.OPENAI_COMPLETIONS: FakeApi(
        "/v1/completions",
        lambda body, _: fake_completions.parse_text(body),
        fake_completions.text_document,
        fake_completions.text_events,
        fake_completions.event,
        OPENAI,
        fake_completions.DONE,
    ),
    Api.OPENAI_RESPONSES: FakeApi(
        "/v1/responses",
        lambda body, _: fake_responses.parse(body),
        fake_responses.document,
        fake_responses.events,
        fake_responses.event,
        OPENAI,
    ),
    Api.ANTHROPIC_MESSAGES: FakeApi(
        "/v1/messages",
        fake_messages.parse,
        fake_messages.document,
        fake_messages.events,
        fake_messages.event,
        ANTHROPIC,
    ),
}


def api_at(path: str) -> tuple[Api, FakeApi] | None:
    """The API whose path it is, exactly."""
    return next(((api, fake_api) for api, fake_api in FAKE_APIS.items() if fake_api.path == path), None)


def conventions_at(path: str) -> ProviderConventions:
    """The conventions of the provider that owns the path; OpenAI's for an unknown path."""
    anthropic = FAKE_APIS[Api.ANTHROPIC_MESSAGES].path
    return ANTHROPIC if path == anthropic or path.startswith(f"{anthropic}/") else OPENAI


def failure(conventions: ProviderConventions, status: int) -> ApiError:
    """The provider's error for an injected status."""
    known = conventions.failures.get(status, conventions.failures[500])
    return ApiError(status, known.message, kind=known.kind, param=known.param, code=known.code)


def carries_usage(event: JsonObject) -> bool:
    """Whether the event, or the response inside it, reports token usage."""
    return bool(event.get("usage") or (event.get("response") or {}).get("usage"))
