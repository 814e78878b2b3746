"""Reading chat requests, editing the model's name, and errors in the API's shape."""

import json
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from extproc import chat
from extproc.errors import BadRequest
from extproc.vocabulary import Api, ChatRequest

CHAT = Api.OPENAI_CHAT
HELLO = {"role": "user", "content": "Hello"}

# No example database and no clock: the same inputs on every run, however slow the machine.
deterministic = settings(derandomize=True, deadline=None, max_examples=300)


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [HELLO], **fields}).encode()


def parsed(**fields: Any) -> ChatRequest:
    return chat.parse(CHAT, encoded(**fields))


def refusal(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat.parse(CHAT, body)
    return caught.value


# --- Which requests are LLM calls ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat/completions?api-version=2",
        "/v1/chat/completions?next=/v1/models",
        "/v1/chat/completions/",
        "/chat/completions",
        "/tenants/a/openai/chat/completions",
    ],
)
def test_a_post_to_chat_completions_is_a_chat_request(path: str) -> None:
    assert chat.api_of("POST", path) is CHAT


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("OPTIONS", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/chat"),
        ("POST", "/v1/webchat/completions"),
        ("POST", "/v1/models?path=/chat/completions"),
        ("POST", "/"),
        ("POST", ""),
    ],
)
def test_every_other_request_is_not_an_llm_call(method: str, path: str) -> None:
    assert chat.api_of(method, path) is None


# --- What is read -------------------------------------------------------------------------------


def test_a_plain_request_is_read_whole() -> None:
    body = b'{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
    assert chat.parse(CHAT, body) == ChatRequest(
        api=CHAT,
        model="auto",
        model_span=(10, 16),
        user_text="Hello",
        body_bytes=len(body),
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
    assert error.message == "'messages[0].role' is not what the API requires: Number out of range."


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "a", "model": "b", "messages": [{"role": "user"}]}',
        b'{"model": "a", "model": "a", "messages": [{"role": "user"}]}',
        b'{"model": null, "messages": [{"role": "user"}], "model": "b"}',
        b'{"messages": [{"role": "user"}], "model": "a", "mod\\u0065l": "b"}',
        b'{"\\u006dodel": "a", "messages": [{"role": "user"}], "model"\n:\t"b"}',
        b'{"x": {"model": "z"}, "model": "a", "x": 1, "model": "b", "messages": [{"role": "user"}]}',
    ],
)
def test_two_models_are_refused_as_the_provider_might_read_the_other(body: bytes) -> None:
    error = refusal(body)
    assert (error.message, error.param) == (
        "'model' is given more than once; it must be given once.",
        "model",
    )


def test_a_copy_instead_of_a_view_of_the_model_is_never_taken_for_its_place() -> None:
    body = encoded()
    with pytest.raises(RuntimeError, match="not a view"):
        chat._span(body, msgspec.Raw(b'"auto"'))


# --- Any bytes ----------------------------------------------------------------------------------

fragments = st.sampled_from(
    [*'{}[]:,"\\', "\\u", "d83d", "null", "1", " ", "é", "\x00", '"model"', '"messages"', '"role"', '"user"']
)
valid = encoded(
    tools=[{"type": "function", "function": {"name": "é"}}], x={"model": 1.5e3, "y": "\U0001f600"}
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good body with some bytes cut out and others put in their place."""
    start = draw(st.integers(0, len(valid)))
    stop = draw(st.integers(start, min(len(valid), start + 8)))
    return valid[:start] + draw(st.binary(max_size=4)) + valid[stop:]


@deterministic
@given(st.one_of(st.binary(), st.lists(fragments, max_size=40).map(lambda f: "".join(f).encode()), damaged()))
def test_any_bytes_are_a_request_or_a_bad_request(body: bytes) -> None:
    try:
        request = chat.parse(CHAT, body)
    except BadRequest:
        return
    members = json.loads(body, object_pairs_hook=list)
    assert [value for key, value in members if key == "model"] == [request.model]
    assert json.loads(body[slice(*request.model_span)]) == request.model


def repeated(unit: bytes) -> Callable[[int], bytes]:
    return lambda size: unit * (size // len(unit))


def inside(prefix: bytes, unit: bytes, suffix: bytes) -> Callable[[int], bytes]:
    return lambda size: prefix + unit * (size // len(unit)) + suffix


@pytest.mark.parametrize(
    "hostile",
    [
        repeated(b"["),
        repeated(b"{"),
        repeated(b'"",'),
        repeated(b'"'),
        repeated(b"\\"),
        repeated(b" "),
        repeated(b"\x00"),
        repeated(b'"model",'),
        repeated(b'{"model":'),
        repeated(b'{"messages":['),
        inside(b'{"messages":[{"role":"user","content":"', b"\\n", b'"}],"model":"a"}'),
        inside(b'{"messages":[{"role":"user","content":[', b'{"type":""},', b'{"type":""}]}],"model":"a"}'),
        inside(b'{"messages":[{"role":"user"}],"model"', b" ", b':"a"}'),
        inside(b'{"messages":[{"role":"user"}],', b'"model":"b",', b'"model":"a"}'),
        inside(b'{"messages":[{"role":"user"}],"model":"', b"a", b'"}'),
    ],
)
def test_a_large_hostile_body_is_a_request_or_a_bad_request(hostile: Callable[[int], bytes]) -> None:
    body = hostile(1 << 20)
    with suppress(BadRequest):
        assert chat.parse(CHAT, body).model == "a"


# --- The edit -----------------------------------------------------------------------------------

READ = {"model", "messages", "tools", "functions", "stream"}

styles = st.integers(0, 2**32).map(Random)
keys = st.one_of(st.sampled_from(["model", "Model", "messages", "x"]), st.text(max_size=6))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)
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
names = st.one_of(
    st.sampled_from(["auto", "model", '"model"', "{}", "gpt-4o"]), st.text(min_size=1, max_size=8)
)


def escape(character: str) -> str:
    """The character as JSON escapes of its UTF-16 code units."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def spelled(value: Any, style: Random) -> str:
    """One of the many ways to write a value as JSON: order of keys, whitespace, escapes or raw UTF-8."""
    before, after = ("".join(style.choices(" \t\r\n", k=style.choice((0, 0, 1, 2)))) for _ in range(2))
    if isinstance(value, str):
        plain = (json.dumps(character, ensure_ascii=False)[1:-1] for character in value)
        escapes = style.choice((0.0, 0.3, 1.0))
        written = (escape(c) if style.random() < escapes else p for c, p in zip(value, plain, strict=True))
        text = f'"{"".join(written)}"'
    elif isinstance(value, list):
        text = f"[{before}{','.join(spelled(item, style) for item in value)}]"
    elif isinstance(value, dict):
        members = style.sample(list(value.items()), len(value))
        text = f"{{{before}{','.join(f'{spelled(k, style)}:{spelled(v, style)}' for k, v in members)}}}"
    else:
        text = json.dumps(value)
    return f"{before}{text}{after}"


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A chat request with unknown fields, models nested in them, and its fields in any order."""
    others = draw(st.dictionaries(keys.filter(lambda key: key not in READ), json_values))
    return {**others, "model": draw(names), "messages": draw(st.lists(turns, min_size=1, max_size=4))}


@deterministic
@given(requests(), names, styles)
def test_with_model_changes_the_name_and_no_other_byte(
    original: dict[str, Any], name: str, style: Random
) -> None:
    assume(name != original["model"])
    body = spelled(original, style).encode()

    request = chat.parse(CHAT, body)
    edited = chat.with_model(body, request, name)

    start, end = request.model_span
    suffix = body[end:]
    assert edited[:start] == body[:start]
    assert edited.endswith(suffix)
    assert json.loads(edited[start : len(edited) - len(suffix)]) == name
    assert json.loads(edited) == {**original, "model": name}
    assert chat.parse(CHAT, edited).model == name


@deterministic
@given(requests(), styles)
def test_parsing_agrees_with_a_plain_reading_of_the_json(original: dict[str, Any], style: Random) -> None:
    body = spelled(original, style).encode()

    request = chat.parse(CHAT, body)

    users = [message for message in original["messages"] if message["role"] == "user"]
    content = (users[-1]["content"] if users else None) or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    assert request.model == original["model"]
    assert request.messages == len(original["messages"])
    assert request.user_text == "\n".join(p["text"] for p in parts if p["type"] == "text" and p["text"])
    assert request.images == sum(p["type"] != "text" for p in parts)
    assert request.body_bytes == len(body)


@deterministic
@given(requests(), names, styles)
def test_a_second_model_is_refused_wherever_it_stands_and_however_it_is_spelled(
    original: dict[str, Any], second: str, style: Random
) -> None:
    members = [*original.items(), ("model", second)]
    style.shuffle(members)
    body = ",".join(f"{spelled(key, style)}:{spelled(value, style)}" for key, value in members)
    assert refusal(f"{{{body}}}".encode()).param == "model"


def test_with_model_gives_the_same_object_when_the_name_is_already_right() -> None:
    body = b'{"model": "\\u0061uto", "messages": [{"role": "user"}]}'
    assert chat.with_model(body, chat.parse(CHAT, body), "auto") is body


def test_with_model_leaves_number_spelling_and_equal_text_elsewhere_alone() -> None:
    body = (
        b'{"seed":9007199254740993,"p":1.50,"model" : "auto","messages":[{"role":"user","content":"auto"}]}'
    )
    assert chat.with_model(body, chat.parse(CHAT, body), 'a"b') == body.replace(b': "auto"', b': "a\\"b"')


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (499, "invalid_request_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_an_error_has_openais_shape(status: int, kind: str) -> None:
    body = chat.error_body(CHAT, status=status, message='No "x" é', code="request_denied", param="model")
    assert json.loads(body) == {
        "error": {"message": 'No "x" é', "type": kind, "param": "model", "code": "request_denied"}
    }


def test_an_error_without_code_and_param_says_null_as_clients_read_both() -> None:
    body = chat.error_body(CHAT, status=400, message="No.")
    assert json.loads(body)["error"] == {
        "message": "No.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_tools_without_end_are_refused_since_rules_match_against_each() -> None:
    assert len(parsed(tools=[{"type": "x"}] * 2048).tools) == 2048
    error = refusal(encoded(tools=[{"type": "x"}] * 2000, functions=[{"name": "f"}] * 49))
    assert (error.message, error.param) == ("'tools' must hold at most 2048 tools.", "tools")
