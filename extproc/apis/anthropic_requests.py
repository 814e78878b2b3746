"""Anthropic's messages: https://docs.anthropic.com/en/api/messages, and /en/api/errors."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc.apis import json_bodies
from extproc.apis.body_edits import Edit, capped, given
from extproc.apis.json_bodies import Document, Shape
from extproc.apis.repeated_question import earlier_turns
from extproc.apis.text_passages import in_runs
from extproc.errors import BadRequest
from extproc.vocabulary import Api, BodyPolicy, ChatRequest, Effort, Passage

# gc=False: these hold no cycles, and untracked objects keep the garbage collector from running
# in the middle of a large body.


class _Result(msgspec.Struct, gc=False):
    """One block of a tool's result."""

    type: str
    text: str | None = None


_ResultContent = str | list[_Result] | None


class _Block(msgspec.Struct, gc=False):
    """One content block. What other kinds than text hold is decoded where the kind says what it is."""

    type: str
    text: str | None = None
    content: Raw | UnsetType = UNSET  # of a tool's result
    input: Raw | UnsetType = UNSET  # of a tool's call


class _Message(msgspec.Struct, gc=False):
    """One turn."""

    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct, gc=False):
    """An offered tool. Those of Anthropic's own have a type too; sets of tools have only that."""

    name: str | None = None
    type: str | None = None


class _Turn(msgspec.Struct, gc=False):
    """The content of one message."""

    parts: Passage
    media: int  # blocks that the model will look at: neither text nor a tool's result, also inside one
    chars: int
    results: bool = False  # whether it has the result of a tool

    @property
    def text(self) -> str:
        """The turn's own text."""
        return self.parts[0] if len(self.parts) == 1 else "\n".join(self.parts)


_MESSAGES_API = Shape(
    "model", "messages", "max_tokens", "system", "tools", "stream", "thinking", "output_config"
)
_THINKING = Shape("type", "budget_tokens")
_OUTPUT_CONFIG = Shape("effort")
_MESSAGES = msgspec.json.Decoder(list[_Message])
_TOOLS: msgspec.json.Decoder[list[_Tool] | None] = msgspec.json.Decoder(list[_Tool] | None)
_SYSTEM: msgspec.json.Decoder[_ResultContent] = msgspec.json.Decoder(_ResultContent)
_RESULT: msgspec.json.Decoder[_ResultContent] = msgspec.json.Decoder(_ResultContent)
_STRING: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)

_LEAST_BUDGET = 1024  # tokens; the API takes no smaller one, and only below max_tokens


def parse_messages(body: bytes) -> ChatRequest:
    """See ``apis.parse``.

    The user's turn is the latest one with text of its own. Results of tools are user messages too, but ask
    nothing new. Media count from that turn on, because the model uses all of them for its answer.
    """
    document = Document(body)
    members = document.members(_MESSAGES_API)
    model = json_bodies.model_name(members)
    messages = json_bodies.required(members, "messages", _MESSAGES)
    json_bodies.require_some(messages, "messages", "message")
    max_tokens = json_bodies.whole_number(members, "max_tokens")
    if max_tokens is None:
        raise BadRequest("'max_tokens' is required.", param="max_tokens")
    turns = [_turn(number, message) for number, message in enumerate(messages)]
    users = [turn for turn, message in zip(turns, messages, strict=True) if message.role == "user"]
    asked = _asked(users)
    asks = messages[-1].role == "user" and not turns[-1].results
    system = json_bodies.optional(members, "system", _SYSTEM)
    tools = json_bodies.optional(members, "tools", _TOOLS) or []
    json_bodies.require_few_tools(len(tools))
    thinking = document.nested(_THINKING, members, "thinking")
    json_bodies.optional(thinking, "type", _STRING, "thinking")
    json_bodies.whole_number(thinking, "budget_tokens", "thinking")
    document.nested(_OUTPUT_CONFIG, members, "output_config")
    return ChatRequest(
        api=Api.ANTHROPIC_MESSAGES,
        model=model,
        spans=document.spans,
        user_text=asked[0].text if asked else "",
        body_bytes=len(body),
        user_parts=asked[0].parts if asked else (),
        user_turns=in_runs((m.role == "user", turn.parts) for m, turn in zip(messages, turns, strict=True)),
        tools=tuple(filter(None, (tool.name or tool.type for tool in tools))),
        images=sum(turn.media for turn in asked),
        messages=len(messages),
        stream=json_bodies.flag(members, "stream"),
        prompt_chars=sum(turn.chars for turn in turns) + _chars(system) + len(members.get("tools", b"")),
        max_tokens=max_tokens,
        earlier=earlier_turns(turn.text for turn in reversed(users[:-1])) if asks else (),
    )


def _asked(turns: Sequence[_Turn]) -> Sequence[_Turn]:
    """The latest of the user's turns that has text, and those from there on."""
    latest = next((i for i in reversed(range(len(turns))) if turns[i].parts), len(turns) - 1)
    return turns[max(latest, 0) :]


def _turn(number: int, message: _Message) -> _Turn:
    if isinstance(message.content, str):
        return _Turn((message.content,) if message.content else (), 0, len(message.content))
    texts, media, chars, results = [], 0, 0, False
    for place, block in enumerate(message.content):
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "tool_result":
            results = True
            if block.content is not UNSET:
                result = json_bodies.decode(
                    _RESULT, block.content, "messages", number, "content", place, "content"
                )
                chars += _chars(result)
                media += _media(result)
        else:
            media += 1
            chars += 0 if block.input is UNSET else len(block.input)
    return _Turn(tuple(filter(None, texts)), media, chars + sum(map(len, texts)), results)


def _chars(content: _ResultContent) -> int:
    if isinstance(content, str):
        return len(content)
    return sum(len(block.text) for block in content or () if block.text)


def _media(content: _ResultContent) -> int:
    return (
        0 if content is None or isinstance(content, str) else sum(block.type != "text" for block in content)
    )


def messages_edits(policy: BodyPolicy, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    """The edits for ``policy``, except the model's name. Streams of this API always report the usage.

    The effort is set as ``output_config.effort``, for models with adaptive thinking. Older models have only
    token budgets and do not accept it.
    """
    if policy.max_tokens is not None:
        yield from capped(body, request, ("max_tokens",), policy.max_tokens)
    if policy.reasoning is not None:
        yield from _effort(policy.reasoning, body, request)
    elif policy.max_tokens is not None:
        yield from _budget(policy.max_tokens, body, request)


def _effort(effort: Effort, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    kind = "disabled" if effort is Effort.NONE else "adaptive"
    if given(body, request, "thinking.type") != kind:
        yield Edit("thinking", {"type": kind})
    if effort is not Effort.NONE:
        yield Edit("output_config.effort", effort)


def _budget(limit: int, body: bytes, request: ChatRequest) -> Iterator[Edit]:
    """Keep the client's thinking budget below a lowered limit, or the API rejects the request."""
    budget = given(body, request, "thinking.budget_tokens")
    lowered = request.max_tokens is not None and request.max_tokens > limit
    if not lowered or not isinstance(budget, int | float) or budget < limit:
        return
    if limit > _LEAST_BUDGET:
        yield Edit("thinking.budget_tokens", max(_LEAST_BUDGET, limit // 2))  # leaves the rest to the answer
    else:
        yield Edit("thinking", {"type": "disabled"})


# --- Errors -------------------------------------------------------------------------------------


class _Error(msgspec.Struct):
    type: str
    message: str


class _ErrorBody(msgspec.Struct, tag_field="type", tag="error"):
    error: _Error


_KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(status: int, message: str, code: str | None, param: str | None) -> bytes:
    """See ``apis.error_body``. The shape has no place for ``code`` and ``param``; the message says both."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode(_ErrorBody(_Error(kind, message)))
