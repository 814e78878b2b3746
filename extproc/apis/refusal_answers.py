"""An answer in which the model seems to refuse, in the shape of each API: no model was asked.

Clients that show a refusal as any other answer show this one. Chat completions have ``refusal`` and the
finish reason ``content_filter``; completions have only the latter; responses have a part of type ``refusal``;
Anthropic's messages have the stop reason ``refusal``. Shapes are those of the APIs' references.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from extproc.vocabulary import Api

_FILTERED = "content_filter"
_Json = Mapping[str, Any]


class RefusalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer says of itself."""

    api: Api
    model: str  # as the client named it
    name: str  # a part of the answer's id
    created: int  # seconds since the epoch
    text: str
    with_usage: bool = False  # whether a stream of chat completions or completions reports its usage

    def document(self) -> bytes:
        """The answer as one JSON document."""
        return msgspec.json.encode(_DOCUMENTS[self.api](self))

    def stream(self) -> bytes:
        """The answer as server-sent events."""
        events = b"".join(map(_event, _STREAMS[self.api](self)))
        return events + (b"data: [DONE]\n\n" if self.api in _DONE else b"")


_DONE = (Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS)


def _event(data: _Json) -> bytes:
    name = b"event: %b\n" % data["type"].encode() if "type" in data else b""
    return b"%bdata: %b\n\n" % (name, msgspec.json.encode(data))


# --- Chat completions and completions ------------------------------------------------------------

_NO_TOKENS: _Json = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _head(answer: RefusalAnswer, kind: str) -> dict[str, Any]:
    beginning = "chatcmpl" if answer.api is Api.OPENAI_CHAT else "cmpl"
    return {
        "id": f"{beginning}-{answer.name}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
    }


def _chat(answer: RefusalAnswer) -> _Json:
    message = {"role": "assistant", "content": None, "refusal": answer.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FILTERED}
    return {**_head(answer, "chat.completion"), "choices": [choice], "usage": _NO_TOKENS}


def _chat_events(answer: RefusalAnswer) -> Iterator[_Json]:
    head = _head(answer, "chat.completion.chunk")
    for delta, finish in (
        ({"role": "assistant", "content": None, "refusal": ""}, None),
        ({"refusal": answer.text}, None),
        ({}, _FILTERED),
    ):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        yield {**head, "choices": [choice]}
    if answer.with_usage:
        yield {**head, "choices": [], "usage": _NO_TOKENS}


def _completion(answer: RefusalAnswer) -> _Json:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": _FILTERED}
    return {**_head(answer, "text_completion"), "choices": [choice], "usage": _NO_TOKENS}


def _completion_events(answer: RefusalAnswer) -> Iterator[_Json]:
    head = _head(answer, "text_completion")
    for text, finish in ((answer.text, None), ("", _FILTERED)):
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        yield {**head, "choices": [choice]}
    if answer.with_usage:
        yield {**head, "choices": [], "usage": _NO_TOKENS}


# --- Responses -----------------------------------------------------------------------------------


def _response(answer: RefusalAnswer, *, status: str = "completed", output: tuple[_Json, ...] = ()) -> _Json:
    ended = status == "completed"
    usage = {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
    return {
        "id": f"resp_{answer.name}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": usage if ended else None,
    }


def _item(answer: RefusalAnswer, text: str | None) -> _Json:
    content = [] if text is None else [{"type": "refusal", "refusal": text}]
    status = "in_progress" if text is None else "completed"
    return {
        "id": f"msg_{answer.name}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _whole_response(answer: RefusalAnswer) -> _Json:
    return _response(answer, output=(_item(answer, answer.text),))


def _response_events(answer: RefusalAnswer) -> Iterator[_Json]:
    at = {"item_id": f"msg_{answer.name}", "output_index": 0, "content_index": 0}
    part = {"type": "refusal", "refusal": answer.text}
    begun = _response(answer, status="in_progress")
    events: tuple[tuple[str, _Json], ...] = (
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"output_index": 0, "item": _item(answer, None)}),
        ("content_part.added", {**at, "part": {"type": "refusal", "refusal": ""}}),
        ("refusal.delta", {**at, "delta": answer.text}),
        ("refusal.done", {**at, "refusal": answer.text}),
        ("content_part.done", {**at, "part": part}),
        ("output_item.done", {"output_index": 0, "item": _item(answer, answer.text)}),
        ("completed", {"response": _whole_response(answer)}),
    )
    for number, (name, data) in enumerate(events):
        yield {"type": f"response.{name}", "sequence_number": number, **data}


# --- Messages ------------------------------------------------------------------------------------


def _message(answer: RefusalAnswer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.name}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": "refusal",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _message_events(answer: RefusalAnswer) -> Iterator[_Json]:
    begun = {**_message(answer), "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": begun}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "text_delta", "text": answer.text}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    ended = {"stop_reason": "refusal", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 0}}
    yield {"type": "message_stop"}


_DOCUMENTS = {
    Api.OPENAI_CHAT: _chat,
    Api.OPENAI_COMPLETIONS: _completion,
    Api.OPENAI_RESPONSES: _whole_response,
    Api.ANTHROPIC_MESSAGES: _message,
}
_STREAMS = {
    Api.OPENAI_CHAT: _chat_events,
    Api.OPENAI_COMPLETIONS: _completion_events,
    Api.OPENAI_RESPONSES: _response_events,
    Api.ANTHROPIC_MESSAGES: _message_events,
}
