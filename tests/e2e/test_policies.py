"""What a registry asks for on behalf of its routes, through Envoy, for every API and its client."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from extproc.vocabulary import Api
from tests.e2e.clients import PATHS, ask, heard, of_all_apis, parsed, said
from tests.e2e.conftest import NAMES, World, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Twelve words that are answered by more than twenty.
CODE = "implement quicksort in python with a random pivot and explain every step"
LIMITED = 20

# A body of each API, and what the model gets of it: every other byte is the client's.
EDITS = {
    Api.OPENAI_CHAT: (
        b'{ "messages":[{"role":"user","content":"%b \\u00e9 \\"max_tokens\\": 99"}],"x":1E400,\n'
        b'"model" : "auto","max_tokens":\t4096 ,"seed":9007199254740993}',
        b'{"reasoning_effort":"low", "messages":[{"role":"user","content":"%b \\u00e9 \\"max_tokens\\": 99"}],'
        b'"x":1E400,\n"model" : "demo-code-32b","max_tokens":\t20 ,"seed":9007199254740993}',
    ),
    Api.OPENAI_COMPLETIONS: (
        b'{ "prompt":"%b", "model":"auto" ,"seed":9007199254740993}',
        b'{"max_tokens":20, "prompt":"%b", "model":"demo-code-32b" ,"seed":9007199254740993}',
    ),
    Api.OPENAI_RESPONSES: (
        b'{"input":"%b","model":"auto","max_output_tokens":64,"reasoning":{"summary" :null},"user":"a"}',
        b'{"input":"%b","model":"demo-code-32b","max_output_tokens":20,'
        b'"reasoning":{"effort":"low","summary" :null},"user":"a"}',
    ),
    Api.ANTHROPIC_MESSAGES: (
        b'{"max_tokens": 4096,"model":"auto","messages":[{"role":"user","content":"%b"}],'
        b'"metadata":{"user_id":"9007199254740993"}}',
        b'{"thinking":{"type":"adaptive"},"output_config":{"effort":"low"},'
        b'"max_tokens": 20,"model":"demo-code-32b","messages":[{"role":"user","content":"%b"}],'
        b'"metadata":{"user_id":"9007199254740993"}}',
    ),
}


def with_policies(registry: Any) -> None:
    of_all_apis(registry)
    registry["stream_usage"] = "ask"
    registry["routes"]["code"] |= {
        "max_tokens": LIMITED,
        "reasoning": "low",
        "fallback": ["large"],
        "timeout_s": 5,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("policies"), change=with_policies):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


@pytest.mark.parametrize("api", Api)
async def test_a_body_says_what_its_route_asks_for_and_else_what_the_client_said(
    world: World, api: Api
) -> None:
    sent, expected = (body % CODE.encode() for body in EDITS[api])
    answer = await world.post(sent, PATHS[api], anthropic_version="2023-06-01")
    assert world.only_request()[1].body == expected
    assert answer.status == 200


@pytest.mark.parametrize("api", Api)
async def test_a_fallback_is_asked_for_the_same_under_its_own_name(world: World, api: Api) -> None:
    world.pool["code"].behaviour = Behaviour(status=503)
    sent, expected = (body % CODE.encode() for body in EDITS[api])
    answer = await world.post(sent, PATHS[api], anthropic_version="2023-06-01")
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")
    for name in ("code", "large"):
        (request,) = world.pool[name].journal
        assert request.body == expected.replace(b"demo-code-32b", NAMES[name].encode())
        assert request.key == world.pool[name].key


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_the_client_gets_the_fallbacks_answer_and_the_record_says_so(
    world: World, api: Api, stream: bool
) -> None:
    world.pool["code"].behaviour = Behaviour(status=429)
    raw = await ask(world, api, CODE, stream=stream)
    text = await heard(raw, stream)
    assert text.startswith("[demo-large-400b] You asked:")
    assert (raw.headers["x-router-model"], raw.headers["x-router-served-by"]) == ("code", "large")
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["model"], record["served_by"], record["attempts"]) == ("code", "large", 2)
    assert (record["response_model"], record["status"], record["error"]) == ("demo-large-400b", 200, "")
    assert record["output_tokens"] == LIMITED


@pytest.mark.parametrize("api", Api)
async def test_an_answer_is_no_longer_than_its_route_allows(world: World, api: Api) -> None:
    raw = await ask(world, api, CODE)
    assert len(said(await parsed(raw)).split()) == LIMITED
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert record["output_tokens"] == LIMITED
    reasons = {Api.OPENAI_RESPONSES: "max_output_tokens", Api.ANTHROPIC_MESSAGES: "max_tokens"}
    assert record["finish_reason"] == reasons.get(api, "length")


@pytest.mark.parametrize("api", Api)
async def test_streams_tell_their_usage_though_no_client_asked(world: World, api: Api) -> None:
    raw = await ask(world, api, "Good morning!", stream=True)
    events = [event async for event in await parsed(raw)]
    if api in (Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS):
        assert events[-1].usage.prompt_tokens == 2
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["input_tokens"], record["usage_source"]) == (2, "answer")


async def test_what_a_client_asked_of_its_stream_stays(world: World) -> None:
    body = (
        b'{"stream":true,"stream_options":{"include_obfuscation" : false},"model":"auto",'
        b'"messages":[{"role":"user","content":"Good morning!"}]}'
    )
    await world.post(body)
    expected = body.replace(b'{"include_o', b'{"include_usage":true,"include_o').replace(
        b"auto", b"demo-small-8b"
    )
    assert world.only_request()[1].body == expected


async def test_each_attempt_leaves_a_record_and_the_exchange_sums_them(world: World) -> None:
    world.pool["code"].behaviour = Behaviour(status=503)
    answer = await world.post({"model": "auto", "messages": [{"role": "user", "content": CODE}]})
    (record,) = await world.records([answer.headers["x-request-id"]])
    first, second = (row for row in world.rows("attempt") if row["request_id"] == record["request_id"])
    assert [(row["attempt"], row["model"], row["status"], row["error"]) for row in (first, second)] == [
        (1, "code", 503, "503"),
        (2, "large", 200, ""),
    ]
    assert second["upstream_model"] == second["response_model"] == "demo-large-400b"
    assert (first["cost_usd"], first["input_tokens"]) == (None, None)
    assert second["cost_usd"] == record["cost_usd"] > 0
    assert second["output_tokens"] == record["output_tokens"] == LIMITED
    assert first["trace_id"] == second["trace_id"] == record["trace_id"]
    assert record["time"] <= first["time"] <= second["time"]


async def test_all_models_failing_is_the_last_ones_error(world: World) -> None:
    world.pool["code"].behaviour = Behaviour(status=503)
    world.pool["large"].behaviour = Behaviour(status=429)
    answer = await world.post({"model": "auto", "messages": [{"role": "user", "content": CODE}]})
    assert (answer.status, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["served_by"], record["attempts"], record["error"]) == ("large", 2, "429")
    assert (record["input_tokens"], record["usage_source"]) == (None, "unknown")
