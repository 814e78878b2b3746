"""The pool's completions seen through the official client. Chats are in test_pool.py."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from extproc.demo.model_pool import FakeModel, Pool


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        Pool({"small": FakeModel("demo-small", key="k")}) as pool,
        openai.AsyncOpenAI(base_url=f"{pool['small'].url}/v1", api_key="k", max_retries=0) as client,
    ):
        yield client


async def test_a_json_answer_is_a_text_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="demo-small", prompt="hello there")
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == (
        "text_completion",
        "demo-small",
        "stop",
    )
    assert answer.choices[0].text.startswith('[demo-small] You asked: "hello there".')
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        2,
        len(answer.choices[0].text.split()),
    )


@pytest.mark.parametrize(("limit", "words"), [({}, 16), ({"max_tokens": 3}, 3), ({"max_tokens": 99}, 21)])
async def test_sixteen_tokens_are_the_limit_unless_the_client_says_another(
    client: openai.AsyncOpenAI, limit: dict[str, int], words: int
) -> None:
    prompt = "one two three four five six seven eight nine ten eleven twelve"
    answer = await client.completions.create(model="demo-small", prompt=prompt, **limit)
    assert len(answer.choices[0].text.split()) == words
    assert answer.choices[0].finish_reason == ("stop" if words == 21 else "length")


@pytest.mark.parametrize(
    ("prompt", "tokens", "choices"),
    [(["hello", "you there"], 3, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2)],
)
async def test_each_prompt_gets_an_answer_and_tokens_are_one_prompt(
    client: openai.AsyncOpenAI, prompt: Any, tokens: int, choices: int
) -> None:
    answer = await client.completions.create(model="demo-small", prompt=prompt)
    assert [choice.index for choice in answer.choices] == list(range(choices))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == tokens


async def test_a_streamed_answer_says_the_same_and_tells_usage_when_asked(client: openai.AsyncOpenAI) -> None:
    plain = await client.completions.create(model="demo-small", prompt="hello")
    stream = await client.completions.create(
        model="demo-small", prompt="hello", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert (last.choices, last.usage) == ([], plain.usage)


async def test_usage_is_not_streamed_when_not_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="demo-small", prompt="hello", stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in [chunk async for chunk in stream])


@pytest.mark.parametrize("fields", [{"prompt": []}, {"prompt": {}}, {"max_tokens": 0}, {"max_tokens": "9"}])
async def test_what_the_api_cannot_use_is_a_bad_request(
    client: openai.AsyncOpenAI, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(**{"model": "demo-small", "prompt": "hello", **fields})
