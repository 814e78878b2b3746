"""A gate asks another model through the real Envoy: with that one's key, name and path, and no ext_proc."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from extproc.egress.model_calls import Egress
from extproc.exchanges import Ruling
from extproc.exchanges import SecondAnswer as Told
from extproc.registry.cascade_settings import Cascade, Gate, SecondSettings, Tier, VerifierSettings
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, RouteSettings
from extproc.registry.tier_compiling import judged_tiers
from extproc.vocabulary import Api, BodyPolicy
from extproc.wire.gate_stream import Gatekeepers
from tests.envoyconf.conftest import DEADLINE_S, Handler, World, decided, launcher

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = (
    b'{"model":"small","stream":%s,"stream_options":{"include_usage":true},'
    b'"messages":[{"role":"user","content":"6 * 7 = ?"}],"seed":9007199254740993,"max_tokens":99}'
)
MESSAGES = "/v1/messages"
SPEAKS = {
    "small": [Api.OPENAI_CHAT, Api.ANTHROPIC_MESSAGES],
    "local": [Api.OPENAI_CHAT, Api.ANTHROPIC_MESSAGES],
}
TIERS = [Tier(model="small", gate="agreed", stream="hold"), Tier(model="local")]


def registry(**second: Any) -> Registry:
    models = {
        name: Model(base_url="http://127.0.0.1:1", apis=SPEAKS.get(name, [])) for name in ("small", "local")
    }
    models["large"] = Model(base_url="http://127.0.0.1:1/api/v4", name="large-400b")
    return Registry(models=models, default="local", **policy(**second))


def policy(verifier: VerifierSettings | None = None, **second: Any) -> dict[str, Any]:
    asked = {"verifier": verifier} if verifier else {"second": SecondSettings(model="large", **second)}
    return {
        "cascades": {"frugal": Cascade(tiers=TIERS)},
        "gates": {"agreed": Gate(finish=True, **asked)},
        "routes": {"greeting": RouteSettings(candidates=["small"], cascade="frugal")},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("world")
    async with launcher(directory) as launch:
        world = await launch(
            default="local", decision_ms=10_000, speaks=SPEAKS, paths={"large": "/api/v4"},
            egress=f"unix:{directory}/e", **policy(),
        )  # fmt: skip
        world.sidecar.second_answers = Egress(f"unix:{directory}/e", time.monotonic)
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.forget()
    shared.sidecar.decision = decided("small", policy=BodyPolicy(model="small"), fallback=True)
    for name, provider in shared.providers.items():
        provider.handler = says(f"It is 42, says {name}. The answer is 42")
    for queue in (shared.sidecar.exchanges, shared.sidecar.asked):
        while not queue.empty():
            queue.get_nowait()
    judged_by(shared)
    return shared


def judged_by(world: World, **second: Any) -> None:
    tiers = judged_tiers(registry(**second))
    world.sidecar.gatekeeper = Gatekeepers(lambda version: tiers)


def says(text: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if (await request.json()).get("stream"):
            part = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
            body = f"data: {json.dumps(part)}\n\ndata: [DONE]\n\n"
            return web.Response(text=body, content_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 11, "completion_tokens": 5}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})

    return answer


async def test_nobody_but_its_owner_reaches_the_socket(world: World) -> None:
    """Whoever does spends the providers' keys."""
    assert (world.log.parent / "e").stat().st_mode & 0o777 == 0o600


class Hanging:
    """A model that says nothing until it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.request: web.Request | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.request = request
        self.asked.set()
        await self.go.wait()
        return web.Response()

    @property
    def is_left(self) -> bool:
        return self.request is not None and self.request.transport is None


async def ask(world: World, stream: bool = False, path: str = "/v1/chat/completions") -> tuple[str, Ruling]:
    """Who answered, and what the gate said of the first tier's answer.

    A machine that is too busy for the sidecar's health has it left out, so it is asked until it was there.
    """
    while True:
        answer = await world.ask(ASK % (b"true" if stream else b"false"), path=path)
        assert answer.status == 200
        exchange = await world.logged(answer.headers["x-request-id"])
        ruling = exchange.tried[0].ruling if exchange.tried else None
        if ruling is not None:
            assert [attempt.model for attempt in exchange.tried] in (["small"], ["small", "local"])
            return answer.headers["x-router-served-by"], ruling
        await world.sidecar_used()


ANSWERED = Told("large", "answered", 11, 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_another_model_agrees_with_is_kept(world: World, stream: bool) -> None:
    assert await ask(world, stream) == ("small", Ruling(False, "agreed", second=ANSWERED))


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_it_disagrees_with_is_left_to_the_next(world: World, stream: bool) -> None:
    world.providers["large"].handler = says("The answer is 43")
    told = Ruling(True, "agreed", "agreement/disagrees", second=ANSWERED)
    assert await ask(world, stream) == ("local", told)


async def test_the_other_model_gets_the_request_under_its_own_name_with_its_own_key(world: World) -> None:
    await ask(world, stream=True)
    first, second = (world.providers[name].received[-1] for name in ("small", "large"))
    assert (second.path, second.headers["authorization"]) == ("/api/v4/chat/completions", "Bearer sk-large")
    assert second.headers["host"] == f"127.0.0.1:{world.providers['large'].port}"
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert not [name for name in second.headers if name.startswith(("x-router-", "x-envoy-"))]
    assert json.loads(second.body) == {
        "model": "large-400b",
        "stream": False,
        "messages": [{"role": "user", "content": "6 * 7 = ?"}],
        "seed": 9007199254740993,
        "max_tokens": 99,
    }
    assert first.headers["authorization"] == "Bearer sk-small"


async def test_ext_proc_does_not_see_the_call(world: World) -> None:
    await ask(world)
    assert world.providers["large"].received
    assert world.sidecar.asked.qsize() == len(world.providers["small"].received)


async def test_what_the_checks_refuse_asks_nobody(world: World) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        choice = {"index": 0, "message": {"content": "It is"}, "finish_reason": "length"}
        return web.json_response({"object": "chat.completion", "choices": [choice]})

    world.providers["small"].handler = cut
    assert await ask(world) == ("local", Ruling(True, "agreed", "finish/truncated"))
    assert world.providers["large"].received == []


@pytest.mark.parametrize(("on_error", "by"), [("keep", "small"), ("escalate", "local")])
async def test_without_a_second_answer_in_time_it_is_as_the_registry_says(
    world: World, on_error: str, by: str
) -> None:
    judged_by(world, deadline_s=0.05, on_error=on_error)
    world.providers["large"].handler = hanging = Hanging()
    served, ruling = await ask(world)
    hanging.go.set()
    reason = "second/timeout" if by == "local" else ""
    assert (served, ruling) == (by, Ruling(by == "local", "agreed", reason, second=Told("large", "timeout")))


@pytest.mark.parametrize(("on_error", "by"), [("keep", "small"), ("escalate", "local")])
async def test_the_time_of_the_tier_ends_the_call_for_a_second_answer(
    world: World, on_error: str, by: str
) -> None:
    (name, tier), *_ = judged_tiers(registry(on_error=on_error)).items()
    tiers = {name: msgspec.structs.replace(tier, timeout_s=0.3)}
    world.sidecar.gatekeeper = Gatekeepers(lambda version: tiers)
    world.providers["large"].handler = hanging = Hanging()
    served, ruling = await ask(world)
    hanging.go.set()
    assert (served, ruling.second) == (by, Told("large", "timeout"))


async def refuse(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {}}, status=503)


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "100"})
    await response.prepare(request)
    await response.write(b'{"choices"')
    assert request.transport is not None
    request.transport.abort()
    return response


async def babble(_: web.Request) -> web.StreamResponse:
    return web.json_response({"object": "something"})


@pytest.mark.parametrize("handler", [refuse, break_off, babble])
async def test_a_second_answer_that_fails_is_none(world: World, handler: Handler) -> None:
    judged_by(world, on_error="escalate")
    world.providers["large"].handler = handler
    told = Ruling(True, "agreed", "second/failed", second=Told("large", "failed"))
    assert await ask(world) == ("local", told)


async def test_no_more_calls_than_the_budget_has(world: World) -> None:
    judged_by(world, budget=1e-6)
    outcomes = [(await ask(world))[1].second for _ in range(3)]
    assert outcomes == [ANSWERED, Told("large", "budget"), Told("large", "budget")]
    assert len(world.providers["large"].received) == 1


async def message(_: web.Request) -> web.StreamResponse:
    content = [{"type": "text", "text": "It is 42"}]
    return web.json_response(
        {"type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn"}
    )


async def test_a_model_that_does_not_speak_the_requests_api_is_not_asked(world: World) -> None:
    world.providers["small"].handler = message
    served, ruling = await ask(world, path=MESSAGES)
    assert (served, ruling) == ("small", Ruling(False, "agreed", second=Told("large", "unasked")))


async def test_a_client_that_leaves_stops_the_call(world: World) -> None:
    world.providers["large"].handler = hanging = Hanging()
    async with asyncio.timeout(DEADLINE_S):
        asked = asyncio.create_task(hanging.asked.wait())
        while not hanging.asked.is_set():
            request = asyncio.create_task(world.ask(ASK % b"false"))
            await asyncio.wait({request, asked}, return_when=asyncio.FIRST_COMPLETED)
        request.cancel()
        while not hanging.is_left:
            await asyncio.sleep(0.01)
    hanging.go.set()


@pytest.mark.parametrize("path", ["/v1/chat/completions", MESSAGES])
@pytest.mark.parametrize(
    ("word", "by", "reason", "outcome", "score"),
    [
        ("0.9", "small", "", "answered", 0.9),
        ("I give it 0.2", "local", "verifier/low_score", "answered", 0.2),
        ("Fine!", "local", "second/failed", "failed", None),
    ],
)
async def test_a_verifier_says_how_good_an_answer_is(
    world: World, path: str, word: str, by: str, reason: str, outcome: str, score: float | None
) -> None:
    judged_by(world, verifier=VerifierSettings(model="large", min_score=0.6, on_error="escalate"))
    world.providers["large"].handler = says(word)
    if path == MESSAGES:
        world.providers["small"].handler = message
    told = Told("large", outcome, 11, 5, score)
    assert await ask(world, path=path) == (by, Ruling(by == "local", "agreed", reason, second=told))
    asked = world.providers["large"].received[-1]
    assert (asked.path, asked.headers["authorization"]) == ("/api/v4/chat/completions", "Bearer sk-large")
    body = json.loads(asked.body)
    assert body["model"] == "large-400b"
    assert "6 * 7 = ?" in body["messages"][1]["content"]
    assert "It is 42" in body["messages"][1]["content"]
