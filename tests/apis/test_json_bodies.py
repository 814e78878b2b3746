"""What all JSON bodies share: places of members, numbers."""

import json
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis import json_bodies
from extproc.apis.json_bodies import Document, Shape
from extproc.errors import BadRequest
from tests.apis.spelling import json_values, keys, spelled, styles, thorough

SHAPE = Shape("model", "effort", "messages")


def test_a_copy_instead_of_a_view_of_a_value_is_never_taken_for_its_place() -> None:
    members = {"model": msgspec.Raw(b'{"effort": 1}')}
    with pytest.raises(RuntimeError, match="not a view"):
        Document(b'{"model": {"effort": 1}}').nested(SHAPE, members, "model")


@thorough
@given(st.dictionaries(keys, st.one_of(json_values, st.dictionaries(keys, json_values, max_size=3))), styles)
def test_the_spans_are_where_the_values_stand_at_the_top_and_one_level_down(
    values: dict[str, Any], style: Random
) -> None:
    body = spelled(values, style).encode()
    document = Document(body)

    members = document.members(SHAPE)
    if isinstance(values.get("model"), dict | None):
        document.nested(SHAPE, members, "model")

    inside = values.get("model")
    expected = {name: values[name] for name in ("model", "effort", "messages") if name in values}
    if isinstance(inside, dict):
        expected |= {
            f"model.{name}": inside[name] for name in ("model", "effort", "messages") if name in inside
        }
    assert {path: json.loads(body[slice(*span)]) for path, span in document.spans.items()} == expected


@pytest.mark.parametrize(
    ("spelling", "number"), [("3", 3), ("3.0", 3), ("3e2", 300), ("-0", 0), ("null", None)]
)
def test_a_whole_number_may_be_spelled_as_json_allows(spelling: str, number: int | None) -> None:
    members = Document(f'{{"model": {spelling}}}'.encode()).members(SHAPE)
    assert json_bodies.whole_number(members, "model") == number


@pytest.mark.parametrize("spelling", ["0.5", "1e999", "1" * 100_000, '"3"', "true", "[]"])
def test_what_is_no_whole_number_is_refused_by_its_name(spelling: str) -> None:
    members = Document(f'{{"model": {spelling}}}'.encode()).members(SHAPE)
    with pytest.raises(BadRequest) as caught:
        json_bodies.whole_number(members, "model", "thinking")
    assert caught.value.param == "thinking.model"
