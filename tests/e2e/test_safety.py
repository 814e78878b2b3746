"""Personal data and secrets through the real Envoy: redacted, guarded or refused, in every API."""

import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from extproc.cli import main
from extproc.demo.model_pool import Behaviour
from extproc.vocabulary import Api
from tests.e2e.clients import PATHS, ask, heard, of_all_apis, parsed
from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKEN = "ghp_" + "a1B2" * 9
CODE = "implement quicksort in python"
# Models repeat the prompt after their name: this is the answer of `code` to a hard question.
DOUBT = r"\[demo-code-32b\].*the hard way"
SECRETS = ["ann@example.com", "4111 1111 1111 1111"]


def safe(registry: Any) -> None:
    of_all_apis(registry)
    registry["models"]["mid"]["cleared_for"] = ["pii"]
    registry["without_sidecar"] = "refuse"
    registry["trusted_headers"] = [*registry.get("trusted_headers", []), "x-batch"]
    registry["safety"] = {
        "pii": {"action": "redact", "allow": "*@ours.example"},
        "secrets": {"action": "refuse"},
        "exempt": {"x-batch": "yes"},
    }
    registry["rules"] = [{"name": "to-mid", "when": {"keyword": "cleared"}, "model": "mid"}]
    registry["gates"] = {"sure": {"finish": True, "self_report": {"pattern": DOUBT}, "prefix_chars": 80}}
    registry["cascades"] = {"frugal": {"tiers": [{"model": "code", "gate": "sure"}, {"model": "mid"}]}}
    examples = registry["routes"]["code"]["examples"]
    registry["routes"]["code"] = {"cascade": "frugal", "candidates": ["code"], "examples": examples}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("safety"), change=safe):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


def nothing_leaked(world: World) -> None:
    """No model but the cleared one got personal data."""
    for name, requests in world.received().items():
        for request in requests:
            assert name == "mid" or not [value for value in SECRETS if value in request.body.decode()]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_personal_data_is_replaced_and_the_rest_stays(world: World, api: Api, stream: bool) -> None:
    raw = await ask(
        world, api, f"{CODE} for {SECRETS[0]}, card {SECRETS[1]}, and {SECRETS[0]}", stream=stream
    )
    said = await heard(raw, stream)
    assert f"{CODE} for [EMAIL_1], card [CARD_1], and [EMAIL_1]" in said
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["safety"], record["found"], record["redacted"]) == ("redact", ["card:1", "email:1"], True)
    nothing_leaked(world)


async def test_a_model_that_is_cleared_gets_it_unchanged(world: World) -> None:
    await world.post(chat(f"a cleared question of {SECRETS[0]}"))
    name, request = world.only_request()
    assert name == "mid"
    assert SECRETS[0] in request.body.decode()


async def test_no_tier_of_a_cascade_gets_it_though_one_of_them_is_cleared(world: World) -> None:
    answer = await world.post(chat(f"{CODE}, the hard way, for {SECRETS[0]}"))
    assert answer.headers["x-router-served-by"] == "mid"
    assert world.received().keys() == {"code", "mid"}
    for requests in world.received().values():
        assert SECRETS[0] not in requests[0].body.decode()


EVERYWHERE = {
    "a system prompt": {
        "messages": [{"role": "system", "content": SECRETS[0]}, {"role": "user", "content": CODE}]
    },
    "an earlier turn": {
        "messages": [
            {"role": "user", "content": SECRETS[0]},
            {"role": "assistant", "content": SECRETS[1]},
            {"role": "user", "content": CODE},
        ]
    },
    "the arguments of a tool": {
        "messages": [
            {"role": "user", "content": CODE},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {
                            "name": "pay",
                            "arguments": '{"card": 4111111111111111, "to": "ann@example.com"}',
                        },
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": SECRETS[0]},
        ]
    },
    "an escape": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"{CODE} ann@example.com"}]}]
    },
    "metadata": {"messages": [{"role": "user", "content": f"{CODE} {SECRETS[1]}"}], "user": SECRETS[0]},
}


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_it_is_replaced_wherever_it_stands(world: World, place: str) -> None:
    body = json.dumps({"model": "auto", "temperature": 0.5, **EVERYWHERE[place]})
    answer = await world.post(body.replace("ann@", "ann\\u0040").encode())
    assert answer.status == 200
    _, request = world.only_request()
    received = request.body.decode()
    json.loads(received)
    assert "ann" not in received
    assert "4111" not in received
    assert '"temperature": 0.5' in received


UNREMOVABLE = {
    "split over two parts": [{"type": "text", "text": "4111 1111 "}, {"type": "text", "text": "1111 1111"}],
}


@pytest.mark.parametrize("how", UNREMOVABLE)
async def test_what_cannot_be_replaced_is_refused(world: World, how: str) -> None:
    answer = await world.post({"model": "auto", "messages": [{"role": "user", "content": UNREMOVABLE[how]}]})
    assert (answer.status, answer.json()["error"]["code"]) == (400, "not_cleared")
    assert world.received() == {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_a_secret_is_refused_in_the_apis_own_shape(world: World, api: Api, stream: bool) -> None:
    body: dict[str, Any] = {"model": "auto", "stream": stream}
    text = f"use {TOKEN}"
    if api is Api.OPENAI_RESPONSES:
        body["input"] = text
    elif api is Api.OPENAI_COMPLETIONS:
        body["prompt"] = text
    else:
        body |= {"max_tokens": 9, "messages": [{"role": "user", "content": text}]}
    answer = await world.post(body, PATHS[api], anthropic_version="2023-06-01")
    error = answer.json()["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert "a key or token" in error["message"]
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["stage"], record["error"], record["rule"]) == ("safety", "unsafe", "secrets")
    assert (record["safety"], record["found"]) == ("refuse", ["secret:1"])
    assert world.received() == {}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def polite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    def refusing(registry: Any) -> None:
        safe(registry)
        registry["safety"]["answer"] = "refusal"

    async for world in world_in(tmp_path_factory.mktemp("polite"), change=refusing):
        yield world


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_a_refusal_can_look_like_a_models_to_the_apis_own_client(
    polite: World, api: Api, stream: bool
) -> None:
    polite.forget()
    text, told = f"use {TOKEN}", "This request contains what may not be sent to a model: a key or token."
    raw = await ask(polite, api, text, stream=stream)
    if api is Api.OPENAI_CHAT and stream:
        events = [event async for event in await parsed(raw)]
        assert "".join(event.choices[0].delta.refusal or "" for event in events) == told
        assert events[-1].choices[0].finish_reason == "content_filter"
    elif api is Api.OPENAI_RESPONSES and stream:
        events = [event async for event in await parsed(raw)]
        assert "".join(event.delta for event in events if event.type == "response.refusal.delta") == told
        assert events[-1].response.output[0].content[0].refusal == told
    elif stream:
        assert await heard(raw, stream) == told
    else:
        answer = await parsed(raw)
        assert told in answer.model_dump_json()
        assert "refusal" in answer.model_dump_json() or "content_filter" in answer.model_dump_json()
    (record,) = await polite.records([raw.headers["x-request-id"]])
    assert (record["status"], record["error"], record["refused"]) == (200, "unsafe", True)
    assert polite.received() == {}


async def test_a_refused_stream_reports_its_usage_on_request(polite: World) -> None:
    usage = {"include_usage": True}
    raw = await ask(polite, Api.OPENAI_CHAT, f"use {TOKEN}", stream=True, stream_options=usage)
    last = [event async for event in await parsed(raw)][-1]
    assert (last.choices, last.usage.total_tokens) == ([], 0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def judged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A world with a safety head for questions about volcanoes, which stand in for harmful ones."""
    folder = tmp_path_factory.mktemp("judged")
    texts = [
        f"{ask} the volcano {name}?"
        for ask in ("When did", "How hot is", "Why erupts", "How far is")
        for name in "ABCDEFGH"
    ]
    ordinary = [
        f"{ask} {what}" for ask in ("Sum up", "Write about", "What is", "Translate") for what in NEUTRAL
    ]
    rows = [{"text": text, "label": "volcano"} for text in texts] + [
        {"text": t, "label": None} for t in ordinary
    ]
    folder.joinpath("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = folder / "plain.yaml"
    plain.write_text("models: {a: {base_url: 'http://127.0.0.1:1'}}\ndefault: a\n")
    arguments = [
        "train",
        "--registry",
        str(plain),
        "--safety",
        str(folder / "rows.jsonl"),
        "--out",
        str(folder / "head"),
    ]
    assert main(arguments) == 0

    def judging(registry: Any) -> None:
        of_all_apis(registry)
        registry["without_sidecar"] = "refuse"
        head = {"artefact": str(folder / "head"), "classes": {"volcano": {"action": "refuse"}}}
        registry["safety"] = {"head": head}

    async for world in world_in(tmp_path_factory.mktemp("judged-run"), change=judging):
        yield world


NEUTRAL = (
    "the news",
    "quicksort in python",
    "a tax form",
    "my holiday",
    "the meeting",
    "a poem",
    "sales",
    "a bicycle",
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_what_the_head_finds_is_refused_in_every_api_and_whatever_is_pinned(
    judged: World, api: Api, stream: bool
) -> None:
    judged.forget()
    for model in ("auto", "guarded" if api is Api.ANTHROPIC_MESSAGES else "code"):
        with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as refused:
            await ask(judged, api, "How hot is the volcano Etna?", model=model, stream=stream)
        (record,) = await judged.records([refused.value.response.headers["x-request-id"]])
        assert (record["stage"], record["rule"], record["found"]) == ("safety", "volcano", ["volcano:1"])
    assert judged.received() == {}
    raw = await ask(judged, api, "Write about my holiday", stream=stream)
    (record,) = await judged.records([raw.headers["x-request-id"]])
    assert [score.split(":")[0] for score in record["safety_scores"]] == ["volcano"]
    await heard(raw, stream)


# What a client may write to get past: none of it may.
ATTEMPTS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "a header that looks trusted": (TOKEN, {"x_router_safety": "off"}, {}),
    "a pin": (TOKEN, {}, {"model": "code"}),
    "zero-width characters": ("ghp_\u200b" + "a1B2" * 9, {}, {}),
    "full-width letters": ("ｇｈｐ_" + "a1B2" * 9, {}, {}),
    "base64": ("Z2hwX2ExQjJhMUIyYTFCMmExQjJhMUIyYTFCMmExQjJhMUIyYTFCMg==", {}, {}),
    "URL encoding": ("q=%67%68%70_" + "a1B2" * 9, {}, {}),
    "metadata": (TOKEN, {}, {"metadata": {"safety": "off"}}),
    "another language around it": (f"Mein Schlüssel ist {TOKEN}, danke schön", {}, {}),
    "a long text around it": ("word " * 5000 + TOKEN, {}, {}),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_nothing_that_a_client_writes_switches_it_off(world: World, attempt: str) -> None:
    text, headers, more = ATTEMPTS[attempt]
    answer = await world.post(chat(text, **more), **headers)
    assert (answer.status, answer.headers["x-router-reason"]) == (400, "unsafe")
    assert world.received() == {}


async def test_a_trusted_header_exempts_and_an_allowed_value_stays(world: World) -> None:
    assert (await world.post(chat(f"hi {TOKEN}"), x_batch="yes")).status == 200
    world.forget()
    await world.post(chat(f"{CODE} for help@ours.example"))
    _, request = world.only_request()
    assert "help@ours.example" in request.body.decode()


async def test_when_a_model_fails_the_next_one_gets_the_replaced_body(world: World) -> None:
    world.pool["code"].behaviour = Behaviour(status=503)
    answer = await world.post(chat(f"{CODE} for {SECRETS[0]}"))
    assert answer.status == 200
    assert all(
        "[EMAIL_1]" in each.body.decode() for requests in world.received().values() for each in requests
    )


async def test_without_a_sidecar_nothing_goes_on(world: World) -> None:
    world.stack.sidecar.send_signal(signal.SIGSTOP)
    try:
        assert (await world.post(chat(f"{CODE} for {SECRETS[0]}"))).status == 503
    finally:
        world.stack.sidecar.send_signal(signal.SIGCONT)
    await world.stack.stop_sidecar(signal.SIGKILL)
    assert (await world.post(chat(f"hi {TOKEN}"))).status == 503
    assert world.received() == {}
    await world.stack.start_sidecar()
