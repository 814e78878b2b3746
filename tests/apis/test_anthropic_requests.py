"""Reading Anthropic's messages."""

import json
from typing import Any

import pytest

from extproc import apis
from extproc.errors import BadRequest
from extproc.vocabulary import Api, ChatRequest

MESSAGES = Api.ANTHROPIC_MESSAGES
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x" * 999}}
HELLO = {"role": "user", "content": "Hello"}
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}


def parsed(**fields: Any) -> ChatRequest:
    body = json.dumps({"model": "auto", "max_tokens": 9, "messages": [HELLO], **fields}).encode()
    return apis.parse(MESSAGES, body)


def result(content: Any, *others: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "1", "content": content}, *others],
    }


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_a_plain_request_is_read_whole() -> None:
    body = b'{"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}], "stream": true}'
    assert apis.parse(MESSAGES, body) == ChatRequest(
        api=MESSAGES,
        model="auto",
        spans={"model": (10, 16), "max_tokens": (32, 33), "messages": (47, 85), "stream": (97, 101)},
        user_text="Hello",
        body_bytes=len(body),
        user_parts=("Hello",),
        user_turns=(("Hello",),),
        stream=True,
        prompt_chars=5,
        max_tokens=9,
    )


@pytest.mark.parametrize(
    ("messages", "asked", "media"),
    [
        ([HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}], "Bye", 0),
        ([HELLO, {"role": "assistant", "content": "prefilled"}], "Hello", 0),
        (
            [{"role": "user", "content": [text("What is"), IMAGE, text(""), text("this?")]}],
            "What is\nthis?",
            1,
        ),
        ([HELLO, CALL, result("42")], "Hello", 0),
        ([HELLO, CALL, result("42"), CALL, result([text("43")])], "Hello", 0),
        ([HELLO, CALL, result(None, text("And now?"))], "And now?", 0),
        # What the model will look at counts from the question on, and not before.
        (
            [{"role": "user", "content": [IMAGE, text("See?")]}, CALL, result([text("seen"), IMAGE])],
            "See?",
            2,
        ),
        ([{"role": "user", "content": [IMAGE, text("See?")]}, CALL, HELLO], "Hello", 0),
        ([HELLO, {"role": "user", "content": [IMAGE]}], "Hello", 1),
        ([{"role": "user", "content": [IMAGE]}], "", 1),
        ([{"role": "assistant", "content": "Hi"}], "", 0),
        ([HELLO, {"role": "user", "content": [{"type": "of a kind to come", "content": 1}]}], "Hello", 1),
    ],
)
def test_the_latest_turn_with_text_of_its_own_is_asked(messages: list[Any], asked: str, media: int) -> None:
    request = parsed(messages=messages)
    assert (request.user_text, request.images, request.messages) == (asked, media, len(messages))


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        (None, ()),
        ([{"name": "search", "input_schema": {}}], ("search",)),
        ([{"type": "web_search_20250305", "name": "web_search"}], ("web_search",)),
        ([{"type": "browser_toolset_20260801"}, {}], ("browser_toolset_20260801",)),
    ],
)
def test_tools_are_known_by_their_names(tools: Any, names: tuple[str, ...]) -> None:
    assert parsed(tools=tools).tools == names


def test_prompt_chars_are_all_texts_and_the_json_of_tools_and_calls_but_no_media() -> None:
    tools = [{"name": "f", "input_schema": {}}]
    turn = {"role": "user", "content": [text("éé"), IMAGE]}
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}]}
    messages = [turn, thought, CALL, result([text("123"), IMAGE]), result("4567")]
    request = parsed(system=[text("12345"), text("6")], messages=messages, tools=tools)
    assert request.prompt_chars == 6 + 2 + len("{}") + 3 + 4 + len(json.dumps(tools))
    assert parsed(system="Be brief.").prompt_chars == len("Be brief.") + len("Hello")


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"max_tokens": None}, "'max_tokens' is required.", "max_tokens"),
        ({"max_tokens": 1.5}, "'max_tokens' must be a whole number.", "max_tokens"),
        ({"messages": []}, "'messages' must hold at least one message.", "messages"),
        ({"messages": [{"role": "user"}]}, "'messages[0].content' is required.", "messages[0].content"),
        (
            {"messages": [HELLO, result([{}])]},
            "'messages[1].content[0].content[0].type' is required.",
            "messages[1].content[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "'messages[0].content' must be a string or an array, not null.",
            "messages[0].content",
        ),
        ({"system": {}}, "'system' must be a string, an array or null, not an object.", "system"),
        ({"thinking": True}, "'thinking' must be an object or null, not a boolean.", "thinking"),
        (
            {"thinking": {"type": 1}},
            "'thinking.type' must be a string or null, not a number.",
            "thinking.type",
        ),
        (
            {"thinking": {"budget_tokens": "1"}},
            "'thinking.budget_tokens' must be a number or null, not a string.",
            "thinking.budget_tokens",
        ),
    ],
)
def test_a_field_that_is_not_what_the_api_requires_is_named(
    fields: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        parsed(**fields)
    assert (caught.value.message, caught.value.param) == (message, param)


def test_max_tokens_and_messages_are_required() -> None:
    for name in ("max_tokens", "messages"):
        body = json.dumps({"model": "a", "max_tokens": 1, "messages": [HELLO]} | {name: None}).encode()
        absent = body.replace(f'"{name}"'.encode(), b'"x"')
        with pytest.raises(BadRequest, match=f"'{name}' is required."):
            apis.parse(MESSAGES, absent)
