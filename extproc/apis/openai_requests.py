"""OpenAI's chat completions and completions, and what its APIs share: content parts and errors.

https://platform.openai.com/docs/api-reference: /chat/create and /completions/create.

gc=False in the structs below: they hold no cycles, and untracked objects keep the garbage collector
from running in the middle of a large body.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc.apis import json_bodies
from extproc.apis.body_edits import Edit, capped, given
from extproc.apis.conversation import of_chat
from extproc.apis.json_bodies import Document, Shape
from extproc.apis.repeated_question import earlier_turns
from extproc.apis.text_passages import in_runs
from extproc.vocabulary import Api, BodyPolicy, ChatRequest, Passage

_TEXT_PARTS = frozenset({"text", "input_text"})  # the second is the responses API's word for it
_CHARS_PER_TOKEN = 4  # of English; the usual rule of thumb


class Part(msgspec.Struct, gc=False):
    """One content part."""

    type: str
    text: str | None = None


Content = str | list[Part] | None


class Function(msgspec.Struct, gc=False):
    """A function, or a custom tool, that the model may call."""

    name: str | None = None


def chars(content: Content) -> int:
    """The characters of all text in it."""
    if isinstance(content, str):
        return len(content)
    return sum(len(part.text) for part in content or () if part.text)


def parts_of(content: Content) -> Passage:
    """The text of any turn, by parts, of whatever kind these are."""
    if isinstance(content, str):
        return (content,) if content else ()
    return tuple(part.text for part in content or () if part.text)


def text_parts(content: Content) -> Passage:
    """The text of the latest user turn, by parts that say that they are text."""
    if isinstance(content, str):
        return (content,) if content else ()
    return tuple(part.text for part in content or () if part.type in _TEXT_PARTS and part.text)


def text_and_media(content: Content) -> tuple[str, int]:
    """The text of a user's turn, and the number of its parts that are not text."""
    if content is None or isinstance(content, str):
        return content or "", 0
    texts = [part.text for part in content if part.type in _TEXT_PARTS]
    return "\n".join(filter(None, texts)), len(content) - len(texts)


def json_size(members: Mapping[str, Raw], *names: str) -> int:
    """The total size in bytes of the members ``names`` that are given."""
    return sum(len(members[name]) for name in names if name in members)


def named(names: Iterable[str | None]) -> tuple[str, ...]:
    """The names that are not empty."""
    return tuple(filter(None, names))


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorBody(msgspec.Struct):
    error: _Error


def error_body(status: int, message: str, code: str | None, param: str | None) -> bytes:
    """See ``apis.error_body``. Members without a value are null, because clients read all four."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode(_ErrorBody(_Error(message, kind, param, code)))


# --- Chat completions ---------------------------------------------------------------------------


class _Message(msgspec.Struct, gc=False):
    """One message. An assistant's message that calls tools has no content."""

    role: str
    content: Content = None
    tool_calls: Raw | UnsetType = UNSET


class _Tool(msgspec.Struct, gc=False):
    """An offered tool. Its name stands under its type, beside it, or (built-in tools) is the type."""

    type: str | None = None
    name: str | None = None
    function: Function | None = None
    custom: Function | None = None


_CHAT = Shape(
    "model",
    "messages",
    "tools",
    "functions",
    "stream",
    "stream_options",
    "max_completion_tokens",
    "max_tokens",
    "reasoning_effort",
    "metadata",
    "prompt_cache_key",
)
# The first is what a limit is set by: today's name, and the only one that reasoning models take.
_CHAT_LIMITS = ("max_completion_tokens", "max_tokens")
_STREAM_OPTIONS = Shape("include_usage")
_MESSAGES = msgspec.json.Decoder(list[_Message])
_TOOLS: msgspec.json.Decoder[list[_Tool] | None] = msgspec.json.Decoder(list[_Tool] | None)
_FUNCTIONS: msgspec.json.Decoder[list[Function] | None] = msgspec.json.Decoder(list[Function] | None)


def parse_chat(body: bytes) -> ChatRequest:
    """See ``apis.parse``. The user's turn is the last message of a user."""
    document = Document(body)
    members = document.members(_CHAT)
    model = json_bodies.model_name(members)
    messages = json_bodies.required(members, "messages", _MESSAGES)
    json_bodies.require_some(messages, "messages", "message")
    tools = json_bodies.optional(members, "tools", _TOOLS) or []
    functions = (
        json_bodies.optional(members, "functions", _FUNCTIONS) or []
    )  # their first name, still accepted
    json_bodies.require_few_tools(len(tools) + len(functions))
    stream = _stream(document, members)
    # Where both are given, servers that take both heed the newer name.
    limits = [json_bodies.whole_number(members, name) for name in _CHAT_LIMITS]
    last = next((message.content for message in reversed(messages) if message.role == "user"), None)
    text, media = text_and_media(last)
    return ChatRequest(
        api=Api.OPENAI_CHAT,
        model=model,
        spans=document.spans,
        user_text=text,
        body_bytes=len(body),
        user_parts=text_parts(last),
        user_turns=in_runs((m.role == "user", parts_of(m.content)) for m in messages),
        tools=named((*map(_chat_tool_name, tools), *(function.name for function in functions))),
        images=media,
        messages=len(messages),
        stream=stream,
        prompt_chars=sum(map(_message_chars, messages)) + json_size(members, "tools", "functions"),
        max_tokens=limits[0] if limits[0] is not None else limits[1],
        conversation=of_chat(members),
        earlier=_earlier(messages),
    )


def _earlier(messages: Sequence[_Message]) -> tuple[str, ...]:
    if messages[-1].role != "user":
        return ()
    before = islice(reversed(messages), 1, None)
    return earlier_turns(text_and_media(m.content)[0] if m.role == "user" else "" for m in before)


def _stream(document: Document, members: dict[str, Raw]) -> bool:
    options = document.nested(_STREAM_OPTIONS, members, "stream_options")
    json_bodies.flag(options, "include_usage", "stream_options")
    return json_bodies.flag(members, "stream")


def _message_chars(message: _Message) -> int:
    calls = message.tool_calls
    return chars(message.content) + (0 if calls is UNSET else len(calls))


def _chat_tool_name(tool: _Tool) -> str | None:
    # The type says which definition counts, as it does for the provider: a decoy beside it
    # must not hide the real name from a deny rule.
    defined = tool.custom if tool.type == "custom" else tool.function
    return (defined and defined.name) or tool.name or tool.type


def chat_edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    """The edits for ``policy``, except the model's name."""
    if policy.max_tokens is not None:
        yield from capped(body, request, _CHAT_LIMITS, policy.max_tokens)
    if policy.reasoning is not None:
        yield Edit("reasoning_effort", policy.reasoning)
    yield from _usage_edits(policy, body, request)


def _usage_edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    if policy.include_usage and request.stream and not given(body, request, "stream_options.include_usage"):
        yield Edit("stream_options.include_usage", True)


# --- Completions --------------------------------------------------------------------------------

_COMPLETIONS = Shape("model", "prompt", "stream", "stream_options", "max_tokens")
_PROMPT = msgspec.json.Decoder(str | list[str])
_TOKENS = tuple(b"%c" % digit for digit in b"-0123456789[")  # how a list of tokens, or of such lists, begins


def parse_completions(body: bytes) -> ChatRequest:
    """See ``apis.parse``. The prompt is the user's turn; one that is given as tokens has no text."""
    document = Document(body)
    members = document.members(_COMPLETIONS)
    model = json_bodies.model_name(members)
    text, size = _prompt(members)
    return ChatRequest(
        api=Api.OPENAI_COMPLETIONS,
        model=model,
        spans=document.spans,
        user_text=text,
        body_bytes=len(body),
        stream=_stream(document, members),
        prompt_chars=size,
        max_tokens=json_bodies.whole_number(members, "max_tokens"),
    )


def _prompt(members: dict[str, Raw]) -> tuple[str, int]:
    """The prompt's text, several of them joined by newlines, and its characters for estimates."""
    raw = bytes(members.get("prompt", b""))
    if raw.startswith(b"["):
        if b'"' not in raw and raw[1:].lstrip().startswith(_TOKENS):
            # Millions of numbers are not built only to be counted.
            return "", (raw.count(b",") + 1) * _CHARS_PER_TOKEN
        json_bodies.require_few_strings(raw, "prompt")
    prompt = json_bodies.required(members, "prompt", _PROMPT)
    if isinstance(prompt, str):
        return prompt, len(prompt)
    json_bodies.require_some(prompt, "prompt", "prompt")
    text = "\n".join(filter(None, prompt))
    return text, len(text)


def completions_edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    """The edits for ``policy``, except the model's name. This API has no setting for reasoning.

    A limit is set where the client gave none, though OpenAI's own default (16) may be lower:
    other servers have none.
    """
    if policy.max_tokens is not None:
        yield from capped(body, request, ("max_tokens",), policy.max_tokens)
    yield from _usage_edits(policy, body, request)
