"""OpenAI's responses: https://platform.openai.com/docs/api-reference/responses/create."""

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc.apis import json_bodies
from extproc.apis.body_edits import Edit, capped
from extproc.apis.conversation import of_responses
from extproc.apis.json_bodies import Document, Shape
from extproc.apis.openai_requests import (
    Content,
    Function,
    chars,
    json_size,
    named,
    parts_of,
    text_and_media,
    text_parts,
)
from extproc.apis.repeated_question import earlier_turns
from extproc.apis.text_passages import in_runs
from extproc.vocabulary import Api, BodyPolicy, ChatRequest, Passage


class _Item(msgspec.Struct, gc=False):
    """One input item: a message (of that type, or of none), a call, a result, or of a kind to come.

    What each holds is decoded only where its type says what it is: kinds differ.
    """

    type: str | None = None
    role: str | None = None
    content: Raw | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    tools: Raw | UnsetType = UNSET


class _Tool(msgspec.Struct, gc=False):
    """An offered tool. Built-in ones are known by their type."""

    type: str | None = None
    name: str | None = None
    tools: list[Function] | None = None  # of a namespace


class _Input(msgspec.Struct):
    """The content of all input items."""

    user: Content = None  # of the latest user turn
    chars: int = 0
    count: int = 0
    tools: list[_Tool] = []  # offered between the turns
    before: list[Content] = []  # of the user's turns before the latest
    turns: list[tuple[bool, Passage]] = []  # of every item: is it the user's, and its text if so
    asks: bool = False  # is the latest user turn the last item?


_RESPONSES = Shape(
    "model",
    "input",
    "instructions",
    "tools",
    "stream",
    "max_output_tokens",
    "reasoning",
    "prompt",
    "previous_response_id",
    "conversation",
    "metadata",
    "prompt_cache_key",
)
_REASONING = Shape("effort")
_ITEMS = msgspec.json.Decoder(str | list[_Item])
_CONTENT: msgspec.json.Decoder[Content] = msgspec.json.Decoder(Content)
_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_TOOLS: msgspec.json.Decoder[list[_Tool] | None] = msgspec.json.Decoder(list[_Tool] | None)

_MESSAGES = frozenset({"message", None})
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
_NOT_THE_USERS: tuple[bool, Passage] = (False, ())
_KNOWN_BY_NAME = frozenset({"function", "custom", "namespace"})


def parse_responses(body: bytes) -> ChatRequest:
    """See ``apis.parse``. The user's turn is an input string, or the last message item of a user.

    A request that names a stored prompt may leave out the model, which is then an empty name. The
    input may be left out then too, and where a response or a conversation is continued.
    """
    document = Document(body)
    members = document.members(_RESPONSES)
    given = {name for name, raw in members.items() if len(raw) != 4 or bytes(raw) != b"null"}
    model = json_bodies.model_name(members) if "model" in given or "prompt" not in given else ""
    continues = given & {"prompt", "previous_response_id", "conversation"}
    asked = (
        _Input()
        if continues and "input" not in given
        else _read(json_bodies.required(members, "input", _ITEMS))
    )
    tools = (json_bodies.optional(members, "tools", _TOOLS) or []) + asked.tools
    names = [name for tool in tools for name in _tool_names(tool)]
    json_bodies.require_few_tools(len(names))
    document.nested(_REASONING, members, "reasoning")
    text, media = text_and_media(asked.user)
    instructions = json_bodies.optional(members, "instructions", _TEXT) or ""
    return ChatRequest(
        api=Api.OPENAI_RESPONSES,
        model=model,
        spans=document.spans,
        user_text=text,
        body_bytes=len(body),
        user_parts=text_parts(asked.user),
        user_turns=in_runs(asked.turns),
        tools=named(names),
        images=media,
        messages=asked.count,
        stream=json_bodies.flag(members, "stream"),
        prompt_chars=asked.chars + len(instructions) + json_size(members, "tools"),
        max_tokens=json_bodies.whole_number(members, "max_output_tokens"),
        conversation=of_responses(members),
        earlier=_earlier(asked),
    )


def _earlier(asked: _Input) -> tuple[str, ...]:
    if not asked.asks:
        return ()
    return earlier_turns(text_and_media(content)[0] for content in reversed(asked.before))


def _read(given: str | list[_Item]) -> _Input:
    if isinstance(given, str):
        return _Input(given, len(given), 1)
    json_bodies.require_some(given, "input", "item")
    read = _Input(count=len(given))
    for number, item in enumerate(given):
        read.turns.append(_NOT_THE_USERS)
        if item.type in _MESSAGES and item.content is not UNSET:
            content = json_bodies.decode(_CONTENT, item.content, "input", number, "content")
            read.chars += chars(content)
            if item.role == "user":
                read.before.append(read.user)
                read.turns[-1] = (True, parts_of(content))
                read.user, read.asks = content, number == len(given) - 1
        elif item.type in _RESULTS and item.output is not UNSET:
            read.chars += chars(json_bodies.decode(_CONTENT, item.output, "input", number, "output"))
        elif item.type == "function_call" and item.arguments is not UNSET:
            read.chars += len(item.arguments)
        elif item.type == "additional_tools" and item.tools is not UNSET:
            offered = json_bodies.decode(_TOOLS, item.tools, "input", number, "tools")
            read.tools += offered or []
            read.chars += len(item.tools)
    return read


def _tool_names(tool: _Tool) -> Iterator[str | None]:
    # A name beside a built-in tool is a decoy: the provider goes by the type.
    yield tool.name if tool.type in _KNOWN_BY_NAME else tool.type or tool.name
    if tool.type == "namespace":
        yield from (inner.name for inner in tool.tools or ())


def responses_edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    """The edits for ``policy``, except the model's name. Streams of this API always report the usage."""
    if policy.max_tokens is not None:
        yield from capped(body, request, ("max_output_tokens",), policy.max_tokens)
    if policy.reasoning is not None:
        yield Edit("reasoning.effort", policy.reasoning)
