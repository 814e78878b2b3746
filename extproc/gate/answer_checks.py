"""The checks of a gate, each a function of a request and its answer that gives the reason for a rejection.

An empty reason is no objection. Checks never raise. A check rejects an answer that is not complete only for
what its beginning already shows.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from extproc.apis.model_answer import Finish, ModelAnswer, ToolCall
from extproc.gate.judged_request import Format, JudgedRequest
from extproc.gate.language_detection import differs
from extproc.gate.refusal_patterns import PATTERNS
from extproc.gate.schema_check import fits
from extproc.safety.quiet_patterns import compiled

Check = Callable[[JudgedRequest, ModelAnswer], str]

REASONS: Final[Mapping[str, tuple[str, ...]]] = {
    "finish": ("failed", "content_filter", "truncated"),
    "length": ("too_long", "too_short", "empty"),
    "refusal": ("refusal", "refusal_text"),
    "format": (
        *("unknown_tool", "tool_arguments", "fenced_json", "not_json", "not_schema"),
        *("open_fence", "no_fence"),
    ),
    "repetition": ("repetition",),
    "language": ("language",),
    "logprob": ("logprob",),
    "self_report": ("self_report",),
}
"""The reasons of each check, by the registry key of the check. They label metrics."""


# --- How the answer ended -----------------------------------------------------------------------

# A client that asks for so few tokens wants a label or a yes. Every model's answer is cut there.
_WANTED_SHORT: Final = 32


def check_finish(request: JudgedRequest, answer: ModelAnswer) -> str:
    """Rejects an answer that failed, was filtered, or was cut off."""
    if answer.failed or not 200 <= answer.status < 300:
        return "failed"
    if answer.finish is Finish.CONTENT_FILTER:
        return "content_filter"
    if answer.finish is Finish.LENGTH and not (request.max_tokens and request.max_tokens <= _WANTED_SHORT):
        return "truncated"
    return ""


# --- Its length ---------------------------------------------------------------------------------


def length_between(least: int, most: int | None) -> Check:
    """The text must have from ``least`` to ``most`` characters. An answer that only calls tools passes."""

    def check(request: JudgedRequest, answer: ModelAnswer) -> str:
        size = len(answer.text.strip())
        if most is not None and size > most:
            return "too_long"
        if size >= least or answer.tool_calls or not answer.complete:
            return ""
        return "too_short" if size else "empty"

    return check


# --- Refusals -----------------------------------------------------------------------------------

# Models refuse in their first sentences and in few words. Further on, the same words are mostly about
# something else. The patterns were chosen on one half of the XSTest completions and measured on the other
# (``benchmarks/RESULTS.md``). Languages other than English follow the same forms; the tests have examples.
OPENING: Final = 240  # characters that are searched


_LARGE: Final = 16 * 1024 * 1024  # bytes: gaps of so many characters make large automata
_APOSTROPHES: Final = str.maketrans(dict.fromkeys("’‘ʼ`", "'"))
_REFUSALS: Final = tuple(compiled(pattern, _LARGE) for pattern in PATTERNS.values())


def refuses(text: str) -> bool:
    """Whether ``text`` opens as a refusal in any of the languages."""
    opening = text[:OPENING].lower().translate(_APOSTROPHES)
    return any(pattern.search(opening) for pattern in _REFUSALS)


def check_refusal(request: JudgedRequest, answer: ModelAnswer) -> str:
    """Rejects what the API marks as a refusal, and a text that opens as one."""
    if answer.refusal or answer.finish is Finish.REFUSAL:
        return "refusal"
    return "refusal_text" if refuses(answer.text) else ""


# --- Its form: JSON, a JSON schema, tool calls, code fences -------------------------------------

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_FENCE_ASKED: Final = re.compile(
    r"\b(?:in|inside|within|as|using) (?:a|one) (?:\w+ )?(?:fenced )?code ?block", re.I
)


def check_format(request: JudgedRequest, answer: ModelAnswer) -> str:
    """Rejects an answer that does not have the form that the request asks for."""
    return _calls(request, answer) or _json(request, answer) or _fences(request, answer)


def _calls(request: JudgedRequest, answer: ModelAnswer) -> str:
    for call in answer.tool_calls:
        if (answer.complete or call.arguments) and call.name not in request.tools:
            return "unknown_tool"
        if answer.complete and not _takes(request.tools[call.name], call):
            return "tool_arguments"
    return ""


def _takes(schema: Mapping[str, Any] | None, call: ToolCall) -> bool:
    if schema is None:
        return True
    known, value = _parsed(call.arguments or "{}")
    return known and isinstance(value, dict) and fits(value, schema, len(call.arguments))


def _json(request: JudgedRequest, answer: ModelAnswer) -> str:
    if request.format is Format.NONE or answer.tool_calls:
        return ""
    text = answer.text.strip()
    if text.startswith(("`", "~")):
        return "fenced_json"
    if not answer.complete:
        # JSON mode gives objects. A schema may ask for any value, but prose begins with a letter.
        return "not_json" if text and text[0] not in '{["-0123456789tfn' else ""
    known, value = _parsed(text)
    if not known or (request.format is Format.JSON_OBJECT and not isinstance(value, dict)):
        return "not_json"
    return "" if request.schema is None or fits(value, request.schema, len(text)) else "not_schema"


def _fences(request: JudgedRequest, answer: ModelAnswer) -> str:
    if not answer.complete or answer.tool_calls or request.format is not Format.NONE:
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
    return "no_fence" if not fences and _FENCE_ASKED.search(request.text) else ""


def _parsed(text: str) -> tuple[bool, object]:
    """Whether ``text`` is JSON, and its value."""
    try:
        return True, msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False, None


# --- Repetition ---------------------------------------------------------------------------------

# Small models that get stuck repeat themselves to the end, so only the end of the text is read.
_WINDOW: Final = 32  # characters: longer than phrases that recur in good prose, shorter than sentences
_READ: Final = 8192  # characters at the end of the text
_LEAST: Final = 8 * _WINDOW  # a shorter text is not measured


def repeated_share(text: str) -> float:
    """The share of ``text``'s windows of 32 characters that also occur earlier in it: 0 to 1."""
    text = text[-_READ:]
    if len(text) < _LEAST:
        return 0.0
    windows = len(text) - _WINDOW + 1
    return 1.0 - len({text[start : start + _WINDOW] for start in range(windows)}) / windows


def repetition_at_most(share: float) -> Check:
    """At most this share of the text may repeat."""
    return lambda request, answer: "repetition" if repeated_share(answer.text) > share else ""


# --- Language -----------------------------------------------------------------------------------


def check_language(request: JudgedRequest, answer: ModelAnswer) -> str:
    """Rejects an answer in another language than the question."""
    return "language" if differs(request.text, answer.text) else ""


# --- The model's own confidence -----------------------------------------------------------------


def mean_logprob_at_least(least: float) -> Check:
    """The mean log-probability must reach ``least``. An answer without any, or not complete, passes."""

    def check(request: JudgedRequest, answer: ModelAnswer) -> str:
        unsure = answer.complete and answer.mean_logprob is not None and answer.mean_logprob < least
        return "logprob" if unsure else ""

    return check


def no_self_report(pattern: str) -> Check:
    """The text must not match the RE2 ``pattern``. Raises ``re2.error`` on a bad one."""
    search = compiled(pattern).search
    return lambda request, answer: "self_report" if search(answer.text) else ""
