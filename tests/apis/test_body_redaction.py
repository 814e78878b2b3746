"""A redacted body is the same JSON with other texts; what cannot be replaced is noticed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis.body_redaction import redacted, still_contains
from extproc.safety.redaction import Redactor
from extproc.safety.text_scan import KINDS
from extproc.vocabulary import Api

MAIL = "ann@example.com"


def redact(body: Any) -> Any:
    return json.loads(redacted(json.dumps(body).encode(), Redactor(KINDS)))


BODIES: dict[Api, dict[str, Any]] = {
    Api.OPENAI_CHAT: {
        "model": MAIL,
        "messages": [
            {"role": "system", "content": f"write to {MAIL}"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": MAIL}]},
            {"role": "tool", "tool_call_id": "1", "content": f"found {MAIL}"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": f"mails {MAIL}"}}],
        "metadata": {"to": MAIL},
    },
    Api.OPENAI_COMPLETIONS: {"model": MAIL, "prompt": [f"a {MAIL}", "b"], "suffix": MAIL},
    Api.OPENAI_RESPONSES: {
        "model": MAIL,
        "instructions": MAIL,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": MAIL}]},
            {
                "type": "function_call",
                "call_id": "c",
                "name": "f",
                "arguments": json.dumps({"to": [MAIL, 1]}),
            },
            {"type": "function_call_output", "call_id": "c", "output": MAIL},
        ],
    },
    Api.ANTHROPIC_MESSAGES: {
        "model": MAIL,
        "system": [{"type": "text", "text": MAIL}],
        "messages": [
            {"role": "user", "content": MAIL},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"to": MAIL}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": MAIL}]},
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": MAIL}}
                ],
            },
        ],
    },
}


@pytest.mark.parametrize("api", Api)
def test_every_text_of_each_api_is_redacted_and_the_models_name_is_not(api: Api) -> None:
    body = json.dumps(BODIES[api]).encode()
    redactor = Redactor(["email"])
    made = redacted(body, redactor)
    assert made == body.replace(MAIL.encode(), b"[EMAIL_1]").replace(b"[EMAIL_1]", MAIL.encode(), 1)
    assert not still_contains(api, made, redactor)
    assert still_contains(api, body, redactor)


def test_bytes_that_need_no_change_stay() -> None:
    body = b'{ "messages" : [ {"role":"user", "content":"a\\u0062c ann\\u0040example.com \\ud83d\\ude00"}],"n":1.0 ,"x":1E400}'
    expected = (
        b'{ "messages" : [ {"role":"user", "content":"abc [EMAIL_1] \xf0\x9f\x98\x80"}],"n":1.0 ,"x":1E400}'
    )
    assert redacted(body, Redactor(KINDS)) == expected
    plain = b'{"messages":[{"role":"user","content":"hi"}]}'
    assert redacted(plain, Redactor(KINDS)) is plain


def test_names_ids_and_media_stay() -> None:
    image = "data:image/png;base64,4111111111111111"
    message = {
        "role": "user",
        "tool_call_id": MAIL,
        "content": [{"type": "image_url", "image_url": {"url": image}}],
    }
    body = {"messages": [message, {"type": "file", "file_id": MAIL, "file_data": MAIL}]}
    assert redact(body) == body


def test_what_a_tool_is_called_with_stays_json() -> None:
    call = {
        "name": "pay",
        "arguments": '{"card": 4111111111111111, "note": "say \\"ann@example.com\\"", "n": 3}',
    }
    made = redact({"messages": [{"tool_calls": [{"type": "function", "function": call}]}]})
    arguments = json.loads(made["messages"][0]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"card": "[CARD_1]", "note": 'say "[EMAIL_1]"', "n": 3}
    made = redact(
        {"messages": [{"content": [{"type": "tool_use", "input": {"card": 4111111111111111, "n": 3}}]}]}
    )
    assert made["messages"][0]["content"][0]["input"] == {"card": "[CARD_1]", "n": 3}


def test_a_number_outside_of_a_tools_arguments_stays_and_is_noticed_where_a_model_reads_it() -> None:
    body = b'{"seed": 4111111111111111, "messages": []}'
    assert redacted(body, Redactor(KINDS)) is body
    named = json.dumps({"messages": [{"content": [{"type": "tool_use", "input": {MAIL: 1}}]}]}).encode()
    redactor = Redactor(KINDS)
    assert still_contains(Api.ANTHROPIC_MESSAGES, redacted(named, redactor), redactor)


TEXTS = st.text(max_size=12) | st.sampled_from(
    [MAIL, "4111 1111 1111 1111", '"', "\\", "{", "[1", '{"a": "b@c.de"}', "%40"]
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS | st.sampled_from(["arguments", "input", "type", "url"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def shape(value: Any, called: bool = False) -> Any:
    """The value with a mark in place of each text, and of each number that may become one."""
    if isinstance(value, dict):
        return {key: shape(item, called or key in ("arguments", "input")) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item, called) for item in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "text" if isinstance(value, str) or (called and number) else value


@given(st.dictionaries(TEXTS | st.sampled_from(["messages", "input"]), VALUES, max_size=4), st.booleans())
def test_any_body_stays_the_same_json_but_for_its_texts(body: dict[str, Any], ascii_only: bool) -> None:
    encoded = json.dumps(body, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    made = redacted(encoded, Redactor(KINDS))
    assert shape(json.loads(made.decode(errors="surrogatepass"))) == shape(body)
