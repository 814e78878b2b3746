"""Reads answers of OpenAI's responses: documents and events, as far as gates need them.

https://platform.openai.com/docs/api-reference/responses/object and /responses-streaming.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc.apis.model_answer import Draft, Finish


class _Token(msgspec.Struct):
    logprob: float | None = None


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    logprobs: list[_Token] | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: Raw | UnsetType = UNSET  # of a message; other kinds have other values by that name
    name: str | None = None
    arguments: Raw | UnsetType = UNSET  # JSON text of a function call
    input: str | None = None  # of a custom tool call


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Usage(msgspec.Struct):
    output_tokens: int | None = None


class _Response(msgspec.Struct):
    status: str | None = None
    output: list[_Item] = []
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    error: Raw | UnsetType = UNSET


class _Event(msgspec.Struct):
    type: str
    output_index: int = 0
    item: _Item | None = None
    delta: Raw | UnsetType = UNSET  # text, in the kinds of events that are read here
    logprobs: list[_Token] | None = None
    response: _Response | None = None


_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)
_PARTS: msgspec.json.Decoder[list[_Part] | None] = msgspec.json.Decoder(list[_Part] | None)
_STRING: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)

_CALLS: Final = frozenset({"function_call", "custom_tool_call"})
_ARGUMENTS: Final = frozenset(
    {"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"}
)
_LAST: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_CUT: Final = {"max_output_tokens": Finish.LENGTH, "content_filter": Finish.CONTENT_FILTER}


def add_response(draft: Draft, data: bytes) -> None:
    """Adds a complete answer. Raises msgspec's errors."""
    response = _RESPONSE.decode(data)
    for index, item in enumerate(response.output):
        if item.type == "message" and item.content is not UNSET:
            for part in _PARTS.decode(item.content) or ():
                draft.text.add(part.text if part.type == "output_text" else None)
                draft.refusal.add(part.refusal if part.type == "refusal" else None)
                _rate(draft, part.logprobs)
        elif item.type in _CALLS:
            draft.call(index, item.name, _arguments(item))
    _end(draft, response)


def add_event(draft: Draft, data: bytes) -> None:
    """Adds one event. Raises msgspec's errors.

    The last event repeats the complete answer. Only how it ended is read from it.
    """
    event = _EVENT.decode(data)
    if event.type == "response.output_text.delta":
        draft.text.add(_text(event.delta))
        _rate(draft, event.logprobs)
    elif event.type == "response.refusal.delta":
        draft.refusal.add(_text(event.delta))
    elif event.type == "response.output_item.added" and event.item is not None:
        if event.item.type in _CALLS:
            draft.call(event.output_index, event.item.name)
    elif event.type in _ARGUMENTS:
        draft.add_arguments(event.output_index, _text(event.delta))
    elif event.type in _LAST and event.response is not None:
        _end(draft, event.response)
    elif event.type == "error":
        draft.failed = True


def _end(draft: Draft, response: _Response) -> None:
    draft.done = True
    draft.failed |= response.status == "failed"
    draft.failed |= response.error is not UNSET and bytes(response.error) != b"null"
    if response.usage is not None and response.usage.output_tokens is not None:
        draft.output_tokens = response.usage.output_tokens
    if response.incomplete_details is not None:
        draft.finish = _CUT.get(response.incomplete_details.reason or "", Finish.UNKNOWN)
    elif response.status == "completed":
        draft.finish = Finish.TOOL_CALLS if draft.calls_tools else Finish.STOP


def _arguments(item: _Item) -> str | None:
    return item.input if item.arguments is UNSET else _STRING.decode(item.arguments)


def _text(raw: Raw | UnsetType) -> str | None:
    return None if raw is UNSET else _STRING.decode(raw)


def _rate(draft: Draft, tokens: list[_Token] | None) -> None:
    for token in tokens or ():
        draft.logprob(token.logprob)
