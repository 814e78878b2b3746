"""ProviderConventions that all APIs share: what a model does not speak, how usage comes or does not, split and packed events."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from extproc import apis
from extproc.demo.fake_apis import FAKE_APIS
from extproc.demo.model_pool import Behaviour, FakeModel, Pool
from extproc.vocabulary import Api, BodyPolicy, Effort

HELLO = [{"role": "user", "content": "hello"}]
USAGE = {"stream_options": {"include_usage": True}}
ASKS: dict[Api, dict[str, Any]] = {
    Api.OPENAI_CHAT: {"messages": HELLO},
    Api.OPENAI_COMPLETIONS: {"prompt": "hello"},
    Api.OPENAI_RESPONSES: {"input": HELLO},
    Api.ANTHROPIC_MESSAGES: {"messages": HELLO, "max_tokens": 99},
}
STREAMED = {
    Api.OPENAI_CHAT: {"stream": True, **USAGE},
    Api.OPENAI_COMPLETIONS: {"stream": True, **USAGE},
    Api.OPENAI_RESPONSES: {"stream": True},
    Api.ANTHROPIC_MESSAGES: {"stream": True},
}
EACH = pytest.mark.parametrize("api", Api)


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    async with Pool({"m": FakeModel("m", key="k")}) as pool:
        yield pool["m"]


async def post(model: FakeModel, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
    headers = {
        "authorization": "Bearer k",
        "x-api-key": "k",
        "anthropic-version": "2023-06-01",
        "accept-encoding": "identity",
    } | headers
    async with (
        aiohttp.ClientSession(headers=headers, auto_decompress=False) as session,
        session.post(model.url + path, json=body) as answer,
    ):
        return answer.status, await answer.read()


async def ask(model: FakeModel, api: Api, *, stream: bool = False, **headers: str) -> bytes:
    body = {"model": "m", **ASKS[api], **(STREAMED[api] if stream else {})}
    status, answer = await post(model, FAKE_APIS[api].path, body, **headers)
    assert status == 200
    return answer


@EACH
async def test_an_api_that_the_model_does_not_speak_is_not_found_in_that_apis_shape(api: Api) -> None:
    async with Pool({"m": FakeModel("m", apis=[other for other in Api if other is not api])}) as pool:
        for other in Api:
            status, answer = await post(pool["m"], FAKE_APIS[other].path, {"model": "m", **ASKS[other]})
            assert status == (404 if other is api else 200)
            if other is api:
                error = json.loads(answer)
                assert ("code" in error["error"]) is (api is not Api.ANTHROPIC_MESSAGES)
                assert (error.get("type") == "error") is (api is Api.ANTHROPIC_MESSAGES)


@EACH
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_can_be_omitted(model: FakeModel, api: Api, stream: bool) -> None:
    streamed = await ask(model, api, stream=stream)
    model.behaviour = Behaviour(omit_usage=True)
    silent = await ask(model, api, stream=stream)
    assert b"_tokens" in streamed
    assert b'output_tokens":' not in silent.replace(b'"max_output_tokens":', b"")
    assert b'prompt_tokens":' not in silent


@EACH
@pytest.mark.parametrize("gzipped", [False, True])
async def test_late_usage_comes_after_everything_else(model: FakeModel, api: Api, gzipped: bool) -> None:
    model.behaviour = Behaviour(delay_before_usage_s=3600, gzip=gzipped, write_sizes=(11, 5))
    headers = {
        "authorization": "Bearer k",
        "x-api-key": "k",
        "anthropic-version": "2023-06-01",
        "accept-encoding": "gzip" if gzipped else "identity",
    }
    body = {"model": "m", **ASKS[api], **STREAMED[api]}
    before = b""
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(model.url + FAKE_APIS[api].path, json=body) as answer,
    ):
        while b"would" not in before:  # of the text; what follows it waits for an hour
            before += await answer.content.readany()
    assert b'"output_tokens":1' not in before.replace(b'"output_tokens":1,', b"")
    assert b'"total_tokens"' not in before
    model.behaviour = Behaviour(delay_before_usage_s=0.01)
    whole = await ask(model, api, stream=True)
    assert whole.rindex(b"_tokens") > whole.rindex(b"would")


@EACH
async def test_an_answer_in_json_has_no_late_usage(model: FakeModel, api: Api) -> None:
    model.behaviour = Behaviour(delay_before_usage_s=3600)
    assert "usage" in json.loads(await ask(model, api))


@EACH
@pytest.mark.parametrize("stream", [False, True])
async def test_answers_can_be_split_and_compressed(model: FakeModel, api: Api, stream: bool) -> None:
    model.behaviour = Behaviour(early_headers=True, write_sizes=(1, 7, 2), gzip=True)
    split = await ask(model, api, stream=stream)
    packed = await ask(model, api, stream=stream, **{"accept-encoding": "gzip"})
    assert b"This " in split
    assert b"This " in gzip.decompress(packed)
    assert len(split) == len(gzip.decompress(packed))


@EACH
async def test_streams_end_as_the_api_ends_them(model: FakeModel, api: Api) -> None:
    stream = await ask(model, api, stream=True)
    assert stream.endswith(b"\n\n")
    last = stream.split(b"\n\n")[-2]
    assert last.startswith(
        {
            Api.OPENAI_CHAT: b"data: [DONE]",
            Api.OPENAI_COMPLETIONS: b"data: [DONE]",
            Api.OPENAI_RESPONSES: b"event: response.completed\ndata: {",
            Api.ANTHROPIC_MESSAGES: b'event: message_stop\ndata: {"type":"message_stop"}',
        }[api]
    )


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages/batches"])
async def test_other_paths_of_anthropic_are_not_found_in_its_shape(model: FakeModel, path: str) -> None:
    status, answer = await post(model, path, {})
    assert (status, json.loads(answer)["error"]["type"]) == (404, "not_found_error")


@EACH
@pytest.mark.parametrize("body", ["text", [], {"model": "m"}, None])
async def test_what_the_api_cannot_read_is_a_bad_request(model: FakeModel, api: Api, body: Any) -> None:
    status, answer = await post(model, FAKE_APIS[api].path, body)
    assert (status, json.loads(answer)["error"]["type"]) == (400, "invalid_request_error")


@EACH
@pytest.mark.parametrize("effort", [None, *Effort])
def test_a_body_edited_by_policy_is_one_that_the_strict_api_takes(api: Api, effort: Effort | None) -> None:
    body = json.dumps({"model": "auto", **ASKS[api], "stream": True}).encode()
    policy = BodyPolicy(model="m", max_tokens=50, reasoning=effort, include_usage=True)
    edited = apis.with_policy(body, apis.parse(api, body), policy)
    ask = FAKE_APIS[api].parse(edited, {"anthropic-version": "2026-10-21"})
    assert (ask.model, ask.limit, ask.include_usage) == ("m", 50, True)
