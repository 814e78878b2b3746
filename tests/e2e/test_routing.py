"""Requests reach the model of their route, through the real Envoy, with an unchanged client."""

import base64
import json
import re
from typing import Any

import openai
import pytest

from extproc.registry.registry_loading import load
from tests.e2e.conftest import NAMES

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNSEEN = [
    ("greeting", "small", "Good morning!"),
    ("greeting", "small", "hey! how's it going"),
    ("greeting", "small", "cheers, that's perfect"),
    ("rewrite", "small", "Summarize this blog post"),
    ("rewrite", "small", "Rewrite in a more professional tone: gimme the report asap"),
    ("rewrite", "small", "extract the phone numbers from this document"),
    ("code", "code", "implement quicksort in python"),
    ("code", "code", "git merge conflict how to resolve"),
    ("code", "code", "create a Dockerfile for a node app"),
    ("reasoning", "large", "Prove that there are infinitely many primes"),
    ("reasoning", "large", "Derive the equations of motion for a double pendulum"),
    ("reasoning", "large", "What is the probability of drawing two aces from a deck?"),
    ("medical", "guarded", "my throat hurts and I have a fever"),
    ("medical", "guarded", "is aspirin safe during pregnancy?"),
    ("medical", "guarded", "can anxiety cause chest tightness"),
]


async def test_the_prompts_are_unseen(world: Any) -> None:
    seen = {text for texts in load(world.stack.registry).examples.values() for text in texts}
    assert not seen & {text for _, _, text in UNSEEN}


@pytest.mark.parametrize(("route", "model", "text"), UNSEEN)
async def test_an_unseen_prompt_reaches_the_model_of_its_route(
    world: Any, route: str, model: str, text: str
) -> None:
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": text}]
    )
    assert raw.headers["x-router-route"] == route
    assert raw.headers["x-router-model"] == model
    assert raw.headers["x-router-reason"] == "matched"
    assert 0.15 <= float(raw.headers["x-router-margin"]) <= float(raw.headers["x-router-probability"]) <= 1
    assert raw.headers["x-router-version"] == load(world.stack.registry).version
    assert re.fullmatch(r"[0-9a-f-]{36}", raw.headers["x-request-id"])
    assert raw.parse().model == NAMES[model]
    asked, request = world.only_request()
    assert (asked, request.model, request.key) == (model, NAMES[model], world.pool[model].key)


DOCUMENT = """Minutes of the harbour committee, 12 March
Present were Ms Oduya, Mr Lindqvist and Dr Pereira; the treasurer had sent her apologies.
The committee approved the repair of the eastern pier for 48,000 crowns, to be paid in two parts.
Mr Lindqvist reported that the crane had stood still for nine days because a gearbox was late.
The next meeting takes place in the old customs house, and the public is welcome."""


@pytest.mark.parametrize(
    "turn", ["{document}\n\n{text}", "{text}\n\n{document}", "{text}\n```\n{document}\n```"]
)
@pytest.mark.parametrize(("route", "model", "text"), UNSEEN[::4])
async def test_a_document_beside_the_question_does_not_change_its_route(
    world: Any, route: str, model: str, text: str, turn: str
) -> None:
    content = turn.format(document=DOCUMENT, text=text)
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": content}]
    )
    assert (raw.headers["x-router-route"], raw.headers["x-router-reason"]) == (route, "matched")
    asked, request = world.only_request()
    assert asked == model
    assert json.loads(request.body)["messages"][-1]["content"] == content


@pytest.mark.parametrize(("route", "model", "text"), UNSEEN[::3])
async def test_a_stream_is_routed_and_arrives_whole(world: Any, route: str, model: str, text: str) -> None:
    stream = await world.openai.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": text}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert stream.response.headers["x-router-route"] == route
    chunks = [chunk async for chunk in stream]
    assert {chunk.model for chunk in chunks} == {NAMES[model]}
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert world.only_request()[0] == model


async def test_the_latest_user_turn_decides_whatever_came_before(world: Any) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are an expert in C++, Rust, SQL and compilers."},
        {"role": "user", "content": "Write a unit test for this class with pytest"},
        {"role": "assistant", "content": "def test_it(): ..."},
        {"role": "user", "content": [{"type": "text", "text": "Thanks!"}, {"type": "text", "text": "Bye"}]},
    ]
    await world.openai.chat.completions.create(model="auto", messages=messages)
    assert world.only_request()[0] == "small"


async def test_a_doubtful_prompt_goes_to_the_default_and_says_why(world: Any) -> None:
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "asdkjh qwe zxc"}]
    )
    assert raw.headers["x-router-reason"] == "out_of_scope"
    assert "x-router-route" not in raw.headers
    assert world.only_request()[0] == "mid"


async def test_a_prompt_in_a_language_that_the_encoder_does_not_read_goes_to_the_default(world: Any) -> None:
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "Hallo, wie geht es dir heute?"}]
    )
    assert raw.headers["x-router-reason"] == "language"
    assert world.only_request()[0] == "mid"


async def test_a_document_too_long_for_the_cheapest_candidate_goes_to_the_next(world: Any) -> None:
    text = "Summarise the following article in three sentences: " + "The council met again. " * 4000
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": text}]
    )
    assert (raw.headers["x-router-route"], raw.headers["x-router-model"]) == ("rewrite", "mid")
    assert world.only_request()[1].model == "demo-mid-70b"


async def test_a_public_name_pins_its_model_and_has_no_scores(world: Any) -> None:
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="large", messages=[{"role": "user", "content": "Good morning!"}]
    )
    assert raw.headers["x-router-reason"] == "pinned"
    assert not {"x-router-margin", "x-router-probability", "x-router-route"} & set(raw.headers)
    assert world.only_request()[1].model == "demo-large-400b"


@pytest.mark.parametrize("name", ["gpt-4o", "demo-small-8b", "model-small", "ext-proc"])
async def test_a_name_the_registry_does_not_know_is_routed_by_meaning(world: Any, name: str) -> None:
    await world.openai.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "implement quicksort in python"}]
    )
    assert world.only_request()[0] == "code"


async def test_a_tool_rule_decides_without_an_embedding(world: Any) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "browser_open", "parameters": {}}}]
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "Good morning!"}], tools=tools
    )
    assert raw.headers["x-router-reason"] == "rule"
    assert "x-router-margin" not in raw.headers
    assert world.only_request()[0] == "large"


async def test_an_image_rule_decides_and_five_megabytes_pass_unchanged(world: Any) -> None:
    image = base64.b64encode(bytes(range(256)) * 15_000).decode()
    parts: list[Any] = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    await world.openai.chat.completions.create(model="auto", messages=[{"role": "user", "content": parts}])
    asked, request = world.only_request()
    assert asked == "large"
    assert len(request.body) > 5_000_000
    assert json.loads(request.body)["messages"][0]["content"] == parts


async def test_a_deny_rule_refuses_in_the_apis_own_shape_even_a_pinned_model(world: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await world.openai.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "my card is 4111 1111 1111 1111"}]
        )
    assert "Card numbers may not be sent to a model." in refused.value.message
    assert refused.value.code == "content_policy_violation"
    assert world.received() == {}


async def test_only_the_models_name_changes_in_the_body(world: Any) -> None:
    body = (
        b'{ "z":1, "messages" : [{"role":"user","content":"implement quicksort in python \\u00e9\xc3\xa9"}],'
        b'\n  "model":\t"auto" , "tools":[{"type":"function","function":{"name":"f","parameters":'
        b'{"type":"object","properties":{"model":{"type":"string"},"a":{"default":9007199254740993}}}}}],'
        b'"x":1.0e2,"y":-0.0,"metadata":{"model":"auto"} }'
    )
    answer = await world.post(body)
    assert answer.status == 200
    assert world.only_request()[1].body == body.replace(b'"auto" ,', b'"demo-code-32b" ,')


async def test_tool_calls_come_back_through_the_client(world: Any) -> None:
    tools: list[Any] = [
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    ]
    answer = await world.openai.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Call get_weather: do I need a coat tonight?"}],
        tools=tools,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"


async def test_what_is_no_llm_call_passes_untouched(world: Any) -> None:
    async with world.http.get(f"{world.stack.url}/v1/files?x=%20") as answer:
        assert "x-router-route" not in answer.headers
    asked, request = world.only_request()
    assert (asked, request.method, request.path) == ("mid", "GET", "/v1/files?x=%20")
    assert request.body == b""
    world.forget()
    body = b'\x00\xff not json {"model": "auto"'
    await world.post(body, path="/v1/audio/transcriptions")
    assert world.only_request()[1].body == body


async def test_what_a_client_forges_chooses_nothing(world: Any) -> None:
    answer = await world.post(
        {"model": "auto", "messages": [{"role": "user", "content": "implement quicksort in python"}]},
        x_router_cluster="model-large",
        x_router_model="large",
        X_Router_Route="medical",
        x_request_id="forged",
        x_envoy_max_retries="5",
        authorization="Bearer stolen",
        x_api_key="stolen",
        api_key="stolen",
    )
    assert answer.headers["x-router-route"] == "code"
    assert answer.headers["x-request-id"] != "forged"
    asked, request = world.only_request()
    assert (asked, request.key) == ("code", world.pool["code"].key)
    assert not {"x-api-key", "api-key"} & set(request.headers)
    assert not any(name.startswith(("x-router-", "x-envoy-")) for name in request.headers)
    assert "stolen" not in str(request.headers)
