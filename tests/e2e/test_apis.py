"""Every API through the official clients, unchanged but for their base URL."""

import base64
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from extproc.vocabulary import Api
from tests.e2e.clients import DEFAULTS, PATHS, ask, delta, heard, of_all_apis, parsed, said
from tests.e2e.conftest import NAMES, Answer, World, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

# One prompt a route; the models of all routes but the last speak every API.
PROMPTS = [
    ("greeting", "small", "Good morning!"),
    ("code", "code", "implement quicksort in python"),
    ("reasoning", "large", "Prove that there are infinitely many primes"),
]
CODE = "implement quicksort in python"
MEDICAL = "my throat hurts and I have a fever"
DOUBTFUL = "asdkjh qwe zxc"
PNG = base64.b64encode(bytes(range(256))).decode()
SCHEMA = {"type": "object", "properties": {"usage": {"type": "object"}, "city": {"type": "string"}}}


async def fresh(folder: Path) -> AsyncIterator[World]:
    async for world in world_in(folder, change=of_all_apis):
        world.pool["guarded"].apis = frozenset({Api.ANTHROPIC_MESSAGES})
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in fresh(tmp_path_factory.mktemp("apis")):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


def sent_rightly(world: World, model: str, api: Api) -> None:
    """The one request that any model got was for this one, under its own name and key."""
    asked, request = world.only_request()
    assert (asked, request.path) == (model, PATHS[api])
    assert (request.model, request.key) == (NAMES[model], world.pool[model].key)
    assert "clients-own" not in str(request.headers)
    other = {"x-api-key", "api-key"} if model != "guarded" else {"authorization", "api-key"}
    assert not other & set(request.headers)


@pytest.mark.parametrize(("route", "model", "text"), PROMPTS)
@pytest.mark.parametrize("api", Api)
async def test_each_api_is_routed_by_meaning(
    world: World, api: Api, route: str, model: str, text: str
) -> None:
    raw = await ask(world, api, text)
    assert (raw.headers["x-router-route"], raw.headers["x-router-model"]) == (route, model)
    answer = await parsed(raw)
    assert answer.model == NAMES[model]
    assert said(answer).startswith(f'[{NAMES[model]}] You asked: "{text}"')
    sent_rightly(world, model, api)
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["api"], record["route"], record["status"]) == (api, route, 200)
    assert record["usage_source"] == "answer"
    assert record["input_tokens"] == len(text.split())
    assert record["output_tokens"] == len(said(answer).split())
    assert (record["response_id"], record["response_model"]) == (answer.id, NAMES[model])
    assert record["finish_reason"] == {
        Api.OPENAI_RESPONSES: "completed",
        Api.ANTHROPIC_MESSAGES: "end_turn",
    }.get(api, "stop")
    assert record["time_to_first_token_ms"] is None


@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no usage"])
@pytest.mark.parametrize("api", Api)
async def test_each_apis_stream_arrives_whole_and_is_told(world: World, api: Api, usage: bool) -> None:
    world.pool["code"].behaviour = Behaviour(
        early_headers=True, delay_before_body_s=0.1, write_sizes=(1, 50, 7), omit_usage=not usage
    )
    options = api in (Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS) and usage
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if options else {}
    raw = await ask(world, api, CODE, stream=True, **more)
    events = [event async for event in await parsed(raw)]
    text = "".join(map(delta, events))
    assert text.startswith(f'[{NAMES["code"]}] You asked: "{CODE}"')
    sent_rightly(world, "code", api)
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["stream"], record["response_model"]) == (True, NAMES["code"])
    told = (len(CODE.split()), len(text.split()), "answer") if usage else (None, None, "unknown")
    assert (record["input_tokens"], record["output_tokens"], record["usage_source"]) == told
    assert 100 <= record["time_to_first_token_ms"] <= record["duration_ms"]
    assert record["first_byte_ms"] < record["time_to_first_token_ms"]  # its head came early


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", [each for each in Api if each is not Api.OPENAI_COMPLETIONS])
async def test_tools_come_back_called(world: World, api: Api, stream: bool) -> None:
    tools: Mapping[Api, Any] = {
        Api.OPENAI_CHAT: {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}},
        Api.OPENAI_RESPONSES: {
            "type": "function",
            "name": "get_weather",
            "parameters": SCHEMA,
            "strict": False,
        },
        Api.ANTHROPIC_MESSAGES: {"name": "get_weather", "input_schema": SCHEMA},
    }
    raw = await ask(world, api, f"{CODE}, then call get_weather", tools=[tools[api]], stream=stream)
    if stream:
        called = [event.model_dump_json() async for event in await parsed(raw)]
    else:
        called = [(await parsed(raw)).model_dump_json()]
    assert '"get_weather"' in "".join(called)
    asked, request = world.only_request()
    assert asked == "code"
    assert b'"usage":{"type":"object"}' in request.body
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert record["finish_reason"] in ("tool_calls", "completed", "tool_use")


@pytest.mark.parametrize("api", [each for each in Api if each is not Api.OPENAI_COMPLETIONS])
async def test_images_reach_the_model_of_their_rule_as_they_are(world: World, api: Api) -> None:
    data_url = f"data:image/png;base64,{PNG}"
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    parts: dict[Api, list[Any]] = {
        Api.OPENAI_CHAT: [
            {"type": "text", "text": CODE},
            {"type": "image_url", "image_url": {"url": data_url}},
        ],
        Api.OPENAI_RESPONSES: [
            {"type": "input_text", "text": CODE},
            {"type": "input_image", "image_url": data_url, "detail": "auto"},
        ],
        Api.ANTHROPIC_MESSAGES: [{"type": "text", "text": CODE}, {"type": "image", "source": source}],
    }
    turns: Any = [{"role": "user", "content": parts[api]}]
    if api is Api.OPENAI_RESPONSES:
        answer: Any = await world.openai.responses.create(model="auto", input=turns)
    elif api is Api.OPENAI_CHAT:
        answer = await world.openai.chat.completions.create(model="auto", messages=turns)
    else:
        answer = await world.anthropic.messages.create(model="auto", max_tokens=99, messages=turns)
    assert f'You asked: "{CODE}"' in said(answer)
    sent_rightly(world, "large", api)
    assert PNG.encode() in world.only_request()[1].body


@pytest.mark.parametrize("api", Api)
async def test_a_public_name_pins_its_model_in_each_api(world: World, api: Api) -> None:
    raw = await ask(world, api, CODE, model="small")
    assert raw.headers["x-router-reason"] == "pinned"
    sent_rightly(world, "small", api)


async def test_a_model_that_does_not_speak_the_api_is_no_candidate_and_no_pin(world: World) -> None:
    raw = await ask(world, Api.ANTHROPIC_MESSAGES, MEDICAL)
    assert (raw.headers["x-router-route"], raw.headers["x-router-model"]) == ("medical", "guarded")
    sent_rightly(world, "guarded", Api.ANTHROPIC_MESSAGES)
    world.forget()
    raw = await ask(world, Api.OPENAI_CHAT, MEDICAL)
    assert (raw.headers["x-router-reason"], raw.headers["x-router-model"]) == ("no_candidate", "mid")
    sent_rightly(world, "mid", Api.OPENAI_CHAT)
    world.forget()
    with pytest.raises(openai.NotFoundError) as refused:
        await ask(world, Api.OPENAI_CHAT, MEDICAL, model="guarded")
    assert "anthropic.messages" in refused.value.message
    assert world.received() == {}


@pytest.mark.parametrize("api", Api)
async def test_a_doubtful_prompt_is_its_apis_defaults_to_answer(world: World, api: Api) -> None:
    raw = await ask(world, api, DOUBTFUL)
    assert raw.headers["x-router-reason"] == "out_of_scope"
    sent_rightly(world, DEFAULTS[api], api)


# --- Errors, as each client's own exceptions ----------------------------------------------------

CARD = "my card is 4111 1111 1111 1111"


def package(api: Api) -> Any:
    return anthropic if api is Api.ANTHROPIC_MESSAGES else openai


def detail(api: Api, error: Any) -> Any:
    """The error object of a client's exception."""
    return error.body["error"] if api is Api.ANTHROPIC_MESSAGES else error.body


@pytest.mark.parametrize("api", Api)
async def test_what_a_rule_denies_is_the_clients_bad_request_error(world: World, api: Api) -> None:
    with pytest.raises(package(api).BadRequestError) as refused:
        await ask(world, api, CARD)
    assert detail(api, refused.value)["type"] == "invalid_request_error"
    assert "Card numbers may not be sent to a model." in str(refused.value)
    assert world.received() == {}


@pytest.mark.parametrize("api", Api)
async def test_a_body_without_a_prompt_is_the_clients_bad_request_error(world: World, api: Api) -> None:
    calls = {
        Api.OPENAI_CHAT: world.openai.chat.completions.create(model="auto", messages=[]),
        Api.OPENAI_COMPLETIONS: world.openai.completions.create(model="auto", prompt=[]),
        Api.OPENAI_RESPONSES: world.openai.responses.create(model="auto", input=[]),
        Api.ANTHROPIC_MESSAGES: world.anthropic.messages.create(model="auto", max_tokens=9, messages=[]),
    }
    call = calls.pop(api)
    for other in calls.values():
        other.close()
    with pytest.raises(package(api).BadRequestError) as refused:
        await call
    assert detail(api, refused.value)["type"] == "invalid_request_error"
    assert world.received() == {}


@pytest.mark.parametrize("api", Api)
async def test_a_body_over_the_limit_is_the_clients_413(world: World, api: Api) -> None:
    with pytest.raises(package(api).APIStatusError) as refused:
        await ask(world, api, "x" * (16 * 1024 * 1024))
    assert refused.value.status_code == 413
    error = detail(api, refused.value)
    assert "request_too_large" in (error["type"], error.get("code"))
    assert world.received() == {}


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.parametrize("api", Api)
async def test_a_providers_own_error_is_told_as_it_is(world: World, api: Api, status: int) -> None:
    world.pool["code"].behaviour = Behaviour(status=status)
    names = {429: "RateLimitError", 500: "InternalServerError"}
    with pytest.raises(getattr(package(api), names[status])):
        await ask(world, api, CODE)
    sent_rightly(world, "code", api)


# --- Bad input ----------------------------------------------------------------------------------

BAD = {
    "invalid JSON": b'{"model": "auto", ',
    "an array": b'["auto"]',
    "a number": b"1",
    "null": b"null",
    "empty": b"",
    "invalid UTF-8": b'{"model": "auto", "x": "\xff"}',
    "deep": b'{"model": "auto", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no model": b'{"max_tokens": 9, "messages": [{"role":"user","content":"hi"}], "prompt": "hi", "input": "hi"}',
    "two models": b'{"model":"a","model":"b","max_tokens":9,"messages":[{"role":"user","content":"x"}],'
    b'"prompt":"x","input":"x"}',
    "a model that is no text": b'{"model": 1, "max_tokens": 9, "messages": [], "prompt": "x", "input": "x"}',
    "nothing to answer": b'{"model": "auto", "max_tokens": 9}',
    "of the wrong types": b'{"model": "auto", "max_tokens": 9, "messages": 1, "prompt": {}, "input": 1}',
    "a stream that is no truth": b'{"model": "auto", "max_tokens": 9, "stream": "yes",'
    b'"messages": [{"role":"user","content":"hi"}], "prompt": "hi", "input": "hi"}',
    "a limit that is no number": b'{"model": "auto", "max_tokens": "9", "max_output_tokens": "9",'
    b'"messages": [{"role":"user","content":"hi"}], "prompt": "hi", "input": "hi"}',
}


def in_shape(api: Api, answer: Answer) -> None:
    """It is the API's own error object."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    if api is Api.ANTHROPIC_MESSAGES:
        assert body.keys() == {"type", "error"}
        assert body["type"] == "error"
        assert body["error"].keys() == {"type", "message"}
    else:
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("api", Api)
async def test_bad_input_is_a_400_in_its_apis_shape_and_not_forwarded(
    world: World, api: Api, body: bytes
) -> None:
    if api is Api.OPENAI_RESPONSES:
        body = body.replace(b'"prompt": "hi", ', b"")  # which would be a stored one, with a model of its own
    answer = await world.post(body, PATHS[api], anthropic_version="2023-06-01")
    assert answer.status == 400
    in_shape(api, answer)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert world.received() == {}
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["api"], record["status"], record["error"], record["refused"]) == (
        api,
        400,
        "bad_request",
        True,
    )
    assert (record["input_tokens"], record["attempts"]) == (None, None)


@pytest.mark.parametrize("api", Api)
async def test_a_compressed_body_is_a_400_in_its_apis_shape(world: World, api: Api) -> None:
    answer = await world.post(b"\x1f\x8b", PATHS[api], content_encoding="gzip")
    assert answer.status == 400
    in_shape(api, answer)
    assert world.received() == {}


# --- Without the sidecar ------------------------------------------------------------------------


async def test_without_a_sidecar_each_apis_own_default_answers(tmp_path: Path) -> None:
    async for world in fresh(tmp_path):
        await world.stack.stop_sidecar(signal.SIGKILL)
        for api, model in DEFAULTS.items():
            for stream in (False, True):
                world.forget()
                raw = await ask(world, api, CODE, stream=stream)
                assert not [name for name in raw.headers if name.startswith("x-router-")]
                text = await heard(raw, stream)
                assert text.startswith(f'[{NAMES[model]}] You asked: "{CODE}"')
                sent_rightly(world, model, api)
        for api in Api:
            too_large = await world.post(b" " * (16 * 1024 * 1024 + 1), PATHS[api])
            assert too_large.status == 413
            in_shape(api, too_large)
