"""Every LLM API's front door: bytes to ``ChatRequest``, edits into the bytes, and the API's errors.

What one API calls things is one ``_Dialect`` in ``_DIALECTS``; the rest of the router does not
know which API a request came by.

Everything here runs on the event loop. The work per body is linear in its size: the worst hostile body of
16 MiB takes about 0.4 s of one core in any API, an ordinary one of 5 MB 20 ms, one of 2 kB 0.03 ms.
"""

from collections.abc import Callable, Iterable

import msgspec

from extproc.apis import anthropic_requests, api_paths, openai_requests, responses_requests
from extproc.apis.body_edits import Edit, edit
from extproc.apis.json_bodies import Document, Shape
from extproc.apis.repeated_question import asks_again
from extproc.apis.text_passages import everything
from extproc.vocabulary import Api, BodyPolicy, ChatRequest, Span

__all__ = [
    "Edit",
    "api_of",
    "asks_again",
    "edit",
    "edits",
    "error_body",
    "everything",
    "model_span",
    "parse",
    "with_policy",
]


class _Dialect(msgspec.Struct, frozen=True):
    """What one API calls things."""

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
    """The API that a request speaks, or None for one that is not an LLM call and passes untouched.

    ``path`` is as Envoy normalised it; its query does not count, nor does what stands before the
    API's own segments (a tenant, a provider's prefix). Any spelling of an API's path that a server
    may accept is that path: see ``paths``.
    """
    return api_paths.api_at(path) if method.upper() == "POST" else None


def parse(api: Api, body: bytes) -> ChatRequest:
    """Reads the body of one request of ``api``.

    Strict about JSON, UTF-8 and the types of what is read; lenient where APIs evolve (unknown
    fields, roles, kinds of content parts, items and tools).

    Raises:
        BadRequest: the body is not what the API requires. ``param`` names the offending field
            as OpenAI does (``messages[0].content``); None is the body as a whole.
    """
    return _DIALECTS[api].parse(body)


def edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> tuple[Edit, ...]:
    """What must change in ``body``, which ``request`` was parsed from, to say what ``policy`` asks for.

    What an API has no word for is left out.
    """
    named = () if request.model == policy.model else (Edit("model", policy.model),)
    return (*named, *_DIALECTS[request.api].edits(policy, body, request))


def with_policy(body: bytes, request: ChatRequest, policy: BodyPolicy) -> bytes:
    """``body`` as ``policy`` wants it; the very same object when it already says all that."""
    return edit(body, request, edits(policy, body, request))


def model_span(body: bytes) -> Span:
    """Where ``body``, which ``with_policy`` gave, names its model."""
    document = Document(body)
    document.members(_MODEL)
    return document.spans["model"]


def error_body(
    api: Api, *, status: int, message: str, code: str | None = None, param: str | None = None
) -> bytes:
    """The JSON body of an error answer with HTTP ``status``, in the shape that clients of ``api`` expect."""
    return _DIALECTS[api].error_body(status, message, code, param)
