"""Schemas from clients: valid or not, and never for long."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.gate.schema_check import fits

STRING = {"type": "string"}
LIST = {  # of numbers, as a chain
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["value", "next"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": STRING,
                "left": {"$ref": "#/$defs/node"},
                "right": {"$ref": "#/$defs/node"},
                "others": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
        }
    },
}


def nested(depth: int, name: str, last: object) -> Any:
    value = last
    for _ in range(depth):
        value = {name: value, "value": 1, "name": "n"}
    return value


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (LIST, {"value": 1, "next": {"value": 2, "next": None}}, True),
        (LIST, {"value": 1, "next": {"value": "2", "next": None}}, False),
        (LIST, nested(100, "next", None), True),
        (LIST, nested(100, "next", 3), False),
        (TREE, nested(50, "left", {"name": "n", "others": [{"name": "n"}]}), True),
        (TREE, nested(50, "left", {"name": "n", "others": [{"name": 1}]}), False),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": STRING}}, "x", True),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": STRING}}, 1, False),
        ({"items": STRING, "anyOf": [{"minItems": 2}, {"maxItems": 0}]}, ["x"], False),
        ({"prefixItems": [STRING, {"type": "integer"}]}, ["x", "y"], False),
        ({"patternProperties": {"^a": STRING}, "additionalProperties": False}, {"b": 1}, False),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": True}, {"a": 1}, False),
    ],
)
def test_a_value_is_held_against_its_schema(schema: dict[str, Any], value: object, expected: bool) -> None:
    assert fits(value, schema, 1000) is expected


def twice(step: int) -> dict[str, Any]:
    return {"anyOf": [{"$ref": f"#/$defs/s{step + 1}"}] * 2}


DOUBLING = {"$ref": "#/$defs/s0", "$defs": {f"s{step}": twice(step) for step in range(60)} | {"s60": STRING}}
BRANCHING = {
    "properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#", "minProperties": 1}]}},
    "required": ["b"],
}
OVERLAPPING = {
    "properties": {"a": {"$ref": "#"}},
    "patternProperties": {"^a$": {"$ref": "#"}},
    "required": ["b"],
}
MUTUAL = {
    "$ref": "#/$defs/one",
    "$defs": {
        "one": {"properties": {"a": {"$ref": "#/$defs/two"}}, "not": {"$ref": "#/$defs/two"}},
        "two": {"allOf": [{"properties": {"a": {"$ref": "#/$defs/one"}}}]},
    },
}
INSIDE = {
    "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#/$defs/inner"}},
    "$defs": {"inner": {"additionalProperties": {"$ref": "#/$defs/inner"}, "required": ["c"]}},
}


@pytest.mark.parametrize("schema", [DOUBLING, BRANCHING, OVERLAPPING, MUTUAL, INSIDE])
def test_a_schema_that_could_take_long_is_held_against_nothing(schema: dict[str, Any]) -> None:
    """Some of these would not end in the lifetime of the test."""
    assert fits(nested(200, "a", {"b": {}}), schema, 5000)


def test_a_large_schema_is_not_held_against_a_large_value() -> None:
    schema = {"items": {"allOf": [{"type": "string"}] * 200}}
    assert not fits([1], schema, 3)
    assert fits([1] * 100_000, schema, 300_000)


def test_a_schema_that_is_nested_too_deeply_is_held_against_nothing() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        schema = {"not": schema}
    assert fits(1, schema, 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"$ref": "#/nowhere"},
        {"$id": "http://127.0.0.1:1/x", "$ref": "#/nowhere"},
        {"$ref": 3},
        {"$schema": "http://127.0.0.1:1/meta", "type": "string"},
        {"type": "string", "pattern": "(?=lookahead)"},
    ],
)
def test_anything_fits_a_schema_that_cannot_be_used(schema: dict[str, Any]) -> None:
    assert fits({"a": 1}, schema, 8)


def test_a_schema_that_holds_itself_ends() -> None:
    assert fits({"a": 1}, {"$ref": "#"}, 8)
    deep: list[Any] = []
    for _ in range(800):
        deep = [deep]
    assert fits(deep, {"items": {"$ref": "#"}}, 1600)


def test_patterns_of_clients_take_linear_time() -> None:
    assert not fits("a" * 200_000 + "b", {"type": "string", "pattern": "^(a+)+$"}, 200_001)


NAMES = st.sampled_from(["a", "b"])
REFERENCES = st.builds(dict, **{"$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/b"])})
GRAPHS = st.recursive(
    REFERENCES | st.just({"type": "string"}) | st.just({"required": ["a"]}),
    lambda inner: st.one_of(
        st.builds(dict, anyOf=st.lists(inner, min_size=1, max_size=3)),
        st.builds(dict, properties=st.dictionaries(NAMES, inner, max_size=2)),
        st.builds(dict, additionalProperties=inner, required=st.just(["c"])),
        st.builds(dict, **{"not": inner}),
    ),
    max_leaves=6,
)


@given(GRAPHS, st.fixed_dictionaries({"a": GRAPHS, "b": GRAPHS}))
def test_whatever_schemas_refer_to_each_other_a_deep_value_is_judged(
    schema: dict[str, Any], definitions: dict[str, Any]
) -> None:
    """One that doubles its work at each of these levels would never end."""
    assert isinstance(fits(nested(150, "a", "end"), {**schema, "$defs": definitions}, 4000), bool)
