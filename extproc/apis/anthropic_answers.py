"""Reads answers of Anthropic's messages: documents and events, as far as gates need them.

https://docs.anthropic.com/en/api/messages and /en/api/messages-streaming.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from extproc.apis.model_answer import Draft, Finish


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    name: str | None = None
    input: Raw = Raw(b"{}")


class _Usage(msgspec.Struct):
    output_tokens: int | None = None


class _Message(msgspec.Struct):
    type: str = ""
    content: list[_Block] = []
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    """What an event adds to a block or, without a type, to the message."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)
_FINISHES: Final[Mapping[str, Finish]] = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "tool_use": Finish.TOOL_CALLS,
    "refusal": Finish.REFUSAL,
}


def add_message(draft: Draft, data: bytes) -> None:
    """Adds a complete answer. Raises msgspec's errors."""
    message = _MESSAGE.decode(data)
    draft.failed |= message.type == "error"
    draft.done = True
    for index, block in enumerate(message.content):
        if block.type == "text":
            draft.text.add(block.text)
        elif block.type == "tool_use":
            draft.call(index, block.name, bytes(block.input).decode())
    _stop(draft, message.stop_reason)
    _count(draft, message.usage)


def add_event(draft: Draft, data: bytes) -> None:
    """Adds one event. Raises msgspec's errors."""
    event = _EVENT.decode(data)
    if event.type == "content_block_start" and event.content_block is not None:
        block = event.content_block
        if block.type == "text":
            draft.text.add(block.text)
        elif block.type == "tool_use":
            draft.call(event.index, block.name)
    elif event.type == "content_block_delta" and event.delta is not None:
        if event.delta.type == "text_delta":
            draft.text.add(event.delta.text)
        elif event.delta.type == "input_json_delta":
            draft.add_arguments(event.index, event.delta.partial_json)
    elif event.type == "message_delta" and event.delta is not None:
        _stop(draft, event.delta.stop_reason)
        _count(draft, event.usage)
    elif event.type == "message_stop":
        draft.done = True
    elif event.type == "error":
        draft.failed = True


def _stop(draft: Draft, reason: str | None) -> None:
    if reason:
        draft.finish = _FINISHES.get(reason, Finish.UNKNOWN)
        draft.done = True


def _count(draft: Draft, usage: _Usage | None) -> None:
    if usage is not None and usage.output_tokens is not None:
        draft.output_tokens = usage.output_tokens
