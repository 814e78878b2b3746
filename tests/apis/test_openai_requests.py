"""Reading OpenAI's chat completions and completions, and its errors."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import apis
from extproc.errors import BadRequest
from extproc.vocabulary import Api, ChatRequest
from tests.apis.spelling import json_values, keys, names, spelled, styles, thorough

CHAT = Api.OPENAI_CHAT
COMPLETIONS = Api.OPENAI_COMPLETIONS
HELLO = {"role": "user", "content": "Hello"}


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [HELLO], **fields}).encode()


def parsed(**fields: Any) -> ChatRequest:
    return apis.parse(CHAT, encoded(**fields))


def refusal(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        apis.parse(CHAT, body)
    return caught.value


# --- What is read -------------------------------------------------------------------------------


def test_a_plain_request_is_read_whole() -> None:
    body = b'{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
    assert apis.parse(CHAT, body) == ChatRequest(
        api=CHAT,
        model="auto",
        spans={"model": (10, 16), "stream": (28, 32), "messages": (46, 84)},
        user_text="Hello",
        body_bytes=len(body),
        user_parts=("Hello",),
        user_turns=(("Hello",),),
        stream=True,
        prompt_chars=5,
    )


def test_the_latest_user_turn_is_the_text() -> None:
    request = parsed(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": "second"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]
    )
    assert (request.user_text, request.messages) == ("second", 6)


def test_text_parts_are_joined_and_every_other_part_counts_as_an_image() -> None:
    earlier = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    latest = {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is"},
            {"type": "image_url", "image_url": {"url": "data:,"}},
            {"type": "input_text", "text": "on these?"},
            {"type": "text", "text": ""},
            {"type": "text", "text": None},
            {"type": "hologram", "text": "of a kind not invented yet"},
        ],
    }
    request = parsed(messages=[earlier, latest])
    assert (request.user_text, request.images) == ("What is\non these?", 2)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Only a system prompt."}],
        [{"role": "narrator", "content": "A role not invented yet."}],
        [HELLO, {"role": "user", "content": ""}],
        [HELLO, {"role": "user", "content": None}],
        [HELLO, {"role": "user"}],
        [HELLO, {"role": "user", "content": []}],
    ],
)
def test_a_request_without_user_text_has_an_empty_one(messages: list[dict[str, Any]]) -> None:
    request = parsed(messages=messages)
    assert (request.user_text, request.images) == ("", 0)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ()),
        ({"tools": None, "functions": None}, ()),
        ({"tools": []}, ()),
        ({"tools": [{"type": "function", "function": {"name": "search", "parameters": {}}}]}, ("search",)),
        ({"tools": [{"type": "custom", "custom": {"name": "shell"}}]}, ("shell",)),
        ({"tools": [{"type": "custom", "custom": {"name": "shell"}, "function": {"name": "x"}}]}, ("shell",)),
        ({"tools": [{"type": "mystery", "name": "flat"}]}, ("flat",)),
        ({"tools": [{"type": "web_search", "function": {}, "name": None}]}, ("web_search",)),
        ({"tools": [{}]}, ()),
        ({"functions": [{"name": "old"}], "tools": [{"function": {"name": "new"}}]}, ("new", "old")),
    ],
)
def test_tools_are_known_by_their_names(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    assert parsed(**fields).tools == names


@pytest.mark.parametrize(("stream", "expected"), [(True, True), (False, False), (None, False)])
def test_stream_may_be_null(stream: bool | None, expected: bool) -> None:
    assert parsed(stream=stream).stream is expected


def test_unknown_fields_are_left_alone_whatever_they_hold() -> None:
    future = {"model": 1, "messages": {"stream": "x"}, "huge": 10**400, "nested": [[[{"role": None}]]]}
    assert parsed(future=future, temperature=0.5, store=None).user_text == "Hello"


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request body is empty; it must be a JSON object."),
        (b"hello", "The request body is not valid JSON: invalid character (byte 0)."),
        (b'{"model": "auto"', "The request body is not valid JSON: Input data was truncated."),
        (encoded() + b"{}", "The request body is not valid JSON: trailing characters (byte 70)."),
        (b"\xef\xbb\xbf" + encoded(), "The request body is not valid JSON: invalid character (byte 0)."),
        (b'{"x": NaN}', "The request body is not valid JSON: invalid character (byte 6)."),
        (b'{"x": "\xff"}', "The request body is not valid UTF-8 (byte 7)."),
        (b'{"x": "\xed\xa0\x80"}', "The request body is not valid UTF-8 (byte 7)."),  # a surrogate
        (b'{"x": ' + b"[" * 100_000, "The request body is nested too deeply."),
        (b'{"model": ' * 100_000, "The request body is nested too deeply."),
        (b"[]", "The request body must be an object, not an array."),
        (b"null", "The request body must be an object, not null."),
        (b'"model"', "The request body must be an object, not a string."),
        (encoded(x="{" * 250_000), "The request body must hold at most 250000 opening braces."),
    ],
)
def test_a_body_that_is_not_a_readable_json_object_is_refused(body: bytes, message: str) -> None:
    error = refusal(body)
    assert (error.message, error.param, error.status) == (message, None, 400)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": None}, "model", "'model' must be a string, not null."),
        ({"model": 4}, "model", "'model' must be a string, not a number."),
        ({"model": ["a"]}, "model", "'model' must be a string, not an array."),
        ({"model": ""}, "model", "'model' must not be empty."),
        ({"model": "m" * 1025}, "model", "'model' must have at most 1024 characters."),
        ({"messages": None}, "messages", "'messages' must be an array, not null."),
        ({"messages": "Hello"}, "messages", "'messages' must be an array, not a string."),
        ({"messages": HELLO}, "messages", "'messages' must be an array, not an object."),
        ({"messages": []}, "messages", "'messages' must hold at least one message."),
        ({"messages": ["Hello"]}, "messages[0]", "'messages[0]' must be an object, not a string."),
        ({"messages": [HELLO, {}]}, "messages[1].role", "'messages[1].role' is required."),
        (
            {"messages": [{"role": True}]},
            "messages[0].role",
            "'messages[0].role' must be a string, not a boolean.",
        ),
        (
            {"messages": [{"role": "user", "content": 1.5}, HELLO]},
            "messages[0].content",
            "'messages[0].content' must be a string, an array or null, not a number.",
        ),
        (
            {"messages": [{"role": "user", "content": {"type": "text"}}]},
            "messages[0].content",
            "'messages[0].content' must be a string, an array or null, not an object.",
        ),
        (
            {"messages": [{"role": "user", "content": ["Hello"]}]},
            "messages[0].content[0]",
            "'messages[0].content[0]' must be an object, not a string.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]},
            "messages[0].content[0].type",
            "'messages[0].content[0].type' is required.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0].text",
            "'messages[0].content[0].text' must be a string or null, not a number.",
        ),
        ({"tools": {}}, "tools", "'tools' must be an array or null, not an object."),
        (
            {"tools": [{"function": {"name": 1}}]},
            "tools[0].function.name",
            "'tools[0].function.name' must be a string or null, not a number.",
        ),
        ({"stream": "yes"}, "stream", "'stream' must be a boolean or null, not a string."),
    ],
)
def test_a_field_that_is_not_what_the_api_requires_is_named(
    fields: dict[str, Any], param: str, message: str
) -> None:
    error = refusal(encoded(**fields))
    assert (error.message, error.param) == (message, param)


@pytest.mark.parametrize(
    ("body", "param"), [(b'{"messages": [{"role": "user"}]}', "model"), (b'{"model": "auto"}', "messages")]
)
def test_a_missing_field_is_named(body: bytes, param: str) -> None:
    error = refusal(body)
    assert (error.message, error.param) == (f"'{param}' is required.", param)


def test_a_number_beyond_every_float_is_refused_where_it_is_read() -> None:
    error = refusal(b'{"model": "auto", "messages": [{"role": 1e999}]}')
    assert error.param == "messages[0].role"
    assert error.message == "'messages[0].role' is not valid: Number out of range."


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "a", "model": "b", "messages": [{"role": "user"}]}',
        b'{"model": "a", "model": "a", "messages": [{"role": "user"}]}',
        b'{"model": null, "messages": [{"role": "user"}], "model": "b"}',
        b'{"messages": [{"role": "user"}], "model": "a", "mod\\u0065l": "b"}',
        b'{"\\u006dodel": "a", "messages": [{"role": "user"}], "model"\n:\t"b"}',
        b'{"x": {"model": "z"}, "model": "a", "y": 1, "model": "b", "messages": [{"role": "user"}]}',
    ],
)
def test_two_models_are_refused_as_the_provider_might_read_the_other(body: bytes) -> None:
    error = refusal(body)
    assert (error.message, error.param) == (
        "'model' is given more than once; it must be given once.",
        "model",
    )


def test_tools_without_end_are_refused_since_rules_match_against_each() -> None:
    assert len(parsed(tools=[{"type": "x"}] * 2048).tools) == 2048
    error = refusal(encoded(tools=[{"type": "x"}] * 2000, functions=[{"name": "f"}] * 49))
    assert (error.message, error.param) == ("'tools' must hold at most 2048 tools.", "tools")


# --- Reading agrees with a plain reading of the JSON --------------------------------------------

READ = {"model", "messages", "tools", "functions", "stream"}

contents = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.lists(
        st.one_of(
            st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=8)}),
            st.fixed_dictionaries({"type": st.just("image_url"), "image_url": json_values}),
        ),
        max_size=3,
    ),
)
turns = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": contents})


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A chat request with unknown fields, models nested in them, and its fields in any order."""
    others = draw(st.dictionaries(keys.filter(lambda key: key not in READ), json_values))
    return {**others, "model": draw(names), "messages": draw(st.lists(turns, min_size=1, max_size=4))}


@thorough
@given(requests(), styles)
def test_parsing_agrees_with_a_plain_reading_of_the_json(original: dict[str, Any], style: Random) -> None:
    body = spelled(original, style).encode()

    request = apis.parse(CHAT, body)

    users = [message for message in original["messages"] if message["role"] == "user"]
    content = (users[-1]["content"] if users else None) or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    assert request.model == original["model"]
    assert request.messages == len(original["messages"])
    assert request.user_text == "\n".join(p["text"] for p in parts if p["type"] == "text" and p["text"])
    assert request.images == sum(p["type"] != "text" for p in parts)
    assert request.body_bytes == len(body)


# --- Limits, sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 0}, 0),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_completion_tokens": 7.0}, 7),
        ({"max_tokens": -1}, -1),  # for the provider to refuse
    ],
)
def test_the_limit_of_a_chat_is_given_by_either_name(fields: dict[str, Any], limit: int | None) -> None:
    assert parsed(**fields).max_tokens == limit


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"max_tokens": 1.5}, "max_tokens", "'max_tokens' must be a whole number."),
        ({"max_tokens": True}, "max_tokens", "'max_tokens' must be a number or null, not a boolean."),
        (
            {"stream_options": []},
            "stream_options",
            "'stream_options' must be an object or null, not an array.",
        ),
        (
            {"stream_options": {"include_usage": "yes"}},
            "stream_options.include_usage",
            "'stream_options.include_usage' must be a boolean or null, not a string.",
        ),
    ],
)
def test_what_an_edit_may_concern_is_checked_first(fields: dict[str, Any], param: str, message: str) -> None:
    error = refusal(encoded(**fields))
    assert (error.message, error.param) == (message, param)


def test_prompt_chars_are_all_texts_and_the_json_of_tools_and_calls_but_no_media() -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    request = parsed(
        messages=[
            {"role": "system", "content": "12345"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "éé"},
                    {"type": "image_url", "image_url": {"url": "data:" + "x" * 999}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "1", "content": "678"},
        ],
        tools=tools,
    )
    assert request.prompt_chars == 5 + 2 + 3 + len(json.dumps(calls)) + len(json.dumps(tools))


# --- Completions --------------------------------------------------------------------------------


def completion(**fields: Any) -> ChatRequest:
    return apis.parse(COMPLETIONS, json.dumps({"model": "auto", **fields}).encode())


@pytest.mark.parametrize(
    ("prompt", "text", "chars"),
    [
        ("Once upon", "Once upon", 9),
        ("", "", 0),
        (["one", "", "two"], "one\ntwo", 7),
        ([1, 2, 3], "", 12),
        ([[1, 2], [3]], "", 12),
    ],
)
def test_a_prompt_is_the_users_turn_and_has_no_text_as_tokens(prompt: Any, text: str, chars: int) -> None:
    request = completion(prompt=prompt)
    assert (request.user_text, request.prompt_chars, request.messages, request.images) == (text, chars, 1, 0)


def test_a_completion_has_a_limit_and_may_stream() -> None:
    request = completion(prompt="x", max_tokens=9, stream=True)
    assert (request.api, request.max_tokens, request.stream, request.tools) == (COMPLETIONS, 9, True, ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'prompt' is required."),
        ({"prompt": None}, "'prompt' must be a string or an array, not null."),
        ({"prompt": {}}, "'prompt' must be a string or an array, not an object."),
        ({"prompt": []}, "'prompt' must hold at least one prompt."),
        ({"prompt": ["a"] * 250_001}, "'prompt' must hold at most 250000 strings."),
    ],
)
def test_a_prompt_that_is_none_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        completion(**fields)
    assert (caught.value.message, caught.value.param) == (message, "prompt")


def test_text_cannot_hide_among_tokens() -> None:
    with pytest.raises(BadRequest, match=r"'prompt\[0\]' must be a string, not a number\."):
        completion(prompt=[1, "text that no rule would see"])


def test_a_strange_item_of_a_prompt_is_named() -> None:
    with pytest.raises(BadRequest, match=r"'prompt\[1\]' must be a string, not a number\."):
        completion(prompt=["a", 1])
