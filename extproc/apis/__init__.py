"""The entry point to all LLM APIs: reads a body into a ``ChatRequest``, edits a body, writes errors.

Each API is one ``_Dialect`` in ``_DIALECTS``. The rest of the router does not depend on the API.

Everything here runs on the event loop. The work per body is linear in its size: the worst hostile body of
16 MiB takes about 0.4 s of one core in any API, an ordinary one of 5 MB 20 ms, one of 2 kB 0.03 ms.
"""

from collections.abc import Callable, Iterable

import msgspec

from extproc.apis import anthropic_requests, api_paths, openai_requests, responses_requests
from extproc.apis.body_edits import Edit, edit, given
from extproc.apis.json_bodies import Document, Shape
from extproc.apis.repeated_question import asks_again
from extproc.apis.text_passages import everything
from extproc.vocabulary import Api, BodyPolicy, ChatRequest, Span

__all__ = [
    "Edit",
    "api_of",
    "asks_again",
    "asks_for_usage",
    "edit",
    "edits",
    "error_body",
    "everything",
    "model_span",
    "parse",
    "with_policy",
]


class _Dialect(msgspec.Struct, frozen=True):
    """The functions of one API."""

    parse: Callable[[bytes], ChatRequest]
    edits: Callable[[BodyPolicy, bytes, ChatRequest], Iterable[Edit]]  # the model's name aside
    error_body: Callable[[int, str, str | None, str | None], bytes]  # status, message, code, param


_MODEL = Shape("model")

_DIALECTS = {
    Api.OPENAI_CHAT: _Dialect(
        openai_requests.parse_chat, openai_requests.chat_edits, openai_requests.error_body
    ),
    Api.OPENAI_COMPLETIONS: _Dialect(
        openai_requests.parse_completions, openai_requests.completions_edits, openai_requests.error_body
    ),
    Api.OPENAI_RESPONSES: _Dialect(
        responses_requests.parse_responses, responses_requests.responses_edits, openai_requests.error_body
    ),
    Api.ANTHROPIC_MESSAGES: _Dialect(
        anthropic_requests.parse_messages, anthropic_requests.messages_edits, anthropic_requests.error_body
    ),
}


def api_of(method: str, path: str) -> Api | None:
    """The API of a request, or None if the request is not an LLM call and passes unchanged.

    ``path`` is as Envoy normalised it. The query and segments before the API's own (a tenant, a provider's
    prefix) are ignored. Every spelling of a path that a server may accept counts: see ``api_paths``.
    """
    return api_paths.api_at(path) if method.upper() == "POST" else None


def parse(api: Api, body: bytes) -> ChatRequest:
    """Read the body of one request of ``api``.

    It is strict about JSON, UTF-8 and the types of the fields that it reads. It accepts unknown fields,
    roles, and kinds of content parts, items and tools, because APIs evolve.

    Raises:
        BadRequest: the body does not follow the API. ``param`` names the offending field
            as OpenAI does (``messages[0].content``); None is the body as a whole.
    """
    return _DIALECTS[api].parse(body)


def edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> tuple[Edit, ...]:
    """The edits that make ``body``, from which ``request`` was parsed, follow ``policy``.

    Settings that the API does not have are left out.
    """
    named = () if request.model == policy.model else (Edit("model", policy.model),)
    return (*named, *_DIALECTS[request.api].edits(policy, body, request))


def with_policy(body: bytes, request: ChatRequest, policy: BodyPolicy) -> bytes:
    """``body`` with ``policy`` applied; the same object if nothing has to change."""
    return edit(body, request, edits(policy, body, request))


def asks_for_usage(body: bytes, request: ChatRequest) -> bool:
    """Whether ``body``, from which ``request`` was parsed, asks a stream to report its token usage."""
    return given(body, request, "stream_options.include_usage") is True


def model_span(body: bytes) -> Span:
    """The place of the model's name in ``body``, a result of ``with_policy``."""
    document = Document(body)
    document.members(_MODEL)
    return document.spans["model"]


def error_body(
    api: Api, *, status: int, message: str, code: str | None = None, param: str | None = None
) -> bytes:
    """The JSON body of an error answer with HTTP ``status``, in the shape that clients of ``api`` expect."""
    return _DIALECTS[api].error_body(status, message, code, param)
