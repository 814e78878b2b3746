"""Reads JSON bodies strictly, for all APIs: decodes members, finds their positions and reports errors.

A body is decoded twice: first for the positions of the top-level members that its API defines, without
building any other value, then each of these members by itself. With their positions, a member can be edited
without changing any other byte. A body in which an object has a key twice is rejected (``json_scanning``).

All scanning is done in C, and Python loops only run over objects that ``_OBJECT_LIMIT``
counts. Depth is bounded by the interpreter's recursion limit, which msgspec heeds (1,000 levels in
Python 3.11).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc.apis.json_scanning import places_in, refuse_keys_given_twice
from extproc.errors import BadRequest
from extproc.vocabulary import Span

_T = TypeVar("_T")

# Each message, part or tool costs up to 0.6 us here, and 16 MiB can hold millions of empty ones.
# Braces inside strings count too; even so, dense JSON in a prompt of two million tokens fits.
_OBJECT_LIMIT = 250_000

# OpenAI takes 128. Rules match patterns against each name, so there must be an end to them.
_TOOL_LIMIT = 2048

# The name is part of Envoy's dynamic metadata and of every record, so it must stay short.
_MODEL_NAME_LIMIT = 1024  # characters


class Shape:
    """The members of a JSON object that have a meaning here, compiled once."""

    def __init__(self, *names: str) -> None:
        self._names = names
        members = msgspec.defstruct(
            "Members", [(name, Raw | UnsetType, UNSET) for name in names], gc=False, frozen=True
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(members)
        self._decoder_or_null: msgspec.json.Decoder[Any] = msgspec.json.Decoder(members | None)

    def find(self, data: bytes | Raw, field: str) -> dict[str, Raw]:
        """The members that are given. ``field``, a member that may be null, is empty for the whole body."""
        found = decode(self._decoder_or_null if field else self._decoder, data, field)
        values = msgspec.structs.astuple(found) if found is not None else ()
        return {name: raw for name, raw in zip(self._names, values, strict=False) if raw is not UNSET}


class Document:
    """One body while it is read. ``spans`` grows with each object whose members are asked for."""

    def __init__(self, body: bytes) -> None:
        """Raises ``BadRequest`` for a body that is empty, too complex or not UTF-8."""
        _require_readable(body)
        self._body = body
        self._place_of = places_in(body)
        self.spans: dict[str, Span] = {}  # by path: ``reasoning.effort``

    def members(self, shape: Shape) -> dict[str, Raw]:
        """The members of the body itself. Raises ``BadRequest``, also when any object has a key twice."""
        members = self._members(shape, self._body, "")
        refuse_keys_given_twice(self._body, members.values())
        return members

    def nested(self, shape: Shape, members: dict[str, Raw], field: str) -> dict[str, Raw]:
        """The members of the object that is the member ``field``; none when it is absent or null."""
        raw = members.get(field)
        return {} if raw is None else self._members(shape, raw, field)

    def _members(self, shape: Shape, data: bytes | Raw, field: str) -> dict[str, Raw]:
        members = shape.find(data, field)
        prefix = f"{field}." if field else ""
        self.spans.update((prefix + name, self._place_of(raw)) for name, raw in members.items())
        return members


def required(members: dict[str, Raw], name: str, decoder: msgspec.json.Decoder[_T]) -> _T:
    """The member ``name``, decoded. Raises ``BadRequest`` when it is absent or of the wrong shape."""
    if name not in members:
        raise BadRequest(f"'{name}' is required.", param=name)
    return decode(decoder, members[name], name)


def optional(
    members: dict[str, Raw], name: str, decoder: msgspec.json.Decoder[_T], field: str = ""
) -> _T | None:
    """The member ``name`` (of the object ``field``), decoded, or None when it is absent."""
    if name not in members:
        return None
    return decode(decoder, members[name], field, name)


def flag(members: dict[str, Raw], name: str, field: str = "") -> bool:
    """A member that is true, or else false, null or absent."""
    return bool(optional(members, name, _FLAG, field))


def whole_number(members: dict[str, Raw], name: str, field: str = "") -> int | None:
    """A number without a fraction, in whatever spelling, or None when it is absent or null."""
    number = optional(members, name, _NUMBER, field)
    if isinstance(number, float):
        if not number.is_integer():
            param = _spelled((field, name))
            raise BadRequest(f"'{param}' must be a whole number.", param=param)
        return int(number)
    return number


def model_name(members: dict[str, Raw]) -> str:
    """The name of the model that the client asks for."""
    name = required(members, "model", _STRING)
    if not name:
        raise BadRequest("'model' must not be empty.", param="model")
    if len(name) > _MODEL_NAME_LIMIT:
        raise BadRequest(f"'model' must have at most {_MODEL_NAME_LIMIT} characters.", param="model")
    return name


def require_some(items: Sequence[object], field: str, what: str) -> None:
    """Raises ``BadRequest`` for a list that is empty."""
    if not items:
        raise BadRequest(f"'{field}' must hold at least one {what}.", param=field)


def require_few_strings(raw: bytes, field: str) -> None:
    """Raises ``BadRequest`` for a list of more strings than should be built. Escaped quotes do not count."""
    if raw.count(b'"') - raw.count(b'\\"') > 2 * _OBJECT_LIMIT:
        raise BadRequest(f"'{field}' must hold at most {_OBJECT_LIMIT} strings.", param=field)


def require_few_tools(count: int) -> None:
    """Raises ``BadRequest`` for more tools than rules should match."""
    if count > _TOOL_LIMIT:
        raise BadRequest(f"'tools' must hold at most {_TOOL_LIMIT} tools.", param="tools")


def decode(decoder: msgspec.json.Decoder[_T], data: bytes | Raw, *path: str | int) -> _T:
    """Decodes ``data``, the value at ``path`` (``"messages", 0, "content"``) or else the whole body.

    Raises:
        BadRequest: says which field is wrong and what it must be.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error), _spelled(path)) from error
    except msgspec.DecodeError as error:
        problem = str(error).removeprefix("JSON is malformed: ")
        raise BadRequest(f"The request body is not valid JSON: {problem}.") from error
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error


_STRING = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_NUMBER: msgspec.json.Decoder[int | float | None] = msgspec.json.Decoder(int | float | None)


def _require_readable(body: bytes) -> None:
    if not body:
        raise BadRequest("The request body is empty; it must be a JSON object.")
    # msgspec checks UTF-8 only in the strings that it builds, not in those it skips.
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"The request body is not valid UTF-8 (byte {error.start}).") from error
    if body.count(b"{") > _OBJECT_LIMIT:
        raise BadRequest(f"The request body must hold at most {_OBJECT_LIMIT} opening braces.")


# --- msgspec's errors as messages for clients ---------------------------------------------------

_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_WRONG_TYPE = re.compile(r"Expected `(?P<expected>.*)`, got `(?P<got>.*)`")
_TYPE_WORDS = {
    "object": "an object",
    "array": "an array",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
}


def _spelled(path: Iterable[str | int]) -> str:
    """A path as the client would write it: ``messages[0].content``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path if step != "")
    return "".join(steps).removeprefix(".")


def _wrong_shape(finding: str, field: str) -> BadRequest:
    """JSON of the wrong shape: says which field, what it must be, and what it was."""
    problem, _, place = finding.partition(" - at `$")
    path = field + place.removesuffix("`")
    if missing := _MISSING.fullmatch(problem):
        param = f"{path}.{missing['field']}".removeprefix(".")
        return BadRequest(f"'{param}' is required.", param=param)
    param = path.removeprefix(".")
    subject = f"'{param}'" if param else "The request body"
    return BadRequest(f"{subject} {_requirement(problem)}.", param=param or None)


def _requirement(problem: str) -> str:
    wrong = _WRONG_TYPE.fullmatch(problem)
    if not wrong:
        return f"is not valid: {problem}"
    kinds = dict.fromkeys(_TYPE_WORDS.get(kind, kind) for kind in wrong["expected"].split(" | "))
    *others, last = kinds
    expected = f"{', '.join(others)} or {last}" if others else last
    return f"must be {expected}, not {_TYPE_WORDS.get(wrong['got'], wrong['got'])}"
