"""When the chosen model fails, the next one answers, asked under its own name and key."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from extproc import apis
from extproc.envoyconf.chains import chains
from extproc.exchanges import Exchange, Usage
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, Retry, RouteSettings
from extproc.vocabulary import Api, BodyPolicy, Decision
from tests.envoyconf.conftest import CHAT, DEADLINE_S, JSON, Handler, Launch, Provider, World, decided

MESSAGES = "/v1/messages"
# What only an edit of the very bytes leaves alone. The sidecar names the model in place of %s.
DELICATE = (
    '{ "z":9007199254740993,"model" : "%s" ,"messages":[{"role":"user","content":'
    '"say \\"model\\": \\"auto\\" \\u00e9 é"}],\n"f":1.0,"e":1E400,"max_tokens":9}'
)
NAMES = {"small": "small", "large": "large-400b", "local": "local"}
KEYS = {"small": "Bearer sk-small", "large": "Bearer sk-large", "local": None}


def body(name: str) -> bytes:
    return DELICATE.replace("%s", name).encode()


def failed_over(first: str = "small", **fields: Any) -> Decision:
    """A decision for ``first`` that Envoy may replace."""
    return decided(first, policy=BodyPolicy(model=NAMES[first]), fallback=True, **fields)


async def chained(launch: Launch, *fallback: str, **settings: Any) -> World:
    """A world whose decisions are for ``small``, and then for ``fallback``."""
    policy = settings.pop("policy", {})
    route = RouteSettings(candidates="small", fallback=list(fallback or ("large", "local")), **policy)
    world = await launch(routes={"greeting": route}, **settings)
    world.sidecar.decision = failed_over()
    return world


def status(code: int) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"by": "failed"}, status=code)

    return answer


async def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_head(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\ncontent-ty")
    request.transport.close()
    return web.Response()


async def stall(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


FAILURES = {
    "503": status(503),
    "500": status(500),
    "529": status(529),
    "429": status(429),
    "reset": reset,
    "cut head": cut_head,
    "stall": stall,
}


async def fail(provider: Provider, how: str) -> None:
    if how == "refused":
        await provider.stop()
    else:
        provider.handler = FAILURES[how]


def sent(world: World) -> dict[str, list[tuple[bytes, str | None]]]:
    """What each provider was sent: bodies and keys."""
    return {
        name: [(request.body, request.headers.get("authorization")) for request in provider.received]
        for name, provider in world.providers.items()
        if provider.received
    }


def expected(*models: str) -> dict[str, list[tuple[bytes, str | None]]]:
    return {name: [(body(NAMES[name]), KEYS[name])] * models.count(name) for name in models}


@pytest.mark.parametrize("how", [*FAILURES, "refused"])
async def test_whatever_fails_the_next_model_answers(launch: Launch, how: str) -> None:
    world = await chained(launch, policy={"timeout_s": 1.0} if how == "stall" else {})
    await fail(world.providers["small"], how)
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.by) == (200, "large")
    assert answer.headers["x-router-served-by"] == "large"
    assert answer.headers["x-router-model"] == "small"
    assert sent(world) == expected(*(() if how == "refused" else ("small",)), "large")
    entry = await world.logged()
    assert (entry.served_by, entry.attempts, entry.status) == ("large", 2, 200)
    assert entry.envelope is not None
    assert entry.envelope.model == "small"


async def test_the_chosen_model_answers_when_it_can(launch: Launch) -> None:
    world = await chained(launch)
    answer = await world.ask(body("auto"))
    assert (answer.by, answer.headers["x-router-served-by"]) == ("small", "small")
    assert sent(world) == expected("small")
    entry = await world.logged()
    assert (entry.served_by, entry.attempts) == ("small", 1)


async def test_the_model_after_the_next_answers_when_both_fail(launch: Launch) -> None:
    world = await chained(launch)
    await fail(world.providers["small"], "429")
    await fail(world.providers["large"], "reset")
    answer = await world.ask(body("auto"))
    assert (answer.by, answer.headers["x-router-served-by"]) == ("local", "local")
    assert sent(world) == expected("small", "large", "local")
    assert (await world.logged()).attempts == 3


async def test_when_all_fail_the_client_gets_the_last_ones_error(launch: Launch) -> None:
    world = await chained(launch)
    for name, code in (("small", 503), ("large", 429), ("local", 502)):
        world.providers[name].handler = status(code)
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.json()) == (502, {"by": "failed"})
    assert sent(world) == expected("small", "large", "local")
    entry = await world.logged()
    assert (entry.served_by, entry.attempts, entry.flags) == ("local", 3, ("URX",))


@pytest.mark.parametrize(("path", "kind"), [(CHAT, "server_error"), (MESSAGES, "overloaded_error")])
async def test_when_none_can_be_reached_the_client_is_told_in_its_apis_shape(
    launch: Launch, path: str, kind: str
) -> None:
    every = list(Api)
    world = await chained(launch, speaks={"small": every, "large": every, "local": every})
    for name in NAMES:
        await world.providers[name].stop()
    answer = await world.ask(body("auto"), path=path)
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["type"] == kind
    assert answer.json()["error"]["message"] == "The model is not available."


async def test_when_all_are_silent_the_client_is_told_that_none_answered_in_time(launch: Launch) -> None:
    world = await chained(launch, policy={"timeout_s": 0.2})
    for name in NAMES:
        await fail(world.providers[name], "stall")
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert (await world.logged()).attempts == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
async def test_what_is_the_clients_fault_goes_straight_back(launch: Launch, code: int) -> None:
    world = await chained(launch)
    world.providers["small"].handler = status(code)
    assert (await world.ask(body("auto"))).status == code
    assert sent(world) == expected("small")


async def test_a_prompt_too_long_for_the_model_goes_to_the_next_and_its_words_are_read_nowhere_else(
    launch: Launch,
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "context_length_exceeded"}}, status=code)

    code = 400
    world = await chained(launch)
    world.providers["small"].handler = refuse
    assert (await world.ask(body("auto"))).by == "large"
    code = 422
    assert (await world.ask(body("auto"))).status == 422


async def test_a_stream_comes_from_the_next_model_while_it_is_made(launch: Launch) -> None:
    world = await chained(launch)
    await fail(world.providers["small"], "503")
    seen = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await seen.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    world.providers["large"].handler = stream
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    async with asyncio.timeout(DEADLINE_S), world.http.post(url, data=body("auto"), headers=JSON) as answer:
        assert answer.headers["x-router-served-by"] == "large"
        assert await answer.content.readexactly(9) == b"data: 1\n\n"
        seen.set()
        assert await answer.read() == b"data: [DONE]\n\n"


async def test_an_answer_that_has_begun_is_never_begun_anew(launch: Launch) -> None:
    world = await chained(launch)

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    world.providers["small"].handler = break_off
    with pytest.raises(Exception, match=r"payload|ContentLength|closed|transfer"):
        await world.ask(body("auto"))
    assert sent(world) == expected("small")


async def test_a_slow_stream_that_has_begun_is_not_cut_by_the_timeout(launch: Launch) -> None:
    world = await chained(launch, policy={"timeout_s": 1.0})

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(4):
            await asyncio.sleep(0.3)
            await response.write(b"data: 1\n\n")
        return response

    world.providers["small"].handler = slow
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.body) == (200, b"data: 1\n\n" * 4)


@pytest.mark.parametrize("name", ['a "50%" \\ %REQ(:path)% é', "模型-7b", "x" * 300])
async def test_a_fallback_is_asked_for_by_any_name_its_provider_may_have_given_it(
    launch: Launch, name: str
) -> None:
    world = await chained(launch, name=name)
    await fail(world.providers["small"], "503")
    assert (await world.ask(body("auto"))).by == "large"
    ((request, _),) = sent(world)["large"]
    assert json.loads(request)["model"] == name
    assert request == body("@").replace(b'"@"', json.dumps(name).encode())


async def test_the_clients_own_name_may_be_escaped_and_repeated_in_messages(launch: Launch) -> None:
    world = await chained(launch)
    await fail(world.providers["small"], "503")
    asked = b'{"messages":[{"role":"user","content":"\\"model\\": \\"auto\\""}],"mod\\u0065l":"\\u0061uto"}'
    assert (await world.ask(asked)).by == "large"
    ((request, _),) = sent(world)["large"]
    assert request == asked.replace(b'"\\u0061uto"', b'"large-400b"')


async def test_edits_of_the_decision_hold_for_every_model(launch: Launch) -> None:
    world = await chained(launch, policy={"max_tokens": 5})
    policy = BodyPolicy(model="small", max_tokens=5)
    world.sidecar.decision = decided("small", policy=policy, fallback=True)
    await fail(world.providers["small"], "503")
    await world.ask(body("auto"))
    (((first, _),), ((second, _),)) = (sent(world)[name] for name in ("small", "large"))
    assert first == body("small").replace(b'"max_tokens":9', b'"max_tokens":5')
    assert second == body("large-400b").replace(b'"max_tokens":9', b'"max_tokens":5')


async def test_five_megabytes_survive_two_failures(launch: Launch) -> None:
    world = await chained(launch)
    await fail(world.providers["small"], "503")
    await fail(world.providers["large"], "429")
    padded = body("auto").replace("é".encode(), b"x" * 5_000_000)
    assert (await world.ask(padded)).by == "local"
    ((request, _),) = sent(world)["local"]
    assert request == padded.replace(b'"auto" ,', b'"local" ,')


async def test_a_body_at_the_limit_may_grow_by_the_name_of_a_fallback(launch: Launch) -> None:
    world = await chained(launch, max_body_bytes=3_000_000, name="n" * 2000)
    await fail(world.providers["small"], "503")
    padded = body("small").replace("é".encode(), b"x" * (3_000_000 - len(body("small")) + 2))
    assert len(padded) == 3_000_000
    assert (await world.ask(padded)).by == "large"
    assert len(world.providers["large"].received[0].body) == 3_001_995


async def test_with_retries_each_model_is_asked_again_before_the_next(launch: Launch) -> None:
    order: list[str] = []
    world = await chained(launch, "large", policy={"retry": Retry(attempts=1)})

    def noted(name: str) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            order.append(name)
            return web.json_response({"by": name}, status=503)

        return answer

    for name in ("small", "large"):
        world.providers[name].handler = noted(name)
    assert (await world.ask(body("auto"))).status == 503
    assert order == ["small", "small", "large", "large"]
    assert sent(world) == expected("small", "small", "large", "large")


async def test_a_provider_learns_nothing_of_the_others_nor_of_the_router(launch: Launch) -> None:
    world = await chained(launch)
    await fail(world.providers["small"], "503")
    await fail(world.providers["large"], "503")
    own = {"authorization": "Bearer clients-own", "x-api-key": "clients-own", "cookie": "clients-own"}
    forged = {"x-router-span": "0-1", "x-envoy-max-retries": "9", "x-router-cluster": "model-local"}
    answer = await world.ask(body("auto"), headers=JSON | own | forged)
    assert answer.by == "local"
    for name in NAMES:
        (request,) = world.providers[name].received
        ours = [h for h in request.headers if h.startswith(("x-router", "x-envoy", "x-forwarded-for"))]
        assert ours == []
        assert "clients-own" not in str(request.headers)
        assert request.headers["host"].endswith(str(world.providers[name].port))
        assert request.headers["x-request-id"] == answer.headers["x-request-id"]
        others = [f"sk-{other}" for other in NAMES if other != name]
        assert not [key for key in others if key in str(request.headers)]


async def test_no_header_of_a_provider_poses_as_the_routers(launch: Launch) -> None:
    async def forge(_: web.Request) -> web.Response:
        names = ("served-by", "escalate", "route", "model", "anything")
        return web.json_response({"by": "forger"}, headers={f"x-router-{name}": "forged" for name in names})

    world = await chained(launch, response_headers=False)
    for provider in world.providers.values():
        provider.handler = forge
    in_turn = await world.ask(body("auto"))
    world.sidecar.decision = decided("small", route="another")
    pinned = await world.ask()
    passed = await world.ask(path="/v1/files")
    await world.sidecar.stop()
    bypassed = await world.ask()
    for answer in (in_turn, pinned, passed, bypassed):
        assert (answer.status, answer.by) == (200, "forger")
        assert not [name for name in answer.headers if name.startswith("x-router-")]


async def test_a_provider_cannot_say_that_another_answered(launch: Launch) -> None:
    async def forge(_: web.Request) -> web.Response:
        return web.json_response({"by": "small"}, headers={"x-router-served-by": "forged"})

    world = await chained(launch)
    world.providers["small"].handler = forge
    assert (await world.ask(body("auto"))).headers["x-router-served-by"] == "small"


async def test_who_answered_is_told_only_where_decisions_are_told(launch: Launch) -> None:
    world = await chained(launch, response_headers=False)
    assert not [name for name in (await world.ask(body("auto"))).headers if name.startswith("x-router")]


async def test_a_fallback_that_does_not_speak_the_api_is_passed_over(launch: Launch) -> None:
    speaks = {"small": list(Api), "large": list(Api), "local": [Api.OPENAI_CHAT]}
    world = await chained(launch, "local", "large", speaks=speaks)
    await fail(world.providers["small"], "503")
    assert (await world.ask(body("auto"), path=MESSAGES)).by == "large"
    assert (await world.ask(body("auto"))).by == "local"


async def test_without_a_fallback_for_the_api_the_client_gets_the_models_own_error(launch: Launch) -> None:
    speaks = {"small": list(Api), "large": list(Api), "local": [Api.OPENAI_CHAT]}
    world = await chained(launch, "local", speaks=speaks)
    await fail(world.providers["small"], "503")
    answer = await world.ask(body("auto"), path=MESSAGES)
    assert (answer.status, answer.json()) == (503, {"by": "failed"})
    assert list(sent(world)) == ["small"]


async def test_the_default_falls_back_too_when_no_candidate_could_take_the_request(launch: Launch) -> None:
    world = await chained(launch, "local")
    world.sidecar.decision = failed_over("large")
    await fail(world.providers["large"], "503")
    assert (await world.ask(body("auto"))).by == "local"
    assert sent(world) == expected("large", "local")


async def test_headers_of_the_route_reach_every_attempt_and_the_client(launch: Launch) -> None:
    policy = {"request_headers": {"x-team": "a%b"}, "response_headers": {"x-policy": "p"}}
    world = await chained(launch, policy=policy)
    await fail(world.providers["small"], "503")
    assert (await world.ask(body("auto"))).headers["x-policy"] == "p"
    assert {world.providers[n].received[0].headers["x-team"] for n in ("small", "large")} == {"a%b"}


@pytest.mark.parametrize("model", ["small", "large"])
async def test_a_path_of_the_providers_own_is_asked_at_each(launch: Launch, model: str) -> None:
    world = await chained(launch, paths={"large": "/api/openai/v1"})
    if model == "large":
        await fail(world.providers["small"], "503")
    assert (await world.ask(body("auto"), path=f"{CHAT}?a=%2B")).by == model
    (request,) = world.providers[model].received
    assert request.path == {"small": f"{CHAT}?a=%2B", "large": "/api/openai/v1/chat/completions?a=%2B"}[model]
    assert (await world.logged()).path == CHAT


async def test_nothing_is_mixed_up_under_load_with_two_workers(launch: Launch) -> None:
    world = await chained(launch, workers=2)
    turns = Counter[str]()

    def flaky(name: str, every: int) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            turns[name] += 1
            code = (503, 429)[turns[name] % 2] if turns[name] % every else 200
            return web.json_response({"by": name}, status=code)

        return answer

    world.providers["small"].handler = flaky("small", 3)
    world.providers["large"].handler = flaky("large", 2)

    async def client(number: int) -> None:
        for turn in range(8):
            asked = body("auto").replace(b"say", f"{number}-{turn}".encode())
            answer = await world.ask(asked, headers=JSON | {"authorization": f"Bearer {number}"})
            assert answer.status == 200
            assert answer.headers["x-router-served-by"] == answer.by

    await asyncio.gather(*(client(number) for number in range(32)))
    seen = Counter[str]()
    for name in NAMES:
        for request in world.providers[name].received:
            document = json.loads(request.body)
            text = document["messages"][0]["content"].split(" ")[0]
            assert request.body == body(NAMES[name]).replace(b"say", text.encode())
            assert request.headers.get("authorization") == KEYS[name]
            seen[f"{name} {text}"] += 1
    assert set(seen.values()) == {1}
    assert sum(name.startswith("small") for name in seen) == 256
    for _ in range(256):
        entry = await world.logged()
        assert [each.number for each in entry.tried] == list(range(1, entry.attempts + 1))
        assert entry.tried[-1].model == entry.served_by


def test_a_model_is_not_its_own_fallback() -> None:
    models = {name: Model(base_url="http://127.0.0.1:1") for name in ("a", "b")}
    routes = {"r": RouteSettings(candidates=["a", "b"], fallback=["b", "a"])}
    found = chains(Registry(models=models, default="a", routes=routes)).values()
    assert sorted([call.model for call in calls] for calls in found) == [["a", "b"], ["b", "a"]]


def test_the_span_of_a_model_is_where_the_edited_body_names_it() -> None:
    asked = body("auto")
    request = apis.parse(Api.OPENAI_CHAT, asked)
    edited = apis.with_policy(asked, request, BodyPolicy(model="é" * 5, max_tokens=3))
    start, end = apis.model_span(edited)
    assert json.loads(edited[start:end]) == "é" * 5


# --- What the record gets ------------------------------------------------------------------------


def tried(entry: Exchange) -> list[tuple[int, str, int]]:
    """Of each attempt of an exchange: its number, whom it asked, what came."""
    return [(each.number, each.model, each.call.status) for each in entry.tried]


async def test_each_attempt_is_told_with_its_exchange(launch: Launch) -> None:
    world = await chained(launch)
    await fail(world.providers["small"], "503")
    answer = await world.ask(body("auto"), headers=JSON | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    entry = await world.logged()
    assert tried(entry) == [(1, "small", 503), (2, "large", 200)]
    assert list(entry.tried) == world.sidecar.attempts
    first, second = entry.tried
    assert (second.upstream_model, second.provider) == ("large-400b", "openai")
    for attempt in entry.tried:
        assert attempt.call.request_id == entry.request_id == answer.headers["x-request-id"]
        assert (attempt.call.path, attempt.call.cluster) == (CHAT, f"model-{attempt.model}")
        assert attempt.call.traceparent == f"00-{'a' * 32}-{'b' * 16}-01"
        assert attempt.call.request_bytes == len(body("small"))
    assert entry.started_at <= first.call.started_at <= second.call.started_at


async def test_what_a_refused_answer_used_is_told_too(launch: Launch) -> None:
    async def refuse(_: web.Request) -> web.Response:
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return web.json_response({"model": "small-v2", "usage": usage}, status=503)

    world = await chained(launch)
    world.providers["small"].handler = refuse
    await world.ask(body("auto"))
    first, second = (await world.logged()).tried
    assert first.call.usage == Usage(input=7, output=3, response_model="small-v2")
    assert second.call.usage is None


async def test_an_attempt_that_is_given_up_is_told_without_a_status(launch: Launch) -> None:
    world = await chained(launch, policy={"timeout_s": 0.2})
    await fail(world.providers["small"], "stall")
    await world.ask(body("auto"))
    entry = await world.logged()
    assert tried(entry) == [(1, "small", 0), (2, "large", 200)]
    assert entry.tried[0].call.flags == ("DR",)


async def test_of_a_client_that_leaves_the_attempt_is_told_too(launch: Launch) -> None:
    world = await chained(launch)
    asked, forever = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await forever.wait()
        return web.Response()

    world.providers["small"].handler = hang
    request = asyncio.create_task(world.ask(body("auto")))
    await asked.wait()
    request.cancel()
    entry = await world.logged()
    forever.set()
    assert (entry.status, entry.flags) == (0, ("DC",))
    assert tried(entry) == [(1, "small", 0)]


async def test_a_model_that_no_hop_asked_has_no_attempts(launch: Launch) -> None:
    world = await chained(launch)
    world.sidecar.decision = decided("large", route="another")
    await world.ask(body("auto"))
    assert (await world.logged()).tried == ()
    assert world.sidecar.attempts == []
