"""JSON schemas and tools, obeyed in every API, through the official clients."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from extproc.demo.model_pool import Behaviour, FakeModel, Pool

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
IMPOSSIBLE = {
    "type": "object",
    "properties": {"id": {"type": "string", "pattern": "^A{3}$"}},
    "required": ["id"],
}
VALUE = {"city": "Oslo please", "days": 2}
CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Oslo please"}]}
INPUT: dict[str, Any] = {"model": "demo", "input": "Oslo please"}


class Clients:
    """Of one fake model."""

    def __init__(self, url: str) -> None:
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool({"demo": FakeModel("demo", key="k")}) as pool:
        yield pool


@pytest.fixture
async def clients(pool: Pool) -> AsyncIterator[Clients]:
    clients = Clients(pool["demo"].url)
    async with clients.openai, clients.anthropic:
        yield clients


def function(name: str, parameters: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "trip", "schema": schema, "strict": True}}


async def test_a_chat_answers_with_json_of_the_schema(clients: Clients) -> None:
    create = clients.openai.chat.completions.create
    plain = await create(**CHAT, response_format=response_format(SCHEMA))
    assert json.loads(plain.choices[0].message.content or "") == VALUE
    stream = await create(**CHAT, response_format=response_format(SCHEMA), stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert len(pieces) > 3
    assert json.loads("".join(pieces)) == VALUE


async def test_a_response_answers_with_json_of_the_schema(clients: Clients) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "trip", "schema": SCHEMA, "strict": True}}
    plain = await clients.openai.responses.create(**INPUT, text=text)
    assert json.loads(plain.output_text) == VALUE
    stream = await clients.openai.responses.create(**INPUT, text=text, stream=True)
    pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert json.loads("".join(pieces)) == VALUE


async def test_a_message_answers_with_json_of_the_schema(clients: Clients) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = await clients.anthropic.messages.create(**CHAT, max_tokens=99, output_config=config)
    assert [json.loads(block.text) for block in message.content if block.type == "text"] == [VALUE]


async def test_json_without_a_schema_is_an_object(clients: Clients) -> None:
    chat = await clients.openai.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    response = await clients.openai.responses.create(**INPUT, text={"format": {"type": "json_object"}})
    expected = {"answer": "Oslo please"}
    assert json.loads(chat.choices[0].message.content or "") == expected
    assert json.loads(response.output_text) == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_with_arguments_of_its_schema(clients: Clients, stream: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "plan"}}
    tools: Any = [function("plan")]
    if stream:
        chunks = await clients.openai.chat.completions.create(
            **CHAT, tools=tools, tool_choice=choice, stream=True
        )
        calls = [call async for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    else:
        answer = await clients.openai.chat.completions.create(**CHAT, tools=tools, tool_choice=choice)
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        arguments = call.function.arguments
    assert json.loads(arguments) == VALUE


async def test_a_tool_of_a_response_is_called_with_arguments_of_its_schema(clients: Clients) -> None:
    tools: Any = [{"type": "function", "name": "plan", "parameters": SCHEMA, "strict": True}]
    answer = await clients.openai.responses.create(**INPUT, tools=tools, tool_choice="required")
    assert [json.loads(item.arguments) for item in answer.output if item.type == "function_call"] == [VALUE]


async def test_a_tool_of_a_message_is_used_with_input_of_its_schema(clients: Clients) -> None:
    ask: Any = {
        "max_tokens": 99,
        "tools": [{"name": "plan", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any"},
    }
    message = await clients.anthropic.messages.create(**CHAT, **ask)
    assert [block.input for block in message.content if block.type == "tool_use"] == [VALUE]
    async with clients.anthropic.messages.stream(**CHAT, **ask) as stream:
        final = await stream.get_final_message()
    assert [block.input for block in final.content if block.type == "tool_use"] == [VALUE]


async def test_a_client_that_insists_on_tools_gets_each_in_turn(clients: Clients) -> None:
    """An agent ends with a tool of its own: a model that calls the first one for ever never ends."""
    turns: list[Any] = [*CHAT["messages"]]
    called = []
    for _ in range(2):
        answer = await clients.openai.chat.completions.create(
            model="demo", messages=turns, tools=[function("weather"), function("finish")], tool_choice="required"
        )  # fmt: skip
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        called.append(call.function.name)
        turns += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    assert called == ["weather", "finish"]


async def test_a_schema_that_no_value_can_be_made_for_is_a_bad_request(clients: Clients) -> None:
    with pytest.raises(openai.BadRequestError, match="makes no value for the schema"):
        await clients.openai.chat.completions.create(**CHAT, response_format=response_format(IMPOSSIBLE))
    with pytest.raises(anthropic.BadRequestError, match="makes no value for the schema"):
        await clients.anthropic.messages.create(
            **CHAT, max_tokens=9, tools=[{"name": "plan", "input_schema": IMPOSSIBLE}], tool_choice={"type": "any"}
        )  # fmt: skip


async def test_a_json_schema_format_without_a_schema_is_a_bad_request(clients: Clients) -> None:
    with pytest.raises(openai.BadRequestError, match="json_schema"):
        await clients.openai.chat.completions.create(**CHAT, response_format={"type": "json_schema"})


async def test_a_model_may_answer_in_prose_all_the_same(clients: Clients, pool: Pool) -> None:
    pool["demo"].behaviour = Behaviour(in_prose=True)
    chat = await clients.openai.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    assert (chat.choices[0].message.content or "").startswith("[demo] You asked: ")
