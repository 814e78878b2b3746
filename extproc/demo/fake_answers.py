"""Requests and answers of a fake model, independent of the API.

A request for JSON gets a value that its schema accepts. Objects, arrays, enums, unions, references, bounds
and formats are supported; optional properties are left out. An unsupported schema, for example with a
``pattern``, is rejected and never answered wrongly.

Pure: values in, values out. The modules of the APIs turn bytes into an ``Ask``, and a ``FakeAnswer`` into
documents and events.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import jsonschema_rs
import msgspec

JsonObject = dict[str, Any]

# The schema for a client that requests JSON without a schema.
ANY_OBJECT: JsonObject = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}

_WORD = re.compile(r"\S+\s*")
_ECHOED_WORDS = 12


# The depth of nested references from which the choice that ends a recursive schema is taken.
_DEEP = 4


_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


_FORMATS = {
    "date": "2026-11-30",
    "date-time": "2026-11-30T12:00:00Z",
    "duration": "PT1H",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class ApiError(Exception):
    """A request that the API rejects. Each API has its own shape of errors."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code


class NoInstance(Exception):
    """The schema is invalid or not supported here."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a request of any API."""

    model: str
    question: str  # the text of the latest user turn
    prompt_tokens: int  # words of everything that the model reads
    limit: int | None = None  # the greatest number of tokens that the client wants
    stream: bool = False
    include_usage: bool = True  # report usage in the stream, if the client can choose that
    tools: Mapping[str, JsonObject] = {}  # the tools' names, and the JSON schemas of their arguments
    called: frozenset[str] = frozenset()  # the tools that the conversation has called already
    tool_choice: str = "auto"  # or "none", "required", or the name of a tool
    schema: JsonObject | None = None  # of the JSON that the client wants as the text
    asks: bool = True  # the latest turn is a user's; else it is a tool's result, which needs a text
    choices: int = 1  # answers wanted


class Identity(msgspec.Struct, frozen=True):
    """The identity of an answer."""

    token: str  # 32 hexadecimal digits; each API adds its own prefix
    created: int  # Unix seconds
    model: str


class FakeAnswer(msgspec.Struct, frozen=True):
    """The model's answer: words, or one call of ``tool``. Each word counts as a token."""

    words: tuple[str, ...]  # each with the white space after it
    finish: Literal["stop", "length", "tool"]
    prompt_tokens: int
    completion_tokens: int
    tool: str = ""
    arguments: JsonObject = {}  # of the call

    @property
    def text(self) -> str:
        """All words."""
        return "".join(self.words)

    @property
    def encoded_arguments(self) -> str:
        """The arguments as JSON text."""
        return json.dumps(self.arguments)


def decode(body: bytes, kind: type[Any]) -> Any:
    """The request in ``body`` as a struct ``kind``. Raises ApiError (400) for an invalid body."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"Invalid request: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request. ({error})") from error


def words_in(*texts: str) -> int:
    """The number of words, which count as tokens here."""
    return sum(len(text.split()) for text in texts)


def reply(ask: Ask, text: str = "") -> FakeAnswer:
    """The model's answer: its name and the question, JSON for the requested schema, or a tool call.

    ``text`` replaces the text of an answer that calls no tool. Raises ApiError (400) for an unsupported
    schema.
    """
    tool = _called_tool(ask)
    if tool:
        arguments = _made({"type": "object", **ask.tools[tool]}, ask)
        return FakeAnswer((), "tool", ask.prompt_tokens, 1 + words_in(json.dumps(arguments)), tool, arguments)
    if not text:
        text = (
            _sentence(ask) if ask.schema is None else json.dumps(_made(ask.schema, ask), ensure_ascii=False)
        )
    words = tuple(_WORD.findall(text))
    kept = words if ask.limit is None else words[: ask.limit]
    return FakeAnswer(kept, "stop" if len(kept) == len(words) else "length", ask.prompt_tokens, len(kept))


def _made(schema: JsonObject, ask: Ask) -> Any:
    try:
        return instance(schema, _echo(ask))
    except NoInstance as error:
        raise ApiError(400, str(error), code="invalid_json_schema") from error


def _sentence(ask: Ask) -> str:
    return f'[{ask.model}] You asked: "{_echo(ask)}". This is where {ask.model} would answer.'


def _echo(ask: Ask) -> str:
    words = ask.question.split()
    return " ".join(words[:_ECHOED_WORDS]) + (" ..." if len(words) > _ECHOED_WORDS else "")


def _called_tool(ask: Ask) -> str:
    """The tool to call: the one that the client requires, else one that the latest user turn names.

    A client that requires any tool gets another one each time, because one of them may end its loop.
    """
    if ask.tool_choice in ask.tools:
        return ask.tool_choice
    named = next((name for name in ask.tools if name in ask.question), "")
    if ask.tool_choice == "required" and ask.tools:
        left = [name for name in ask.tools if name not in ask.called] or [*ask.tools]
        return named if named in left else left[0]
    if ask.tool_choice == "none" or not ask.asks:
        return ""
    return named


def instance(schema: JsonObject, text: str) -> Any:
    """A value that ``schema`` accepts, with ``text`` in its strings. Raises NoInstance."""
    try:
        validator = jsonschema_rs.validator_for(
            schema, validate_formats=True, offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
        made = _value(schema, schema, text, 0)
        problem = next(iter(validator.iter_errors(made)), None)
    except (ValueError, TypeError, LookupError, RecursionError, jsonschema_rs.ReferencingError) as error:
        raise NoInstance(f"Invalid JSON schema: {error}.") from error
    if problem is not None:
        raise NoInstance(f"This demo model makes no value for the schema: {problem.message}.")
    return made


def _value(schema: Any, root: JsonObject, text: str, depth: int) -> Any:
    if not isinstance(schema, dict):  # true, which accepts any value
        return text
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for choices in ("anyOf", "oneOf"):
        if choices in schema:
            return _value(_chosen(schema[choices], depth), root, text, depth + 1)
    match _type(schema):
        case "object":
            return _object(schema, root, text, depth)
        case "array":
            return _array(schema, root, text, depth)
        case "integer" | "number" as kind:
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
    return _string(schema, text)


def _resolved(schema: JsonObject, root: JsonObject) -> JsonObject:
    """The schema with references at its top resolved and ``allOf`` merged."""
    if "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _resolved(_referenced(schema["$ref"], root) | beside, root)  # a circle is a RecursionError
    for part in schema.get("allOf", ()):
        part = _resolved(part, root)
        properties = schema.get("properties", {}) | part.get("properties", {})
        required = [*schema.get("required", ()), *part.get("required", ())]
        schema = schema | part | {"properties": properties, "required": required}
    return schema


def _referenced(reference: str, root: JsonObject) -> JsonObject:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return dict(found)


def _chosen(choices: list[Any], depth: int) -> Any:
    ends = [choice for choice in choices if isinstance(choice, dict) and choice.get("type") == "null"]
    return ends[0] if ends and depth > _DEEP else choices[0]


def _type(schema: JsonObject) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return str(next((each for each in kind if each != "null"), "null"))
    implied = {"properties": "object", "items": "array", "prefixItems": "array"}
    return str(kind or next((kind for key, kind in implied.items() if schema.get(key)), "string"))


def _object(schema: JsonObject, root: JsonObject, text: str, depth: int) -> JsonObject:
    properties = schema.get("properties", {})
    return {
        name: _value(properties.get(name, True), root, text, depth + 1) for name in schema.get("required", ())
    }


def _array(schema: JsonObject, root: JsonObject, text: str, depth: int) -> list[Any]:
    first = schema.get("prefixItems", [])
    wanted = schema.get("minItems", 0 if depth > _DEEP else min(1, schema.get("maxItems", 1)))
    more = [] if schema.get("items") is False else [schema.get("items", True)] * (wanted - len(first))
    return [_value(each, root, text, depth + 1) for each in (*first, *more)]


def _number(schema: JsonObject, *, whole: bool) -> float:
    """The first valid number among 1, the bounds, and their neighbours."""
    step: float = schema.get("multipleOf", 1)
    bounds: list[float] = [schema[key] for key in _BOUNDS if key in schema]
    near = [1, *bounds, *(at + step for at in bounds), *(at - step for at in bounds)]
    near += [sum(bounds) / len(bounds)] if bounds else []
    if whole or "multipleOf" in schema:
        near = [math.ceil(each / step) * step for each in near]
    return next((each for each in near if jsonschema_rs.is_valid(schema, each)), 1)


def _string(schema: JsonObject, text: str) -> str:
    if known := _FORMATS.get(schema.get("format", "")):
        return known
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
