"""JSON, schemas, tools and fences that were asked for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis.model_answer import ModelAnswer, ToolCall
from extproc.gate.checks import form
from extproc.gate.gate_vocabulary import Asked, Format
from extproc.vocabulary import Api

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
PLAIN = Asked(api=Api.OPENAI_CHAT, text="Where?")
JSON = Asked(api=Api.OPENAI_CHAT, format=Format.JSON_OBJECT)
CITY = Asked(api=Api.OPENAI_CHAT, format=Format.JSON_SCHEMA, schema=SCHEMA)
TOOLS = Asked(api=Api.OPENAI_CHAT, tools={"find": SCHEMA, "sql": None, "now": {}})


@pytest.mark.parametrize(
    ("asked", "text", "reason"),
    [
        (JSON, ' {"a": [1]}\n', ""),
        (JSON, "[1]", "not_json"),
        (JSON, '{"a": 1', "not_json"),
        (JSON, 'Sure! {"a": 1}', "not_json"),
        (JSON, '```json\n{"a": 1}\n```', "fenced_json"),
        (JSON, "", "not_json"),
        (JSON, "[" * 5000, "not_json"),
        (JSON, '{"a": "\ud800"}', "not_json"),
        (CITY, '{"city": "Bern"}', ""),
        (CITY, '{"city": 1}', "not_schema"),
        (CITY, '{"town": "Bern"}', "not_schema"),
        (PLAIN, "Bern.", ""),
        (PLAIN, "```py\nx = 1\n```", ""),
        (PLAIN, "```py\nx = 1\n", "open_fence"),
        (PLAIN, "````md\n```\n````", ""),
        (PLAIN, "~~~\n```\n~~~", ""),
    ],
)
def test_a_whole_answer_has_the_form_that_was_asked_for(asked: Asked, text: str, reason: str) -> None:
    assert form.check(asked, ModelAnswer(text=text)) == reason


@pytest.mark.parametrize(
    ("asked", "text", "reason"),
    [
        (JSON, "", ""),
        (JSON, ' {"a": [', ""),
        (CITY, "tr", ""),
        (JSON, "Sure", "not_json"),
        (JSON, "```json", "fenced_json"),
        (PLAIN, "```py\nx", ""),
    ],
)
def test_the_beginning_of_an_answer_tells_what_it_can(asked: Asked, text: str, reason: str) -> None:
    assert form.check(asked, ModelAnswer(text=text, complete=False)) == reason


def test_a_code_block_that_was_asked_for_is_missed() -> None:
    asked = Asked(api=Api.OPENAI_CHAT, text="Write it in a single code block, please.")
    assert form.check(asked, ModelAnswer(text="x = 1")) == "no_fence"
    assert form.check(asked, ModelAnswer(text="```\nx = 1\n```")) == ""


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (ToolCall("find", '{"city": "Bern"}'), ""),
        (ToolCall("find", '{"town": "Bern"}'), "tool_arguments"),
        (ToolCall("find", '{"city": "Be'), "tool_arguments"),
        (ToolCall("find", '"Bern"'), "tool_arguments"),
        (ToolCall("lose", "{}"), "unknown_tool"),
        (ToolCall("sql", "SELECT 1"), ""),
        (ToolCall("now", ""), ""),
        (ToolCall("now", '{"zone": "UTC"}'), ""),
    ],
)
def test_a_call_is_of_an_offered_tool_with_arguments_that_it_takes(call: ToolCall, reason: str) -> None:
    assert form.check(TOOLS, ModelAnswer(tool_calls=(call,))) == reason


def test_a_call_that_has_only_begun_is_not_held_against_its_schema() -> None:
    begun = ModelAnswer(tool_calls=(ToolCall("find", '{"ci'),), complete=False)
    assert form.check(TOOLS, begun) == ""
    assert form.check(TOOLS, ModelAnswer(tool_calls=(ToolCall("fi", ""),), complete=False)) == ""
    lost = ModelAnswer(tool_calls=(ToolCall("lose", "{"),), complete=False)
    assert form.check(TOOLS, lost) == "unknown_tool"


def test_calls_stand_in_place_of_the_json_that_was_asked_for() -> None:
    asked = Asked(api=Api.OPENAI_CHAT, format=Format.JSON_OBJECT, tools={"now": {}})
    assert form.check(asked, ModelAnswer(tool_calls=(ToolCall("now", "{}"),))) == ""


WORDS = st.sampled_from(
    ["type", "$ref", "items", "properties", "anyOf", "pattern", "enum", "$id", "$dynamicRef"]
)
SCHEMAS = st.dictionaries(
    WORDS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["#", "object", "x:y", "(", ""]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(SCHEMAS, st.text(max_size=20))
def test_no_schema_makes_a_check_raise(schema: dict[str, Any], text: str) -> None:
    asked = Asked(api=Api.OPENAI_CHAT, format=Format.JSON_SCHEMA, schema=schema)
    assert form.check(asked, ModelAnswer(text='{"items": [1, {"type": null}]}')) in {"", "not_schema"}
    assert isinstance(form.check(asked, ModelAnswer(text=text)), str)
