"""Bytes of an LLM call to ``ChatRequest``, the model's new name into the bytes, and the API's errors.

A body is never re-encoded: routing reads what it must understand, remembers where the model's
name stands, and replaces those bytes alone. So tool schemas keep their key order, numbers keep
their digits, and whatever an API adds tomorrow reaches the provider as the client wrote it.

What one API calls things is one ``_Dialect`` in ``_DIALECTS``; the rest of the router does not
know which API a request came by.

Everything here runs on the event loop, so the work per body is bounded: all scanning is done by
msgspec in C, and Python loops only run over objects that ``_OBJECT_LIMIT`` counts. The worst
hostile body of 16 MiB takes about 0.15 s of one core, an ordinary one of 5 MB 3 to 5 ms.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from extproc.errors import BadRequest
from extproc.vocabulary import Api, ChatRequest

_T = TypeVar("_T")

# The name travels in Envoy's dynamic metadata and on every record, so it must stay small.
_MODEL_NAME_LIMIT = 1024  # characters
# Each message, part or tool costs up to 0.3 us here, and 16 MiB can hold millions of empty ones.
# Braces inside strings count too; even so, dense JSON in a prompt of two million tokens fits.
_OBJECT_LIMIT = 250_000

# OpenAI takes 128. Rules match patterns against each name, so there must be an end to them.
_TOOL_LIMIT = 2048

_TEXT_PARTS = frozenset({"text", "input_text"})  # the second is the responses API's word for it


class _Dialect(msgspec.Struct, frozen=True):
    """What one API calls things."""

    path_suffix: str  # of the path without its query, in whole segments
    parse: Callable[[bytes], ChatRequest]
    error_body: Callable[[int, str, str | None, str | None], bytes]  # status, message, code, param


def api_of(method: str, path: str) -> Api | None:
    """The API that a request speaks, or None for one that is not an LLM call and passes untouched.

    ``path`` is as Envoy normalised it; its query and a trailing slash do not count. Whatever
    stands before the API's own segments (``/v1``, a provider's prefix) does not matter.
    """
    if method != "POST":
        return None
    resource = path.partition("?")[0].rstrip("/")
    return next((api for api, dialect in _DIALECTS.items() if resource.endswith(dialect.path_suffix)), None)


def parse(api: Api, body: bytes) -> ChatRequest:
    """Reads the body of one request of ``api``.

    Strict about JSON, UTF-8 and the types of what is read; lenient where APIs evolve (unknown
    fields, roles, kinds of content parts and of tools).

    Raises:
        BadRequest: the body is not what the API requires. ``param`` names the offending field
            as OpenAI does (``messages[0].content``); None is the body as a whole.
    """
    return _DIALECTS[api].parse(body)


def with_model(body: bytes, request: ChatRequest, name: str) -> bytes:
    """``body``, which ``request`` was parsed from, with the model's name replaced and no other byte changed.

    The very same object when the request already names ``name``.
    """
    if request.model == name:
        return body
    start, end = request.model_span
    return b"".join((body[:start], msgspec.json.encode(name), body[end:]))


def error_body(
    api: Api, *, status: int, message: str, code: str | None = None, param: str | None = None
) -> bytes:
    """The JSON body of an error answer with HTTP ``status``, in the shape that clients of ``api`` expect."""
    return _DIALECTS[api].error_body(status, message, code, param)


# --- OpenAI chat completions: https://platform.openai.com/docs/api-reference/chat/create ---------
#
# gc=False: these hold no cycles, and untracked objects keep the garbage collector from running
# in the middle of a large body.


class _Part(msgspec.Struct, gc=False):
    """One content part of a message."""

    type: str
    text: str | None = None


class _Message(msgspec.Struct, gc=False):
    """One message. An assistant's message that calls tools has no content."""

    role: str
    content: str | list[_Part] | None = None


class _Function(msgspec.Struct, gc=False):
    """A function, or a custom tool, that the model may call."""

    name: str | None = None


class _Tool(msgspec.Struct, gc=False):
    """An offered tool. Its name stands under its type, beside it, or (built-in tools) is the type."""

    type: str | None = None
    name: str | None = None
    function: _Function | None = None
    custom: _Function | None = None


class _OpenAIChat(msgspec.Struct, gc=False):
    """The fields of a chat completion request that routing reads."""

    model: Raw
    messages: list[_Message]
    tools: list[_Tool] | None = None
    functions: list[_Function] | None = None  # what tools were called at first; still accepted
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None  # what max_tokens is called since there is reasoning


class _OpenAIError(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _OpenAIErrorBody(msgspec.Struct):
    error: _OpenAIError


_OPENAI_CHAT = msgspec.json.Decoder(_OpenAIChat)


def _parse_openai_chat(body: bytes) -> ChatRequest:
    _require_readable(body)
    chat = _decode(_OPENAI_CHAT, body)
    model = _model_name(chat.model)
    span = _span(body, chat.model)
    _refuse_second_model(body, span)
    if not chat.messages:
        raise BadRequest("'messages' must hold at least one message.", param="messages")
    tools, functions = chat.tools or [], chat.functions or []
    if len(tools) + len(functions) > _TOOL_LIMIT:
        raise BadRequest(f"'tools' must hold at most {_TOOL_LIMIT} tools.", param="tools")
    text, images = _latest_user_turn(chat.messages)
    return ChatRequest(
        api=Api.OPENAI_CHAT,
        model=model,
        model_span=span,
        user_text=text,
        body_bytes=len(body),
        tools=_tool_names(tools, functions),
        images=images,
        messages=len(chat.messages),
        stream=bool(chat.stream),
        prompt_chars=sum(map(_chars, chat.messages)),
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
    )


def _chars(message: _Message) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text) for part in message.content or () if part.text)


def _latest_user_turn(messages: list[_Message]) -> tuple[str, int]:
    """The text of the last message of a user and the number of its parts that are not text."""
    content = next((message.content for message in reversed(messages) if message.role == "user"), None)
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    texts = [part.text for part in content if part.type in _TEXT_PARTS]
    return "\n".join(filter(None, texts)), len(content) - len(texts)


def _tool_names(tools: Iterable[_Tool], functions: Iterable[_Function]) -> tuple[str, ...]:
    return tuple(filter(None, (*map(_tool_name, tools), *(function.name for function in functions))))


def _tool_name(tool: _Tool) -> str | None:
    # The type says which definition counts, as it does for the provider: a decoy beside it
    # must not hide the real name from a deny rule.
    defined = tool.custom if tool.type == "custom" else tool.function
    return (defined and defined.name) or tool.name or tool.type


def _openai_error_body(status: int, message: str, code: str | None, param: str | None) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode(_OpenAIErrorBody(_OpenAIError(message, kind, param, code)))


# The first suffix that matches wins: a path that ends in another's suffix goes before it.
_DIALECTS = {
    Api.OPENAI_CHAT: _Dialect("/chat/completions", _parse_openai_chat, _openai_error_body),
}


# --- Any JSON body ----------------------------------------------------------------------------


class _ModelOnly(msgspec.Struct, gc=False):
    """Whether an object has a model."""

    model: Raw | UnsetType = UNSET


_MODEL_ONLY = msgspec.json.Decoder(_ModelOnly)
_STRING = msgspec.json.Decoder(str)


def _require_readable(body: bytes) -> None:
    """Refuses what no JSON decoder should be given."""
    if not body:
        raise BadRequest("The request body is empty; it must be a JSON object.")
    # msgspec checks UTF-8 only in the strings that it builds, not in those it skips.
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"The request body is not valid UTF-8 (byte {error.start}).") from error
    if body.count(b"{") > _OBJECT_LIMIT:
        raise BadRequest(f"The request body must hold at most {_OBJECT_LIMIT} opening braces.")


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes, field: str = "") -> _T:
    """Decodes ``data``, the value of the top-level ``field`` or, without one, the whole body."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error), field) from error
    except msgspec.DecodeError as error:
        problem = str(error).removeprefix("JSON is malformed: ")
        raise BadRequest(f"The request body is not valid JSON: {problem}.") from error
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error


def _model_name(raw: Raw) -> str:
    name = _decode(_STRING, raw, "model")
    if not name:
        raise BadRequest("'model' must not be empty.", param="model")
    if len(name) > _MODEL_NAME_LIMIT:
        raise BadRequest(f"'model' must have at most {_MODEL_NAME_LIMIT} characters.", param="model")
    return name


def _span(body: bytes, raw: Raw) -> tuple[int, int]:
    """Where a value stands in the body it was decoded from: [start, end).

    ``msgspec.Raw`` is a view into the decoder's input (see ``Raw.copy``), so the difference of
    the two addresses is the offset. Searching for the value's bytes instead could find them in
    a message, and scanning the body in Python would take seconds for a large one.
    """
    start = _address(raw) - _address(body)
    end = start + len(raw)
    if start < 0 or body[start:end] != bytes(raw):
        # An edit in the wrong place would corrupt the request, so never go on from here.
        raise RuntimeError("msgspec.Raw is not a view into the decoder's input")
    return start, end


def _address(buffer: bytes) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


def _refuse_second_model(body: bytes, span: tuple[int, int]) -> None:
    """Refuses a body with two top-level models: we would edit the last, a provider may read the first.

    msgspec keeps the last of duplicate keys, so a second one stands before ``span``. The body is
    cut there, before the key, and closed: what remains is the object of all earlier members, and
    it must have no model. A model nested inside another value, as in a tool's schema, is no matter.
    """
    closing_quote = body.rfind(b'"', 0, span[0])
    opening_quote = body.rfind(b'"', 0, closing_quote)  # no spelling of the key has a quote inside
    earlier = body[:opening_quote] + b'"":0}'  # after "{" as well as after a comma
    if _decode(_MODEL_ONLY, earlier).model is not UNSET:
        raise BadRequest("'model' is given more than once; it must be given once.", param="model")


# --- msgspec's findings in the client's words ---------------------------------------------------

_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_WRONG_TYPE = re.compile(r"Expected `(?P<expected>.*)`, got `(?P<got>.*)`")
_TYPE_WORDS = {
    "object": "an object",
    "array": "an array",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
}


def _wrong_shape(finding: str, field: str) -> BadRequest:
    """JSON of the wrong shape: says which field, what it must be, and what it was."""
    problem, _, place = finding.partition(" - at `$")
    path = field + place.removesuffix("`")
    if missing := _MISSING.fullmatch(problem):
        param = f"{path}.{missing['field']}".removeprefix(".")
        return BadRequest(f"'{param}' is required.", param=param)
    param = path.removeprefix(".")
    subject = f"'{param}'" if param else "The request body"
    return BadRequest(f"{subject} {_requirement(problem)}.", param=param or None)


def _requirement(problem: str) -> str:
    wrong = _WRONG_TYPE.fullmatch(problem)
    if not wrong:
        return f"is not what the API requires: {problem}"
    *others, last = (_TYPE_WORDS.get(kind, kind) for kind in wrong["expected"].split(" | "))
    expected = f"{', '.join(others)} or {last}" if others else last
    return f"must be {expected}, not {_TYPE_WORDS.get(wrong['got'], wrong['got'])}"
