"""The server side of OpenAI's responses API: ``/v1/responses``.

Pure: it checks requests and creates answers. Shapes follow the API reference: the ``response`` object and the
events from ``response.created`` to ``response.completed``. Nothing is stored.
"""

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


class _InputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    text: str


class _OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str


class _InputImage(msgspec.Struct, frozen=True, tag_field="type", tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None


class _InputFile(msgspec.Struct, frozen=True, tag_field="type", tag="input_file"):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None


class _Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


_Content = str | list[_InputText | _OutputText | _InputImage | _InputFile | _Refusal] | None


class _Item(msgspec.Struct, frozen=True):
    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: _Content = None
    call_id: str | None = None
    name: str | None = None
    output: _Content = None


class _Tool(msgspec.Struct, frozen=True):
    type: str
    name: str = ""
    parameters: JsonObject | None = None


class _Format(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    schema: JsonObject | None = None


class _TextConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: _Format = _Format()
    verbosity: Any = None


class _Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All fields that may be given; those below the line are accepted and ignored."""

    model: str
    input: str | list[_Item]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=16)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: Any = "auto"
    reasoning: _Reasoning | None = None
    previous_response_id: str | None = None
    text: _TextConfig | None = None
    # ---
    background: Any = None
    include: Any = None
    max_tool_calls: Any = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    stream_options: Any = None
    temperature: Any = None
    top_logprobs: Any = None
    top_p: Any = None
    truncation: Any = None
    user: Any = None


def parse(body: bytes) -> Ask:
    """The request in ``body``. Raises ApiError (400) as the API does for what it cannot use."""
    asked: _Body = decode(body, _Body)
    if asked.previous_response_id is not None:
        raise ApiError(
            400,
            f"Previous response with id '{asked.previous_response_id}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    items = [_Item(role="user", content=asked.input)] if isinstance(asked.input, str) else asked.input
    if not items:
        raise ApiError(400, "Invalid 'input': empty array.", param="input", code="empty_array")
    for number, item in enumerate(items):
        _require_whole(item, number)
    questions = [_text(item.content) for item in items if item.role == "user"]
    return Ask(
        model=asked.model,
        question=questions[-1] if questions else "",
        prompt_tokens=words_in(
            asked.instructions or "", *(_text(item.content) + " " + _text(item.output) for item in items)
        ),
        limit=asked.max_output_tokens,
        stream=bool(asked.stream),
        tools={tool.name: tool.parameters or {} for tool in asked.tools or () if tool.type == "function"},
        called=frozenset(item.name for item in items if item.name is not None),
        tool_choice=_tool_choice(asked.tool_choice),
        schema=_wanted_schema(asked.text),
        asks=items[-1].role == "user",
    )


def _require_whole(item: _Item, number: int) -> None:
    missing = {
        "message": item.role is None or item.content is None,
        "function_call_output": item.call_id is None or item.output is None,
        "function_call": item.call_id is None,
    }
    if missing.get(item.type, False):
        raise ApiError(
            400,
            f"Missing required parameter in 'input[{number}]', a {item.type}.",
            param=f"input[{number}]",
            code="missing_required_parameter",
        )


def _text(content: _Content) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content if isinstance(part, _InputText | _OutputText))


def _wanted_schema(text: _TextConfig | None) -> JsonObject | None:
    return None if text is None or text.format.type == "text" else text.format.schema or ANY_OBJECT


def _tool_choice(choice: object) -> str:
    match choice:
        case {"type": "function", "name": str(name)} | str(name):
            return name
    return "auto"


def document(identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool) -> JsonObject:
    """The ``response`` object of a finished answer."""
    cut = answer.finish == "length"
    usage = {"usage": _usage(answer)} if with_usage else {}
    return {
        **_response(identity, ask),
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [_output(identity, answer, finished=True)],
        **usage,
    }


def events(identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool) -> Iterator[JsonObject]:
    """The events of a streamed answer, in order. The last one carries the whole response, with its usage."""
    for number, data in enumerate(_unnumbered(identity, ask, answer, with_usage=with_usage)):
        yield data | {"sequence_number": number}


def event(data: JsonObject) -> bytes:
    """One server-sent event, named by its type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), msgspec.json.encode(data))


def _unnumbered(
    identity: Identity, ask: Ask, answer: FakeAnswer, *, with_usage: bool
) -> Iterator[JsonObject]:
    started = _response(identity, ask)
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    yield {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": _output(identity, answer, finished=False),
    }
    yield from _call_events(identity, answer) if answer.tool else _text_events(identity, answer)
    item = _output(identity, answer, finished=True)
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    whole = document(identity, ask, answer, with_usage=with_usage)
    yield {"type": f"response.{whole['status']}", "response": whole}


def _text_events(identity: Identity, answer: FakeAnswer) -> Iterator[JsonObject]:
    place = {"item_id": _item_id(identity, answer), "output_index": 0, "content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": _output_text("")}
    for word in answer.words:
        yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": answer.text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": _output_text(answer.text)}


def _call_events(identity: Identity, answer: FakeAnswer) -> Iterator[JsonObject]:
    place = {"item_id": f"fc_{identity.token}", "output_index": 0}
    yield {"type": "response.function_call_arguments.delta", **place, "delta": answer.encoded_arguments}
    yield {"type": "response.function_call_arguments.done", **place, "arguments": answer.encoded_arguments}


def _response(identity: Identity, ask: Ask) -> JsonObject:
    return {
        "id": f"resp_{identity.token}",
        "object": "response",
        "created_at": identity.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": ask.limit,
        "metadata": {},
        "model": identity.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
    }


def _output(identity: Identity, answer: FakeAnswer, *, finished: bool) -> JsonObject:
    status = "in_progress"
    if finished:
        status = "incomplete" if answer.finish == "length" else "completed"
    item: JsonObject = {"id": _item_id(identity, answer), "status": status}
    if answer.tool:
        call_id = f"call_{identity.token[:24]}"
        arguments = answer.encoded_arguments if finished else ""
        return item | {
            "type": "function_call",
            "call_id": call_id,
            "name": answer.tool,
            "arguments": arguments,
        }
    content = [_output_text(answer.text)] if finished else []
    return item | {"type": "message", "role": "assistant", "content": content}


def _item_id(identity: Identity, answer: FakeAnswer) -> str:
    return f"{'fc' if answer.tool else 'msg'}_{identity.token}"


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(answer: FakeAnswer) -> JsonObject:
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
