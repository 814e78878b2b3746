"""The pool's responses seen through the official client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall

from extproc.demo.model_pool import FakeModel, Pool

WEATHER: list[Any] = [{"type": "function", "name": "get_weather", "parameters": {}, "strict": False}]


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        Pool({"small": FakeModel("demo-small", key="k")}) as pool,
        openai.AsyncOpenAI(base_url=f"{pool['small'].url}/v1", api_key="k", max_retries=0) as client,
    ):
        yield client


async def test_a_json_answer_is_a_completed_response_with_its_usage(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(model="demo-small", input="hello there", instructions="Be brief.")
    assert (answer.object, answer.model, answer.status) == ("response", "demo-small", "completed")
    assert answer.output_text.startswith('[demo-small] You asked: "hello there".')
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, len(answer.output_text.split()))
    Response.model_validate(answer.to_dict())  # strictly: the client itself would bear with less


async def test_items_with_images_and_earlier_turns_are_read(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model="demo-small",
        input=[
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "answer"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is this"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
                ],
            },
        ],
    )
    assert 'You asked: "what is this"' in answer.output_text


async def test_the_events_of_a_stream_run_from_created_to_completed(client: openai.AsyncOpenAI) -> None:
    plain = await client.responses.create(model="demo-small", input="hello")
    stream = await client.responses.create(model="demo-small", input="hello", stream=True)
    events = [event async for event in stream]
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert first.response.usage is None
    assert last.type == "response.completed"
    assert last.response.usage == plain.usage
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == plain.output_text == last.response.output_text


async def test_the_clients_own_stream_helper_accepts_the_events(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="demo-small", input="hello") as stream:
        final = await stream.get_final_response()
    assert final.output_text.startswith("[demo-small]")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_makes_the_answer_incomplete(client: openai.AsyncOpenAI, stream: bool) -> None:
    ask: dict[str, Any] = {
        "model": "demo-small",
        "input": "one two three four five six seven eight nine ten eleven twelve",
        "max_output_tokens": 16,
    }
    if stream:
        *_, last = [event async for event in await client.responses.create(**ask, stream=True)]
        assert last.type == "response.incomplete"
        answer = last.response
    else:
        answer = await client.responses.create(**ask)
    assert (answer.status, len(answer.output_text.split())) == ("incomplete", 16)
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


async def test_a_tool_is_called_and_its_result_answered_in_words(client: openai.AsyncOpenAI) -> None:
    ask: list[Any] = [{"role": "user", "content": "use get_weather for Oslo"}]
    called = await client.responses.create(model="demo-small", input=ask, tools=WEATHER)
    call = called.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "get_weather: sunny"}
    answer = await client.responses.create(
        model="demo-small", input=[*ask, call.to_dict(), result], tools=WEATHER
    )
    assert answer.output_text.startswith("[demo-small]")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
async def test_a_streamed_tool_call_tells_its_arguments(client: openai.AsyncOpenAI, choice: Any) -> None:
    stream = await client.responses.create(
        model="demo-small", input="hello", tools=WEATHER, tool_choice=choice, stream=True
    )
    events = [event async for event in stream]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == ["{}"]
    assert events[-1].type == "response.completed"
    assert [item.type for item in events[-1].response.output] == ["function_call"]


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": [{"role": "user"}]},
        {"input": [{"role": "user", "content": [{"type": "text", "text": "of another API"}]}]},
        {"input": [{"type": "function_call_output", "output": "x"}]},
        {"max_output_tokens": 15},
        {"reasoning": {"effort": "enormous"}},
        {"previous_response_id": "resp_1"},
        {"extra_body": {"max_tokens": 5}},
        {"extra_body": {"stream_options": {}, "messages": []}},
    ],
)
async def test_what_the_api_cannot_use_is_a_bad_request(
    client: openai.AsyncOpenAI, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**{"model": "demo-small", "input": "hello", **fields})
    assert caught.value.type == "invalid_request_error"
