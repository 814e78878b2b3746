"""The text of a request: the user's turns by parts, and everything that a model will read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import apis
from extproc.vocabulary import Api, Passage
from tests.apis.spelling import json_values

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def text(words: str, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": words}


def body(api: Api, turns: list[dict[str, Any]], **more: Any) -> bytes:
    name = "input" if api is Api.OPENAI_RESPONSES else "messages"
    return json.dumps({"model": "auto", "max_tokens": 9, name: turns, **more}).encode()


CHATS = [Api.OPENAI_CHAT, Api.OPENAI_RESPONSES, Api.ANTHROPIC_MESSAGES]


@pytest.mark.parametrize("api", CHATS)
def test_the_users_turns_are_read_by_parts_and_those_in_a_row_as_one(api: Api) -> None:
    turns = [
        said(USER, "one"),
        said(USER, [text("two"), text("three")]),
        said(ASSISTANT, "an answer"),
        said(USER, [text("four"), text("five")]),
    ]
    request = apis.parse(api, body(api, turns))
    assert request.user_turns == (("one", "two", "three"), ("four", "five"))
    assert request.user_parts == ("four", "five")


def read(api: Api, data: bytes) -> set[Passage]:
    apis.parse(api, data)
    return set(apis.everything(api, data))


CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "\\u0061 query"}'}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where", "enum": ["Lima"]}},
}


def test_everything_of_chat_completions() -> None:
    turns = [
        said(SYSTEM, "be kind"),
        said(
            USER,
            [
                text("split "),
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                text("up"),
            ],
        ),
        {"role": ASSISTANT, "tool_calls": [CALL]},
        said("tool", "a result", tool_call_id="c1"),
        said(USER, [{"type": "image_url", "image_url": {"url": "https://pictures.test/x"}}]),
        said(USER, [{"type": "file", "file": {"filename": "cv.pdf", "file_data": "AAAA"}}]),
    ]
    tools = [
        {
            "type": "function",
            "function": {"name": "weather", "description": "how it is", "parameters": SCHEMA},
        }
    ]
    assert read(Api.OPENAI_CHAT, body(Api.OPENAI_CHAT, turns, tools=tools, user="alice")) == {
        ("be kind",), ("split ", "up"), ("search",), (CALL["function"]["arguments"],), ("q",), ("a query",),
        ("a result",), ("https://pictures.test/x",), ("cv.pdf",),
        ("weather",), ("how it is",), ("city",), ("where",), ("Lima",),
    }  # fmt: skip


def test_everything_of_responses() -> None:
    items = [
        said(USER, [text("split ", "input_text"), text("up", "input_text")]),
        {"type": "function_call", "name": "search", "call_id": "c1", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "a result"},
        {"type": "message", "role": ASSISTANT, "content": [text("an answer", "output_text")]},
    ]
    assert read(Api.OPENAI_RESPONSES, body(Api.OPENAI_RESPONSES, items, instructions="be kind")) == {
        ("be kind",), ("split ", "up"), ("search",), ("{}",), ("a result",), ("an answer",),
    }  # fmt: skip
    assert read(Api.OPENAI_RESPONSES, b'{"model":"auto","input":"hello"}') == {("hello",)}


def test_everything_of_messages() -> None:
    turns = [
        said(USER, [
            {"type": "document", "title": "a letter", "source": {"type": "text", "media_type": "text/plain", "data": "dear sir"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
            text("what is it?"),
        ]),
        said(ASSISTANT, [{"type": "tool_use", "id": "t1", "name": "pay", "input": {"type": "card", "number": 4111, "to": ["bob"]}}]),
        said(USER, [{"type": "tool_result", "tool_use_id": "t1", "content": [text("paid "), text("twice")]}]),
    ]  # fmt: skip
    data = body(
        Api.ANTHROPIC_MESSAGES,
        turns,
        system=[text("be "), text("kind")],
        tools=[{"name": "pay", "input_schema": SCHEMA}],
    )
    assert read(Api.ANTHROPIC_MESSAGES, data) == {
        ("be ", "kind"), ("a letter",), ("dear sir",), ("what is it?",),
        ("pay",), ("type",), ("card",), ("number",), ("4111",), ("to",), ("bob",),
        ("paid ", "twice"), ("city",), ("where",), ("Lima",),
    }  # fmt: skip


def test_everything_of_completions() -> None:
    assert read(Api.OPENAI_COMPLETIONS, b'{"model":"auto","prompt":"hello","suffix":"bye"}') == {
        ("hello",),
        ("bye",),
    }
    assert read(Api.OPENAI_COMPLETIONS, b'{"model":"auto","prompt":["one","two"]}') == {("one", "two")}


@given(st.sampled_from(CHATS), st.lists(json_values, max_size=3), st.text(min_size=1))
def test_a_text_is_read_whatever_stands_beside_it(api: Api, others: list[Any], words: str) -> None:
    """Of a request as a provider may extend it: nothing is lost, and nothing fails."""
    parts = [{"type": "new", "new": other} for other in others]
    turns = [said(ASSISTANT, [*parts, text(words), *parts])]
    data = json.dumps({"messages": turns, "input": turns}).encode()
    assert any(words in passage for passage in apis.everything(api, data))
