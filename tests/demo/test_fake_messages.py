"""The pool's messages seen through Anthropic's official client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import pytest
from anthropic.types import Message, ToolUseBlock

from extproc.demo.model_pool import Behaviour, FakeModel, Pool

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
WEATHER: list[Any] = [{"name": "get_weather", "input_schema": {"type": "object"}}]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
ASK: dict[str, Any] = {"model": "demo-small", "max_tokens": 99, "messages": HELLO}


@pytest.fixture
async def small() -> AsyncIterator[FakeModel]:
    async with Pool({"small": FakeModel("demo-small", key="k")}) as pool:
        yield pool["small"]


@pytest.fixture
async def client(small: FakeModel) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=small.url, api_key="k", max_retries=0) as client:
        yield client


def said(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_a_json_answer_is_a_message_with_its_usage(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(**ASK, system="Be brief.")
    assert (answer.type, answer.role, answer.model, answer.stop_reason) == (
        "message",
        "assistant",
        "demo-small",
        "end_turn",
    )
    assert said(answer).startswith('[demo-small] You asked: "hello there".')
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, len(said(answer).split()))
    Message.model_validate(answer.to_dict())  # strictly: the client itself would bear with less


async def test_images_earlier_turns_and_several_blocks_are_read(client: anthropic.AsyncAnthropic) -> None:
    turns = [
        *HELLO,
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "what is this"}, IMAGE]},
    ]
    answer = await client.messages.create(**ASK | {"messages": turns})
    assert 'You asked: "what is this"' in said(answer)


async def test_the_events_of_a_stream_tell_input_first_and_output_last(
    client: anthropic.AsyncAnthropic,
) -> None:
    plain = await client.messages.create(**ASK)
    events = [event async for event in await client.messages.create(**ASK, stream=True)]
    assert list(dict.fromkeys(event.type for event in events)) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    first, last = events[0], events[-2]
    assert first.type == "message_start"
    assert first.message.usage.input_tokens == plain.usage.input_tokens
    assert last.type == "message_delta"
    assert (last.usage.input_tokens, last.usage.output_tokens) == (None, plain.usage.output_tokens)
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert "".join(delta.text for delta in deltas if delta.type == "text_delta") == said(plain)


async def test_the_clients_own_stream_helper_adds_the_events_up(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**ASK) as stream:
        final = await stream.get_final_message()
    plain = await client.messages.create(**ASK)
    assert (said(final), final.stop_reason) == (said(plain), "end_turn")
    assert (final.usage.input_tokens, final.usage.output_tokens) == (2, plain.usage.output_tokens)


async def test_max_tokens_cuts_the_answer(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(**ASK | {"max_tokens": 3})
    assert (said(answer), answer.stop_reason) == ("[demo-small] You asked: ", "max_tokens")


async def test_a_tool_is_used_and_its_result_answered_in_words(client: anthropic.AsyncAnthropic) -> None:
    turns: list[Any] = [{"role": "user", "content": "use get_weather for Oslo"}]
    called = await client.messages.create(**ASK | {"messages": turns}, tools=WEATHER)
    use = called.content[0]
    assert isinstance(use, ToolUseBlock)
    assert (use.name, use.input, called.stop_reason) == ("get_weather", {}, "tool_use")
    result = {
        "type": "tool_result",
        "tool_use_id": use.id,
        "content": [{"type": "text", "text": "get_weather"}, IMAGE],
    }
    turns += [{"role": "assistant", "content": [use.to_dict()]}, {"role": "user", "content": [result]}]
    answer = await client.messages.create(**ASK | {"messages": turns}, tools=WEATHER)
    assert 'You asked: "use get_weather for Oslo"' in said(answer)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
async def test_a_streamed_tool_use_assembles_to_its_input(
    client: anthropic.AsyncAnthropic, choice: Any
) -> None:
    async with client.messages.stream(**ASK, tools=WEATHER, tool_choice=choice) as stream:
        final = await stream.get_final_message()
    assert [(block.type, getattr(block, "input", None)) for block in final.content] == [("tool_use", {})]
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize("choice", [{"type": "none"}, {"type": "auto"}])
async def test_tools_that_need_no_call_are_answered_in_words(
    client: anthropic.AsyncAnthropic, choice: Any
) -> None:
    answer = await client.messages.create(**ASK, tools=WEATHER, tool_choice=choice)
    assert answer.stop_reason == "end_turn"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "never called"}]}]},
        {"max_tokens": -1},
        {"tools": [{"name": "no schema"}]},
        {"thinking": {"type": "enabled", "budget_tokens": 1000}, "max_tokens": 5000},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000},
        {"output_config": {"effort": "enormous"}},
        {"extra_body": {"max_completion_tokens": 5}},
        {"extra_body": {"stream_options": {"include_usage": True}}},
    ],
)
async def test_what_the_api_cannot_use_is_a_bad_request(
    client: anthropic.AsyncAnthropic, fields: dict[str, Any]
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(**ASK | fields)
    assert caught.value.type == "invalid_request_error"


async def test_max_tokens_is_required(small: FakeModel) -> None:
    status, answer = await post(small, {"model": "demo-small", "messages": HELLO})
    assert (status, answer["type"]) == (400, "error")
    assert "max_tokens" in answer["error"]["message"]


async def post(model: FakeModel, body: Any, **headers: str) -> tuple[int, Any]:
    sent = {"x-api-key": model.key, "anthropic-version": "2023-06-01"} | headers
    async with (
        aiohttp.ClientSession(headers={name: value for name, value in sent.items() if value}) as session,
        session.post(f"{model.url}/v1/messages", json=body) as answer,
    ):
        assert answer.headers["request-id"].startswith("req_")
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("headers", "status", "kind", "message"),
    [
        ({"x-api-key": ""}, 401, "authentication_error", "x-api-key header is required"),
        ({"x-api-key": "", "authorization": "Bearer x"}, 401, "authentication_error", "invalid x-api-key"),
        ({"authorization": "Bearer k", "x-api-key": "x"}, 401, "authentication_error", "invalid x-api-key"),
        ({"x-api-key": "other"}, 401, "authentication_error", "invalid x-api-key"),
        ({"anthropic-version": ""}, 400, "invalid_request_error", "anthropic-version: header is required"),
        (
            {"anthropic-version": "1"},
            400,
            "invalid_request_error",
            'anthropic-version: "1" is not a valid version',
        ),
    ],
)
async def test_its_own_headers_are_required(
    small: FakeModel, headers: dict[str, str], status: int, kind: str, message: str
) -> None:
    got, answer = await post(small, ASK, **headers)
    assert (got, answer["type"], answer["error"]) == (status, "error", {"type": kind, "message": message})


@pytest.mark.parametrize("headers", [{"x-api-key": "k"}, {"x-api-key": "", "authorization": "Bearer k"}])
@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
async def test_a_key_counts_in_either_header_and_both_versions_are_spoken(
    small: FakeModel, headers: dict[str, str], version: str
) -> None:
    status, _ = await post(small, ASK, **headers, **{"anthropic-version": version})
    assert (status, small.journal[-1].key) == (200, "k")


@pytest.mark.parametrize(("version", "status"), [("2023-06-01", 200), ("2026-10-21", 400)])
async def test_the_later_version_has_no_sampling_parameters(
    small: FakeModel, version: str, status: int
) -> None:
    got, _ = await post(small, ASK | {"temperature": 1.0}, **{"anthropic-version": version})
    assert got == status


async def test_a_model_it_does_not_serve_is_not_found(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.messages.create(**ASK | {"model": "auto"})
    assert (caught.value.type, json.loads(caught.value.response.content)["error"]["message"]) == (
        "not_found_error",
        "model: auto",
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "rate_limit_error"), (500, "api_error"), (503, "api_error"), (529, "overloaded_error")],
)
async def test_an_injected_status_comes_with_its_type(
    small: FakeModel, client: anthropic.AsyncAnthropic, status: int, kind: str
) -> None:
    small.behaviour = Behaviour(status=status)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(**ASK)
    assert (caught.value.status_code, caught.value.type) == (status, kind)


async def test_the_journal_keeps_its_key(small: FakeModel, client: anthropic.AsyncAnthropic) -> None:
    await client.messages.create(**ASK)
    received = small.journal[-1]
    assert (received.path, received.model, received.key) == ("/v1/messages", "demo-small", "k")
