"""Values for the schemas that clients send."""

from typing import Any

import jsonschema_rs
import pytest

from extproc.demo.fake_answers import NoInstance, instance

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/Node",
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (PERSON, {"name": "hello", "age": 1}),
        ({"type": "object", "properties": {"left": {"type": "string"}}}, {}),
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 7}, 7),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "null"}, None),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"allOf": [{"$ref": "#/$defs/P"}, {"required": ["age"]}], "$defs": {"P": PERSON}}, {"name": "hello", "age": 1}),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": "b"}], "items": False}, [1, "b"]),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, []),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "minimum": 11, "multipleOf": 5}, 15),
        ({"type": "number", "exclusiveMinimum": 0.2, "exclusiveMaximum": 0.4}, pytest.approx(0.3)),
        ({"type": "string", "minLength": 7}, "hello.."),
        ({"type": "string", "maxLength": 2}, "he"),
        ({"type": "string", "format": "date"}, "2026-11-30"),
        ({}, "hello"),
    ],
    ids=str,
)  # fmt: skip
def test_the_value_is_of_the_schema(schema: dict[str, Any], value: object) -> None:
    made = instance(schema, "hello")
    assert made == value
    jsonschema_rs.validate(schema, made)


def test_a_recursive_schema_ends() -> None:
    made = instance(TREE, "hello")
    jsonschema_rs.validate(TREE, made)
    assert made["next"]["value"] == 1


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "pattern": "^A{3}$"}, "makes no value for the schema: .*does not match"),
        ({"type": "strin"}, "Invalid JSON schema"),
        ({"$ref": "#/$defs/Absent"}, "Invalid JSON schema"),
        ({"$ref": "#"}, "Invalid JSON schema"),
        ({"$ref": "https://example.com/schema.json"}, "Invalid JSON schema"),
        ({"type": "object", "required": [3]}, "Invalid JSON schema"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(NoInstance, match=message):
        instance(schema, "hello")
