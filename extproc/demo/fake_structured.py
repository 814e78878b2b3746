"""A value that a JSON schema accepts, for clients that ask a fake model for one.

Pure. Covers what clients send: objects, arrays, enums, unions, references, bounds and formats. Optional
properties are left out. What cannot be made (a ``pattern``, say) is refused and never answered wrongly.
"""

import math
from typing import Any

import jsonschema_rs

Schema = dict[str, Any]

# Of nested references; deeper down, the choice that ends a recursive schema is taken.
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


class NoInstance(Exception):
    """The schema is wrong, or asks for what cannot be made here."""


def instance(schema: Schema, text: str) -> Any:
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


def _value(schema: Any, root: Schema, text: str, depth: int) -> Any:
    if not isinstance(schema, dict):  # true: anything will do
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


def _resolved(schema: Schema, root: Schema) -> Schema:
    """Without references at its top, and with the parts of ``allOf`` merged."""
    if "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _resolved(_referenced(schema["$ref"], root) | beside, root)  # a circle is a RecursionError
    for part in schema.get("allOf", ()):
        part = _resolved(part, root)
        properties = schema.get("properties", {}) | part.get("properties", {})
        required = [*schema.get("required", ()), *part.get("required", ())]
        schema = schema | part | {"properties": properties, "required": required}
    return schema


def _referenced(reference: str, root: Schema) -> Schema:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return dict(found)


def _chosen(choices: list[Any], depth: int) -> Any:
    ends = [choice for choice in choices if isinstance(choice, dict) and choice.get("type") == "null"]
    return ends[0] if ends and depth > _DEEP else choices[0]


def _type(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return str(next((each for each in kind if each != "null"), "null"))
    implied = {"properties": "object", "items": "array", "prefixItems": "array"}
    return str(kind or next((kind for key, kind in implied.items() if schema.get(key)), "string"))


def _object(schema: Schema, root: Schema, text: str, depth: int) -> Schema:
    properties = schema.get("properties", {})
    return {
        name: _value(properties.get(name, True), root, text, depth + 1) for name in schema.get("required", ())
    }


def _array(schema: Schema, root: Schema, text: str, depth: int) -> list[Any]:
    first = schema.get("prefixItems", [])
    wanted = schema.get("minItems", 0 if depth > _DEEP else min(1, schema.get("maxItems", 1)))
    more = [] if schema.get("items") is False else [schema.get("items", True)] * (wanted - len(first))
    return [_value(each, root, text, depth + 1) for each in (*first, *more)]


def _number(schema: Schema, *, whole: bool) -> float:
    """The first that fits of 1, the bounds, and what is next to them."""
    step: float = schema.get("multipleOf", 1)
    bounds: list[float] = [schema[key] for key in _BOUNDS if key in schema]
    near = [1, *bounds, *(at + step for at in bounds), *(at - step for at in bounds)]
    near += [sum(bounds) / len(bounds)] if bounds else []
    if whole or "multipleOf" in schema:
        near = [math.ceil(each / step) * step for each in near]
    return next((each for each in near if jsonschema_rs.is_valid(schema, each)), 1)


def _string(schema: Schema, text: str) -> str:
    if known := _FORMATS.get(schema.get("format", "")):
        return known
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
