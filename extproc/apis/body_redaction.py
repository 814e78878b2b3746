"""Replaces personal data and secrets in a body where they stand; every other byte stays.

All string values are read, whatever member they are in, because the provider gets all of them: messages of
every role, results of tools, metadata. Names of things (roles, types, ids, the model) and media stay. What
a tool is called with may be JSON in a string; it stays JSON, and a number in it that is a card becomes a
string.
"""

import json
import re
from collections.abc import Iterator

import msgspec

from extproc.apis.text_passages import CALLED_WITH, everything, is_no_text
from extproc.errors import NotCleared
from extproc.safety.part_joins import readings_of
from extproc.safety.redaction import Redactor
from extproc.vocabulary import Api, Decision

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_MODEL = "model"  # the name that the decision has chosen


class _Frame:
    """An object or a list that is open while the body is read."""

    __slots__ = ("beside", "called", "is_object", "key", "named")

    def __init__(self, *, is_object: bool, called: bool) -> None:
        self.is_object = is_object
        self.called = called  # is it what a tool is called with?
        self.key = ""  # the member that is being read
        self.named = False  # whether its name was read
        self.beside: dict[str, str] = {}  # short members so far: types


_NOT_REMOVED = (
    "This request contains data that no model that could answer is cleared for, and it cannot be removed: it "
    "is split over two parts, or stands in a name or a number."
)


def without_findings(api: Api, body: bytes, decision: Decision) -> bytes:
    """The body without what the decision says. Raises ``NotCleared`` where something cannot be replaced."""
    if not decision.redacted:
        return body
    redactor = Redactor(decision.redacted, decision.unredacted)
    body = redacted(body, redactor)
    if still_contains(api, body, redactor):
        raise NotCleared(_NOT_REMOVED, labels=frozenset(decision.labels))
    return body


def redacted(body: bytes, redactor: Redactor) -> bytes:
    """``body``, which is a valid JSON object, with placeholders; the same object if it needs none."""
    return _redacted(body, redactor, called=False)


def still_contains(api: Api, body: bytes, redactor: Redactor) -> bool:
    """Whether the model would still read what should be redacted.

    That is so if it stands in a name, in a number, or in two parts of a turn that are read as one.
    """
    return any(redactor.findings(text) for parts in everything(api, body) for text in readings_of(parts))


def _redacted(body: bytes, redactor: Redactor, *, called: bool) -> bytes:
    pieces: list[bytes] = []
    done = 0
    for start, end, replacement in _changes(body, redactor, called=called):
        pieces += (body[done:start], replacement)
        done = end
    return b"".join((*pieces, body[done:])) if pieces else body


def _changes(body: bytes, redactor: Redactor, *, called: bool) -> Iterator[tuple[int, int, bytes]]:
    """What to put in place of which bytes."""
    open_frames: list[_Frame] = []
    for match in _TOKEN.finditer(body):
        token = match[0]
        frame = open_frames[-1] if open_frames else None
        if token in (b"{", b"["):
            inside = called or _is_called(frame, len(open_frames))
            open_frames.append(_Frame(is_object=token == b"{", called=inside))
        elif token in (b"}", b"]"):
            open_frames.pop()
        elif token == b",":
            if frame is not None:
                frame.named = False
        elif token == b":":
            continue
        elif frame is not None and frame.is_object and not frame.named:
            frame.key, frame.named = json.loads(token, strict=False), True
        else:
            changed = _value(token, frame, len(open_frames), redactor)
            if changed != token:
                yield *match.span(), changed


def _value(token: bytes, frame: _Frame | None, depth: int, redactor: Redactor) -> bytes:
    """The value in place of a string, a number or a word."""
    called = frame is not None and frame.called
    arguments = _is_called(frame, depth)
    if not token.startswith(b'"'):
        number = token.decode()
        redacts = (called or arguments) and redactor.findings(number)
        return msgspec.json.encode(redactor.redacted(number)) if redacts else token
    text: str = json.loads(token, strict=False)
    if frame is not None and frame.is_object and not called:
        if depth == 1 and frame.key == _MODEL:
            return token
        if is_no_text(frame.key, text, frame.beside):
            frame.beside[frame.key] = text if frame.key == "type" else ""
            return token
    if arguments and (inner := _inner(text)) is not None:
        changed = _redacted(inner, redactor, called=True)
        return token if changed is inner else msgspec.json.encode(changed.decode())
    changed_text = redactor.redacted(text)
    return token if changed_text is text else msgspec.json.encode(changed_text)


def _is_called(frame: _Frame | None, depth: int) -> bool:
    """Whether the next value is what a tool is called with. The ``input`` of a body itself is not."""
    return frame is not None and (frame.called or (depth > 1 and frame.key in CALLED_WITH))


def _inner(text: str) -> bytes | None:
    """The text as a body of its own if it is a JSON object or list, as the arguments of a tool are."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    encoded = text.encode(errors="surrogatepass")
    try:
        json.loads(encoded, strict=False)
    except (ValueError, RecursionError):
        return None
    return encoded
