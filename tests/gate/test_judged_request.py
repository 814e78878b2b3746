"""What each API's request asks of its answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.gate import judged_request
from extproc.gate.judged_request import QUESTION_LIMIT, Format, JudgedRequest
from extproc.vocabulary import Api

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    Api.OPENAI_CHAT,
    Api.OPENAI_COMPLETIONS,
    Api.OPENAI_RESPONSES,
    Api.ANTHROPIC_MESSAGES,
)
SCHEMA = {"type": "object", "required": ["city"]}
TURN = [{"role": "user", "content": "Where?"}]
BODIES: dict[Api, dict[str, Any]] = {
    CHAT: {"model": "auto", "messages": TURN},
    COMPLETIONS: {"model": "auto", "prompt": "Where?"},
    RESPONSES: {"model": "auto", "input": "Where?"},
    MESSAGES: {"model": "auto", "messages": TURN, "max_tokens": 64},
}
WISHES: dict[Api, dict[str, Any]] = {
    CHAT: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    },
    RESPONSES: {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
TOOLS: dict[Api, list[Any]] = {
    CHAT: [{"type": "function", "function": {"name": "find", "parameters": SCHEMA}}],
    RESPONSES: [{"type": "function", "name": "find", "parameters": SCHEMA}],
    MESSAGES: [{"name": "find", "input_schema": SCHEMA}],
}


def read(api: Api, **members: Any) -> JudgedRequest:
    return judged_request.read(api, json.dumps(BODIES[api] | members).encode())


@pytest.mark.parametrize("api", BODIES)
def test_a_plain_request_asks_for_text(api: Api) -> None:
    asked = read(api)
    assert (asked.api, asked.text, asked.model) == (api, "Where?", "auto")
    assert (asked.format, asked.schema, dict(asked.tools)) == (Format.NONE, None, {})
    assert asked.max_tokens == (64 if api is MESSAGES else None)


@pytest.mark.parametrize("api", WISHES)
def test_a_schema_is_found_where_its_api_has_it(api: Api) -> None:
    asked = read(api, **WISHES[api])
    assert (asked.format, asked.schema) == (Format.JSON_SCHEMA, SCHEMA)


def test_any_json_may_be_asked_for() -> None:
    assert read(CHAT, response_format={"type": "json_object"}).format is Format.JSON_OBJECT
    assert read(RESPONSES, text={"format": {"type": "json_object"}}).format is Format.JSON_OBJECT


@pytest.mark.parametrize("api", TOOLS)
def test_tools_come_with_the_schemas_of_their_arguments(api: Api) -> None:
    assert dict(read(api, tools=TOOLS[api]).tools) == {"find": SCHEMA}


def test_what_is_no_function_has_no_schema() -> None:
    tools = [{"type": "custom", "custom": {"name": "sql"}}, *TOOLS[CHAT]]
    assert dict(read(CHAT, tools=tools).tools) == {"sql": None, "find": SCHEMA}
    tools = [{"type": "web_search"}, {"type": "namespace", "name": "crm", "tools": TOOLS[RESPONSES]}]
    assert dict(read(RESPONSES, tools=tools).tools) == {"web_search": None, "crm": None, "find": SCHEMA}


def test_a_function_without_parameters_takes_any_object() -> None:
    assert dict(read(CHAT, functions=[{"name": "now"}]).tools) == {"now": {}}


def test_what_is_too_large_is_not_read() -> None:
    asked = read(CHAT, tools=[*TOOLS[CHAT], {"type": "function", "function": {"name": "x" * 70_000}}])
    assert asked.tools["find"] is None
    long = read(COMPLETIONS, prompt="x" * (QUESTION_LIMIT + 1))
    assert len(long.text) == QUESTION_LIMIT


@given(st.sampled_from(list(BODIES)), st.binary(max_size=64))
def test_a_body_that_is_none_asks_for_nothing(api: Api, body: bytes) -> None:
    assert judged_request.read(api, body) == JudgedRequest(api=api)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "function", "tools", "format", "schema", "json_schema"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(list(BODIES)), VALUES, VALUES)
def test_wishes_of_any_shape_are_read_without_raising(api: Api, wish: object, tools: object) -> None:
    members = {"response_format": wish, "text": wish, "output_config": wish, "tools": tools}
    assert read(api, **members).api is api
