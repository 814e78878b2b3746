"""The server side of Anthropic's messages API: ``/v1/messages``.

Pure: it checks requests and creates answers. Shapes follow the API reference: the ``message`` object, the
events from ``message_start`` to ``message_stop``, and the errors with their type by status. It supports the
two versions of the API (platform.claude.com/docs/en/api/versioning) that clients use.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from extproc.demo.fake_answers import ApiError, Ask, FakeAnswer, Identity, JsonObject, decode, words_in

_VERSIONS = ("2023-06-01", "2026-10-21")
_REMOVED = ("temperature", "top_k", "top_p")  # by the second of them

_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_object(error: ApiError, request_id: str) -> JsonObject:
    """The API's error object."""
    kind = _KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def event(data: JsonObject) -> bytes:
    """One server-sent event, named by its type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), msgspec.json.encode(data))


class _Text(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class _Base64(msgspec.Struct, frozen=True, tag_field="type", tag="base64"):
    media_type: str
    data: str


class _Url(msgspec.Struct, frozen=True, tag_field="type", tag="url"):
    url: str


class _Image(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    source: _Base64 | _Url


class _Document(msgspec.Struct, frozen=True, tag_field="type", tag="document"):
    source: JsonObject


class _ToolUse(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: JsonObject


class _ToolResult(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[_Text | _Image | _Document] = ""
    is_error: bool = False


class _Thinking(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class _Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant"]
    content: str | list[_Text | _Image | _Document | _ToolUse | _ToolResult | _Thinking]


class _Tool(msgspec.Struct, frozen=True):
    name: str
    type: str = "custom"
    input_schema: JsonObject | None = None


class _ToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str = ""


class _ThinkingConfig(msgspec.Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class _Format(msgspec.Struct, frozen=True):
    type: Literal["json_schema"]
    schema: JsonObject


class _OutputConfig(msgspec.Struct, frozen=True):
    format: _Format | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All allowed fields. Those below the line are ignored."""

    model: str
    max_tokens: Annotated[int, msgspec.Meta(ge=0)]
    messages: list[_Message]
    system: str | list[_Text] = ""
    stream: bool = False
    tools: list[_Tool] = []
    tool_choice: _ToolChoice = _ToolChoice()
    thinking: _ThinkingConfig | None = None
    output_config: _OutputConfig | None = None
    # ---
    cache_control: Any = None
    container: Any = None
    inference_geo: Any = None
    metadata: Any = None
    service_tier: Any = None
    stop_sequences: Any = None
    temperature: Any = None
    top_k: Any = None
    top_p: Any = None


def parse(body: bytes, headers: Mapping[str, str]) -> Ask:
    """The request in ``body``. Raises ApiError (400) for an invalid request, as the API does."""
    version = _version(headers)
    asked: _Body = decode(body, _Body)
    if version == _VERSIONS[-1]:
        _refuse_removed(asked)
    if not asked.messages:
        raise ApiError(400, "messages: at least one message is required")
    _check_tools(asked)
    _check_thinking(asked)
    _check_results(asked.messages)
    questions = [text for m in asked.messages if m.role == "user" and (text := _text(m.content))]
    latest = asked.messages[-1].content
    choice = asked.tool_choice
    return Ask(
        model=asked.model,
        question=questions[-1] if questions else "",
        prompt_tokens=words_in(_text(asked.system), *(_text(message.content) for message in asked.messages)),
        limit=asked.max_tokens,
        stream=asked.stream,
        tools={tool.name: tool.input_schema or {} for tool in asked.tools},
        called=_called(asked.messages),
        tool_choice={"any": "required", "tool": choice.name}.get(choice.type, choice.type),
        schema=_wanted_schema(asked.output_config),
        asks=isinstance(latest, str) or not any(isinstance(block, _ToolResult) for block in latest),
    )


def _version(headers: Mapping[str, str]) -> str:
    version = headers.get("anthropic-version")
    if version is None:
        raise ApiError(400, "anthropic-version: header is required")
    if version not in _VERSIONS:
        raise ApiError(400, f'anthropic-version: "{version}" is not a valid version')
    return version


def _refuse_removed(asked: _Body) -> None:
    for name in _REMOVED:
        if getattr(asked, name) is not None:
            raise ApiError(400, f"{name}: not supported in API version {_VERSIONS[-1]}")


def _check_tools(asked: _Body) -> None:
    for number, tool in enumerate(asked.tools):
        if tool.type == "custom" and tool.input_schema is None:
            raise ApiError(400, f"tools.{number}.custom.input_schema: Field required")


def _check_thinking(asked: _Body) -> None:
    thinking = asked.thinking
    if thinking is None or thinking.type != "enabled":
        return
    if thinking.budget_tokens is None or thinking.budget_tokens < 1024:
        raise ApiError(400, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    if thinking.budget_tokens >= asked.max_tokens:
        raise ApiError(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")


def _check_results(messages: list[_Message]) -> None:
    called: set[str] = set()
    for message in messages:
        for block in message.content if isinstance(message.content, list) else ():
            if isinstance(block, _ToolUse):
                called.add(block.id)
            elif isinstance(block, _ToolResult) and block.tool_use_id not in called:
                raise ApiError(
                    400,
                    f"messages: unexpected `tool_use_id` found in `tool_result` blocks: {block.tool_use_id}",
                )


def _called(messages: list[_Message]) -> frozenset[str]:
    blocks = [block for message in messages if isinstance(message.content, list) for block in message.content]
    return frozenset(block.name for block in blocks if isinstance(block, _ToolUse))


def _wanted_schema(config: _OutputConfig | None) -> JsonObject | None:
    return config.format.schema if config is not None and config.format is not None else None


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(block.text for block in blocks if isinstance(block, _Text))


def document(identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool) -> JsonObject:
    """The ``message`` object of a plain answer."""
    block = {"type": "text", "text": answer.text}
    if answer.tool:
        block = _tool_use(identity, answer) | {"input": answer.arguments}
    finished = _message(identity, [block], _FINISH[answer.finish])
    return finished | (_usage(answer, answer.completion_tokens) if with_usage else {})


def events(identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool) -> Iterator[JsonObject]:
    """The events of a streamed answer, in order.

    As in the real API, the first reports the input tokens, and the last but one the output tokens.
    """
    started = _message(identity, [], None) | (_usage(answer, 1) if with_usage else {})
    yield {"type": "message_start", "message": started}
    empty = _tool_use(identity, answer) if answer.tool else {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": empty}
    yield {"type": "ping"}
    for delta in _deltas(answer):
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    usage = {"usage": {"output_tokens": answer.completion_tokens}} if with_usage else {}
    delta = {"stop_reason": _FINISH[answer.finish], "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, **usage}
    yield {"type": "message_stop"}


def _deltas(answer: FakeAnswer) -> Iterator[JsonObject]:
    if answer.tool:
        yield {"type": "input_json_delta", "partial_json": ""}
        yield {"type": "input_json_delta", "partial_json": answer.encoded_arguments}
    yield from ({"type": "text_delta", "text": word} for word in answer.words)


def _message(identity: Identity, content: list[JsonObject], stop_reason: str | None) -> JsonObject:
    return {
        "id": f"msg_{identity.token[:24]}",
        "type": "message",
        "role": "assistant",
        "model": identity.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }


def _usage(answer: FakeAnswer, output_tokens: int) -> JsonObject:
    return {
        "usage": {
            "input_tokens": answer.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }
    }


def _tool_use(identity: Identity, answer: FakeAnswer) -> JsonObject:
    return {"type": "tool_use", "id": f"toolu_{identity.token[:24]}", "name": answer.tool, "input": {}}
