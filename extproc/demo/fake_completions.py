"""The server side of OpenAI's chat completions and completions.

Pure: it checks requests and creates answers. Shapes follow the API reference (``/v1/chat/completions`` and
``/v1/completions``, objects ``chat.completion``, ``chat.completion.chunk`` and ``text_completion``) and the
error objects of api.openai.com.
"""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from extproc.demo.fake_answers import (
    ANY_OBJECT,
    ApiError,
    Ask,
    FakeAnswer,
    Identity,
    JsonObject,
    decode,
    words_in,
)

_DEFAULT_LIMIT = 16  # tokens of a completion without a limit; chats have no default limit

_FINISH = {"stop": "stop", "length": "length", "tool": "tool_calls"}

_Limit = Annotated[int, msgspec.Meta(ge=1)] | None


def error_object(error: ApiError) -> JsonObject:
    """The error object of every OpenAI API."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def event(data: JsonObject) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


# --- Chat completions ---------------------------------------------------------------------------


class _Text(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class _ImageUrl(msgspec.Struct, frozen=True):
    url: str


class _Image(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    image_url: _ImageUrl


class _Audio(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    input_audio: JsonObject


class _File(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    file: JsonObject


class _Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


class _CalledFunction(msgspec.Struct, frozen=True):
    name: str


class _Call(msgspec.Struct, frozen=True):
    function: _CalledFunction


class _Message(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Text | _Image | _Audio | _File | _Refusal] | None = None
    tool_calls: list[_Call] | None = None

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if isinstance(part, _Text))


class _Function(msgspec.Struct, frozen=True):
    name: str
    parameters: JsonObject | None = None


class _Tool(msgspec.Struct, frozen=True):
    function: _Function
    type: Literal["function"] = "function"


class _NamedSchema(msgspec.Struct, frozen=True):
    name: str
    schema: JsonObject | None = None


class _ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None


class _ChatBody(msgspec.Struct, frozen=True):
    """The fields that a fake model uses. It ignores others, as many servers do."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    tool_choice: Any = "auto"
    response_format: _ResponseFormat | None = None
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


def parse_chat(body: bytes) -> Ask:
    """The request in ``body``. Raises ApiError (400) for an invalid request, as the API does."""
    chat: _ChatBody = decode(body, _ChatBody)
    if not chat.messages:
        raise ApiError(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    if chat.max_tokens is not None and chat.max_completion_tokens is not None:
        raise ApiError(
            400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        )
    asked = [message.text for message in chat.messages if message.role == "user"]
    return Ask(
        model=chat.model,
        question=asked[-1] if asked else "",
        prompt_tokens=words_in(*(message.text for message in chat.messages)),
        limit=chat.max_completion_tokens or chat.max_tokens,
        stream=bool(chat.stream),
        include_usage=_wants_usage(chat.stream, chat.stream_options),
        tools={tool.function.name: tool.function.parameters or {} for tool in chat.tools or ()},
        called=frozenset(call.function.name for m in chat.messages for call in m.tool_calls or ()),
        tool_choice=_tool_choice(chat.tool_choice),
        schema=_wanted_schema(chat.response_format),
        asks=chat.messages[-1].role == "user",
    )


def _wants_usage(stream: bool | None, options: _StreamOptions | None) -> bool:
    if options is None:
        return False
    if not stream:
        raise ApiError(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    return options.include_usage


def _wanted_schema(wanted: _ResponseFormat | None) -> JsonObject | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise ApiError(
            400,
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    return wanted.json_schema.schema or ANY_OBJECT


def _tool_choice(choice: object) -> str:
    match choice:
        case {"function": {"name": str(name)}} | str(name):
            return name
    return "auto"


def chat_document(identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool) -> JsonObject:
    """The ``chat.completion`` object of a plain answer."""
    message: JsonObject = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool:
        message["tool_calls"] = [_tool_call(identity, answer.tool, arguments=answer.encoded_arguments)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[answer.finish]}
    usage = {"usage": _usage(ask, answer)} if with_usage else {}
    return {**_chat_head(identity, "chat.completion"), "choices": [choice], **usage}


def chat_events(
    identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool
) -> Iterator[JsonObject]:
    """The ``chat.completion.chunk`` objects of a streamed answer, in order.

    With usage, a last chunk without choices carries it, and every chunk before has ``"usage": null``.
    """
    usage: JsonObject = {"usage": None} if with_usage else {}

    def chunk(choices: list[JsonObject]) -> JsonObject:
        return {**_chat_head(identity, "chat.completion.chunk"), "choices": choices, **usage}

    for delta in _deltas(identity, answer):
        yield chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])
    yield chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": _FINISH[answer.finish]}])
    if with_usage:
        yield chunk([]) | {"usage": _usage(ask, answer)}


def _chat_head(identity: Identity, kind: str) -> JsonObject:
    return {
        "id": f"chatcmpl-{identity.token[:29]}",
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        # The same for all answers of a model, as between two deployments of a real server.
        "system_fingerprint": "fp_" + hashlib.sha256(identity.model.encode()).hexdigest()[:10],
    }


def _usage(ask: Ask, answer: FakeAnswer) -> JsonObject:
    completion_tokens = answer.completion_tokens * ask.choices
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": answer.prompt_tokens + completion_tokens,
    }


def _tool_call(identity: Identity, name: str, *, arguments: str) -> JsonObject:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{identity.token[:24]}", "type": "function", "function": function}


def _deltas(identity: Identity, answer: FakeAnswer) -> Iterator[JsonObject]:
    """Role first, then the content or the tool call's name before its arguments."""
    role = {"role": "assistant", "content": None if answer.tool else "", "refusal": None}
    if not answer.tool:
        yield role
        yield from ({"content": word} for word in answer.words)
        return
    yield role | {"tool_calls": [{"index": 0, **_tool_call(identity, answer.tool, arguments="")}]}
    yield {"tool_calls": [{"index": 0, "function": {"arguments": answer.encoded_arguments}}]}


# --- Completions --------------------------------------------------------------------------------


class _TextBody(msgspec.Struct, frozen=True):
    """The fields that a fake model uses."""

    model: str
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Limit = None


def parse_text(body: bytes) -> Ask:
    """See ``parse_chat``. A prompt may be text, tokens, or several of either; each gets an answer."""
    asked: _TextBody = decode(body, _TextBody)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not prompts:
        raise ApiError(400, "Invalid 'prompt': empty array.", param="prompt", code="empty_array")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    tokens = sum(1 if isinstance(p, int) else len(p) for p in prompts if not isinstance(p, str))
    several = not isinstance(prompts[0], int)
    return Ask(
        model=asked.model,
        question=texts[-1] if texts else "",
        prompt_tokens=words_in(*texts) + tokens,
        limit=asked.max_tokens or _DEFAULT_LIMIT,
        stream=bool(asked.stream),
        include_usage=_wants_usage(asked.stream, asked.stream_options),
        choices=len(prompts) if several else 1,
    )


def text_document(identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool) -> JsonObject:
    """The ``text_completion`` object of a plain answer."""
    choices = [_text_choice(index, answer.text, answer.finish) for index in range(ask.choices)]
    usage = {"usage": _usage(ask, answer)} if with_usage else {}
    return {**_text_head(identity), "choices": choices, **usage}


def text_events(
    identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool
) -> Iterator[JsonObject]:
    """The ``text_completion`` chunks of a streamed answer; usage as in ``chat_events``."""
    usage: JsonObject = {"usage": None} if with_usage else {}
    for index in range(ask.choices):
        for word in answer.words:
            yield {**_text_head(identity), "choices": [_text_choice(index, word, None)], **usage}
        yield {**_text_head(identity), "choices": [_text_choice(index, "", answer.finish)], **usage}
    if with_usage:
        yield {**_text_head(identity), "choices": [], "usage": _usage(ask, answer)}


def _text_head(identity: Identity) -> JsonObject:
    return {
        "id": f"cmpl-{identity.token[:29]}",
        "object": "text_completion",
        "created": identity.created,
        "model": identity.model,
    }


def _text_choice(index: int, text: str, finish: str | None) -> JsonObject:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
