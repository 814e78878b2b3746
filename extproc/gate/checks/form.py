"""The form that was asked for: JSON, a JSON schema, calls of tools that exist, code in fences."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from extproc.apis.model_answer import ModelAnswer, ToolCall
from extproc.gate.checks.schemas import fits
from extproc.gate.gate_vocabulary import Asked, Format

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_FENCE_ASKED: Final = re.compile(
    r"\b(?:in|inside|within|as|using) (?:a|one) (?:\w+ )?(?:fenced )?code ?block", re.I
)


def check(asked: Asked, answer: ModelAnswer) -> str:
    """Rejects the first thing that is not of the form that was asked for."""
    return _calls(asked, answer) or _json(asked, answer) or _fences(asked, answer)


def _calls(asked: Asked, answer: ModelAnswer) -> str:
    for call in answer.tool_calls:
        if (answer.complete or call.arguments) and call.name not in asked.tools:
            return "unknown_tool"
        if answer.complete and not _takes(asked.tools[call.name], call):
            return "tool_arguments"
    return ""


def _takes(schema: Mapping[str, Any] | None, call: ToolCall) -> bool:
    if schema is None:
        return True
    known, value = _parsed(call.arguments or "{}")
    return known and isinstance(value, dict) and fits(value, schema, len(call.arguments))


def _json(asked: Asked, answer: ModelAnswer) -> str:
    if asked.format is Format.NONE or answer.tool_calls:
        return ""
    text = answer.text.strip()
    if text.startswith(("`", "~")):
        return "fenced_json"
    if not answer.complete:
        # JSON mode gives objects; a schema may ask for any value, but prose begins with a letter.
        return "not_json" if text and text[0] not in '{["-0123456789tfn' else ""
    known, value = _parsed(text)
    if not known or (asked.format is Format.JSON_OBJECT and not isinstance(value, dict)):
        return "not_json"
    return "" if asked.schema is None or fits(value, asked.schema, len(text)) else "not_schema"


def _fences(asked: Asked, answer: ModelAnswer) -> str:
    if not answer.complete or answer.tool_calls or asked.format is not Format.NONE:
        return ""
    opened = ""
    fences = _FENCE.findall(answer.text)
    for fence in fences:
        if not opened:
            opened = fence
        elif fence[0] == opened[0] and len(fence) >= len(opened):
            opened = ""
    if opened:
        return "open_fence"
    return "no_fence" if not fences and _FENCE_ASKED.search(asked.text) else ""


def _parsed(text: str) -> tuple[bool, object]:
    """Whether it is JSON, and the value."""
    try:
        return True, msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False, None
