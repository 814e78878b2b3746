"""Reads answers of OpenAI's chat completions and completions, as far as gates need them.

Only the first of several choices is read. https://platform.openai.com/docs/api-reference/chat/object.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc.apis.model_answer import Draft, Finish


class _Part(msgspec.Struct):
    text: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None
    input: str | None = None  # of a custom tool


class _Call(msgspec.Struct):
    index: int | None = None  # in events only
    function: _Function | None = None
    custom: _Function | None = None


class _Message(msgspec.Struct):
    """A message, or what an event adds to it."""

    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Token(msgspec.Struct):
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None  # of completions


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None  # of completions
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Raw | UnsetType = UNSET


_COMPLETION = msgspec.json.Decoder(_Completion)
FINISHES: Final[Mapping[str, Finish]] = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
}


def add_completion(draft: Draft, data: bytes) -> None:
    """Adds a complete answer, or one event. Raises msgspec's errors."""
    completion = _COMPLETION.decode(data)
    draft.failed |= completion.error is not UNSET and bytes(completion.error) != b"null"
    if completion.usage is not None and completion.usage.completion_tokens is not None:
        draft.output_tokens = completion.usage.completion_tokens
    for choice in completion.choices or ():
        if choice.index == 0:
            _add_choice(draft, choice)


def _add_choice(draft: Draft, choice: _Choice) -> None:
    draft.text.add(choice.text)
    message = choice.delta or choice.message
    if message is not None:
        _add_message(draft, message)
    if choice.logprobs is not None:
        for token in choice.logprobs.content or ():
            draft.logprob(token.logprob)
        for value in choice.logprobs.token_logprobs or ():
            draft.logprob(value)
    if choice.finish_reason:
        draft.finish = FINISHES.get(choice.finish_reason, Finish.UNKNOWN)
        draft.done = True


def _add_message(draft: Draft, message: _Message) -> None:
    if isinstance(message.content, str):
        draft.text.add(message.content)
    else:
        for part in message.content or ():
            draft.text.add(part.text)
    draft.refusal.add(message.refusal)
    for place, call in enumerate(message.tool_calls or ()):
        function = call.function or call.custom or _Function()
        index = place if call.index is None else call.index
        draft.call(index, function.name, function.arguments or function.input)
    if message.function_call is not None:
        draft.call(0, message.function_call.name, message.function_call.arguments)
