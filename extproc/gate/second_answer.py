"""What a gate asks of another model about an answer, and what came of it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Raw

from extproc.vocabulary import Api

_WHOLE: Final = {"stream": Raw(b"false")}  # one document, of one answer
_OF_A_STREAM: Final = ("stream_options", "n")
_REQUEST = msgspec.json.Decoder(dict[str, Raw])


class FailureReason(StrEnum):
    """Why the other model gave no answer."""

    TIMEOUT = "timeout"
    BUDGET = "budget"  # more calls than there may be: none was made
    FAILED = "failed"


class Consultation(msgspec.Struct, frozen=True, kw_only=True):
    """One call to be made."""

    model: str  # by its public name
    path: str
    headers: Mapping[str, str] = {}
    body: bytes
    deadline_s: float
    budget_key: str  # the budget that this call counts against: the gate's name
    per_second: float | None = None  # calls that this budget allows; None: any number


class Advice(msgspec.Struct, frozen=True):
    """The HTTP answer, or why there is none."""

    status: int = 0
    body: bytes = b""
    failure: FailureReason | None = None


def asked_of(model: str, body: bytes, temperature: float | None = None) -> bytes | None:
    """The request ``body`` for ``model``, answered whole; None where it is no JSON object.

    All else is passed on byte for byte.
    """
    try:
        request = _REQUEST.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    kept = {name: value for name, value in request.items() if name not in _OF_A_STREAM}
    changed = {"model": Raw(msgspec.json.encode(model)), **_WHOLE}
    if temperature is not None:
        changed["temperature"] = Raw(msgspec.json.encode(temperature))
    return msgspec.json.encode(kept | changed)


def usage(api: Api, body: bytes) -> tuple[int | None, int | None]:
    """Tokens read and written, as the answer ``body`` tells them; None: it does not."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, None
    counts = told.get("usage") if isinstance(told, dict) else None
    if not isinstance(counts, dict):
        return None, None
    read = _count(counts, "input_tokens", "prompt_tokens")
    if read is not None and api == Api.ANTHROPIC_MESSAGES:  # which counts what went through its cache apart
        read += _count(counts, "cache_read_input_tokens") or 0
        read += _count(counts, "cache_creation_input_tokens") or 0
    return read, _count(counts, "output_tokens", "completion_tokens")


def _count(counts: Mapping[str, Any], *names: str) -> int | None:
    found = (counts.get(name) for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n >= 0), None)
