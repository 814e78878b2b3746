"""Reading OpenAI's responses."""

import json
from typing import Any

import pytest

from extproc import apis
from extproc.errors import BadRequest
from extproc.vocabulary import Api, ChatRequest

RESPONSES = Api.OPENAI_RESPONSES
FUNCTION = {"type": "function", "name": "search", "parameters": {}}


def parsed(**fields: Any) -> ChatRequest:
    return apis.parse(RESPONSES, json.dumps({"model": "auto", "input": "Hello", **fields}).encode())


def refusal(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(BadRequest) as caught:
        apis.parse(RESPONSES, json.dumps(fields).encode())
    return caught.value.message, caught.value.param


def test_a_plain_request_is_read_whole() -> None:
    body = b'{"model": "auto", "input": "Hello", "stream": true, "max_output_tokens": 9}'
    assert apis.parse(RESPONSES, body) == ChatRequest(
        api=RESPONSES,
        model="auto",
        spans={"model": (10, 16), "input": (27, 34), "stream": (46, 50), "max_output_tokens": (73, 74)},
        user_text="Hello",
        body_bytes=len(body),
        user_parts=("Hello",),
        stream=True,
        prompt_chars=5,
        max_tokens=9,
    )


def test_the_latest_message_of_a_user_is_the_text_and_its_other_parts_are_media() -> None:
    request = parsed(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "first"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is"},
                    {"type": "input_image", "image_url": "data:" + "x" * 999},
                    {"type": "input_text", "text": "this?"},
                ],
            },
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "1", "name": "search", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "12345"},
            {
                "type": "function_call_output",
                "call_id": "2",
                "output": [{"type": "input_text", "text": "67"}, {"type": "input_image", "image_url": "x"}],
            },
            {"type": "computer_call_output", "call_id": "3", "output": {"type": "computer_screenshot"}},
            {"type": "of a kind to come", "content": 1, "output": 2, "arguments": 3, "tools": 4},
            {"type": "item_reference", "id": "msg_1"},
        ],
    )
    assert (request.user_text, request.images, request.messages) == ("What is\nthis?", 1, 9)
    assert request.prompt_chars == len("Be brief.") + 5 + 7 + 5 + len('"{}"') + 5 + 2


@pytest.mark.parametrize(
    "items",
    [[{"role": "developer", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": None}]],
)
def test_an_input_without_a_users_text_has_an_empty_one(items: list[Any]) -> None:
    assert parsed(input=items).user_text == ""


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        (None, ()),
        ([FUNCTION, {"type": "custom", "name": "shell"}], ("search", "shell")),
        ([{"type": "web_search"}], ("web_search",)),
        ([{"type": "web_search", "name": "harmless"}], ("web_search",)),  # a decoy
        ([{"type": "mcp", "server_label": "x"}, {"name": "typeless"}, {}], ("mcp", "typeless")),
        ([{"type": "namespace", "name": "crm", "tools": [FUNCTION]}], ("crm", "search")),
    ],
)
def test_tools_are_known_by_name_and_built_in_ones_by_type(tools: Any, names: tuple[str, ...]) -> None:
    assert parsed(tools=tools).tools == names


def test_tools_offered_between_the_turns_count_too() -> None:
    later = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
    request = parsed(tools=[{"type": "shell"}], input=[later, {"role": "user", "content": "x"}])
    assert request.tools == ("shell", "search")
    assert request.prompt_chars == 1 + len(json.dumps([FUNCTION])) + len('[{"type": "shell"}]')


@pytest.mark.parametrize("source", ["previous_response_id", "conversation", "prompt"])
def test_what_the_provider_keeps_may_stand_for_the_input(source: str) -> None:
    body = json.dumps({"model": "auto", source: {"id": "x"}}).encode()
    request = apis.parse(RESPONSES, body)
    assert (request.user_text, request.messages, request.prompt_chars) == ("", 0, 0)


@pytest.mark.parametrize("model", [{}, {"model": None}])
def test_a_stored_prompt_may_stand_for_the_model(model: dict[str, None]) -> None:
    assert apis.parse(RESPONSES, json.dumps({"prompt": {"id": "x"}, **model}).encode()).model == ""


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"model": "a"}, ("'input' is required.", "input")),
        ({"model": "a", "prompt": None}, ("'input' is required.", "input")),
        ({"input": "x"}, ("'model' is required.", "model")),
        ({"model": "a", "input": []}, ("'input' must hold at least one item.", "input")),
        ({"model": "a", "input": None}, ("'input' must be a string or an array, not null.", "input")),
        ({"model": "a", "input": ["x"]}, ("'input[0]' must be an object, not a string.", "input[0]")),
        (
            {"model": "a", "input": [{}, {"role": "user", "content": [{"text": "x"}]}]},
            ("'input[1].content[0].type' is required.", "input[1].content[0].type"),
        ),
        (
            {"model": "a", "input": [{"type": "function_call_output", "output": 4}]},
            ("'input[0].output' must be a string, an array or null, not a number.", "input[0].output"),
        ),
        (
            {"model": "a", "input": "x", "instructions": 1},
            ("'instructions' must be a string or null, not a number.", "instructions"),
        ),
        (
            {"model": "a", "input": "x", "reasoning": "high"},
            ("'reasoning' must be an object or null, not a string.", "reasoning"),
        ),
    ],
)
def test_a_field_that_is_not_what_the_api_requires_is_named(
    fields: dict[str, Any], refused: tuple[str, str]
) -> None:
    assert refusal(**fields) == refused
