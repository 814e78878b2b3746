"""The text of a request by passages: what one author wrote in a row, as the parts in which it came.

The parts of a passage are kept apart because a text may be split over them, in the middle of a word.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from extproc.vocabulary import Api, Passage

# The members of a body that a model reads as text.
_READ: Mapping[Api, Sequence[str]] = {
    Api.OPENAI_CHAT: ("messages", "tools", "functions", "prediction", "response_format"),
    Api.OPENAI_COMPLETIONS: ("prompt", "suffix"),
    Api.OPENAI_RESPONSES: ("instructions", "input", "tools", "prompt", "text"),
    Api.ANTHROPIC_MESSAGES: ("system", "messages", "tools", "output_config"),
}

# Outside of what a tool is called with, these name things and are no text.
_NO_TEXT = frozenset(
    {
        "type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "file_id", "status", "media_type",
        "detail", "format", "cache_control", "signature", "encrypted_content", "file_data", "b64_json",
    }
)  # fmt: skip
CALLED_WITH = frozenset({"arguments", "input"})  # of a tool


def in_runs(turns: Iterable[tuple[bool, Passage]]) -> tuple[Passage, ...]:
    """The passages of the turns that count (each says so itself), those in a row made one."""
    runs: list[list[str]] = []
    counted = False
    for counts, parts in turns:
        if counts and counted:
            runs[-1] += parts
        elif counts:
            runs.append([*parts])
        counted = counts
    return tuple(map(tuple, runs))


def everything(api: Api, body: bytes) -> tuple[Passage, ...]:
    """All text that a model will read of ``body``, which is a valid request of ``api``.

    That is system prompts, the turns of everybody, calls of tools and their results, documents that are
    given as text, and what defines tools and formats; numbers are text too. Media are not read.
    """
    members = json.loads(body.decode(), strict=False, parse_int=str, parse_float=str)
    return tuple(_passages([members[name] for name in _READ[api] if name in members]))


def _passages(values: list[Any]) -> Iterator[Passage]:
    waiting = [(value, False) for value in values]  # with: is it what a tool is called with?
    while waiting:
        value, called = waiting.pop()
        if isinstance(value, str):
            yield (value,)
        elif isinstance(value, list) and not called:
            passages, rest = _turns(value)
            yield from passages
            waiting += ((item, False) for item in rest)
        elif isinstance(value, list):
            waiting += ((item, True) for item in value)
        elif isinstance(value, dict) and called:
            yield from ((key,) for key in value)
            waiting += ((item, True) for item in value.values())
        elif isinstance(value, dict):
            waiting += _members(value)


def _members(value: Mapping[str, Any]) -> Iterator[tuple[Any, bool]]:
    """What is to be read in an object that is no tool's argument."""
    for name, member in value.items():
        if name in CALLED_WITH:
            yield from ((argument, True) for argument in _arguments(member))
        elif name == "properties" and isinstance(member, dict):
            yield from ((key, False) for key in member)
            yield from ((schema, False) for schema in member.values())
        elif not (isinstance(member, str) and is_no_text(name, member, value)):
            yield member, False


def is_no_text(name: str, member: str, beside: Mapping[str, Any]) -> bool:
    """Whether the member ``name`` names something or is media; ``beside`` are the other members."""
    if name == "data":  # of a document it may be plain text
        return beside.get("type") != "text"
    return name in _NO_TEXT or (name in ("url", "image_url") and member.startswith("data:"))


def _arguments(member: Any) -> Iterator[Any]:
    """What a tool is called with; where that is JSON in a string, what the string says as well."""
    yield member
    if isinstance(member, str) and "\\" in member:
        try:
            yield json.loads(member, strict=False, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            return


def _turns(items: Sequence[Any]) -> tuple[Sequence[Passage], Sequence[Any]]:
    """The passages of a list of messages or of content parts, and what else is to be read in it."""
    passages: list[list[str]] = []
    rest: list[Any] = []
    author: Any = None
    for item in items:
        parts, others = _parts(item)
        role = item.get("role") if isinstance(item, dict) else None
        if parts and passages and role == author:
            passages[-1] += parts
        elif parts:
            passages.append(parts)
            author = role
        elif role is not None:
            author = object()  # a turn without text ends the passage, too
        rest += others
    return [tuple(parts) for parts in passages], rest


def _parts(item: Any) -> tuple[list[str], list[Any]]:
    """The text parts of one message or content part, and what else is to be read in it."""
    if isinstance(item, str):
        return [item], []
    if not isinstance(item, dict):
        return [], [item]
    if isinstance(item.get("text"), str):
        return [item["text"]], _rest(item, "text")
    content = item.get("content")
    if "role" not in item or not isinstance(content, str | list):
        return [], [item]
    if isinstance(content, str):
        return [content], _rest(item, "content")
    inner = [_parts(part) for part in content]
    others = [other for _, others in inner for other in others]
    return [text for texts, _ in inner for text in texts], _rest(item, "content") + others


def _rest(item: Mapping[str, Any], read: str) -> list[Any]:
    """What is left to read in an object of which one member was."""
    rest = {name: member for name, member in item.items() if name != read and name not in ("role", "type")}
    return [rest] if rest else []
