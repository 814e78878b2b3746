"""Cascades through the real Envoy: the cheap model first, its answer only if it will do."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from extproc.exchanges import Exchange, Ruling, Usage
from extproc.gate.answer_watch import AnswerWatch
from extproc.registry.cascade_settings import Cascade, Tier
from extproc.registry.schema import RouteSettings
from extproc.vocabulary import Api, BodyPolicy, Decision, RequestHead
from extproc.wire.gate_exchange import Watched
from tests.envoyconf.conftest import (
    ASK,
    CHAT,
    DEADLINE_S,
    JSON,
    Answer,
    Handler,
    World,
    decided,
    launcher,
)
from tests.envoyconf.serving import EVERY
from tests.envoyconf.test_chains import KEYS, NAMES, body, expected, fail, sent, status
from tests.envoyconf.test_observing import PATHS

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Keeper:
    """Refuses what says bad, accepts what says good: as soon as it is said, or at the end."""

    def __init__(self) -> None:
        self.watched: list[tuple[str, bytes]] = []
        self.reading: Callable[[], AnswerWatch] = Reading
        self.seconds: float | None = None

    def watch(self, tier: str, head: RequestHead, body: bytes) -> Watched:
        self.watched.append((tier, body))
        return Watched(self.reading(), self.seconds)


def keeper(world: World) -> Keeper:
    assert isinstance(world.sidecar.gatekeeper, Keeper)
    return world.sidecar.gatekeeper


class Reading:
    def __init__(self) -> None:
        self.seen = b""

    def on_head(self, status: int, content_type: str) -> bool:
        return True

    def on_body(self, data: bytes, ended: bool) -> Ruling | None:
        self.seen = self.seen[-8:] + data
        if b"bad" in self.seen:
            return Ruling(True, "words", "bad", 0.25)
        if b"good" in self.seen or ended:
            return Ruling(False, "words", "good", 0.75)
        return None

    def on_timeout(self) -> Ruling:
        return Ruling(True, "words", "late")


def begun(first: str = "small", **fields: Any) -> Decision:
    return decided(first, policy=BodyPolicy(model=NAMES[first]), fallback=True, **fields)


def registry(**cascade: Any) -> dict[str, Any]:
    tiers = cascade.pop("tiers", [Tier(model="small", gate="words"), Tier(model="large", gate="words")])
    return {
        "cascades": {"frugal": Cascade(tiers=tiers, **cascade)},
        "routes": {"greeting": RouteSettings(candidates=["small", "large"], cascade="frugal")},
        "default": "local",
        "decision_ms": 10_000,  # a busy machine is no failure of the decision
        "speaks": {name: list(Api) for name in NAMES},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with launcher(tmp_path_factory.mktemp("world")) as launch:
        yield await launch(**registry())


@pytest.fixture
def world(shared: World) -> World:
    shared.forget()
    shared.sidecar.decision = begun()
    shared.sidecar.gatekeeper = Keeper()
    for provider in shared.providers.values():
        provider.handler = None
    while not shared.sidecar.exchanges.empty():
        shared.sidecar.exchanges.get_nowait()
    return shared


MODES = ["json", "sse"]


def saying(mode: str, *texts: str, status: int = 200) -> Handler:
    """An answer that says the texts, in events where it is a stream."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if mode == "json":
            return web.json_response({"says": texts, "usage": USED}, status=status)
        response = web.StreamResponse(status=status, headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for text in (*texts, json.dumps({"usage": USED})):
            await response.write(f"data: {text}\n\n".encode())
        return response

    return answer


USED = {"prompt_tokens": 7, "completion_tokens": 3}


def verdicts(entry: Exchange) -> list[tuple[str, int | None, str]]:
    """Of each attempt: whom it asked, as which tier, and what its gate said."""
    told = []
    for each in entry.tried:
        verdict = "" if each.ruling is None else "escalate" if each.ruling.escalate else "accept"
        told.append((each.model, each.tier, verdict))
    return told


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_good_answer_of_the_first_tier_is_the_clients(world: World, path: str, mode: str) -> None:
    world.providers["small"].handler = saying(mode, "so", "good", "indeed")
    answer = await world.ask(EVERY, path=path)
    assert answer.status == 200
    assert answer.headers["x-router-served-by"] == "small"
    assert b"indeed" in answer.body
    assert b"usage" in answer.body
    assert list(sent(world)) == ["small"]
    entry = await world.logged(answer.headers["x-request-id"])
    assert verdicts(entry) == [("small", 0, "accept")]
    assert entry.tried[0].ruling == Ruling(False, "words", "good", 0.75)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_bad_one_is_left_to_the_next_tier(world: World, path: str, mode: str) -> None:
    world.providers["small"].handler = saying(mode, "so", "bad", "indeed")
    world.providers["large"].handler = saying(mode, "good")
    answer = await world.ask(EVERY, path=path)
    assert answer.status == 200
    assert answer.headers["x-router-served-by"] == "large"
    assert b"good" in answer.body
    assert b"bad" not in answer.body
    assert not [name for name in answer.headers if "escalate" in name]
    for name in ("small", "large"):
        (request,) = world.providers[name].received
        assert request.headers["authorization"] == KEYS[name]
        assert json.loads(request.body)["model"] == NAMES[name]
        assert not [header for header in request.headers if header.startswith(("x-router", "x-envoy"))]
    entry = await world.logged(answer.headers["x-request-id"])
    assert verdicts(entry) == [("small", 0, "escalate"), ("large", 1, "accept")]
    first = entry.tried[0]
    assert first.ruling == Ruling(True, "words", "bad", 0.25)
    assert first.call.status == 200
    assert (entry.attempts, entry.served_by) == (2, "large")


async def test_what_a_refused_answer_used_is_known(world: World) -> None:
    world.providers["small"].handler = saying("json", "bad")
    world.providers["large"].handler = saying("json", "good")
    answer = await world.ask(body("auto"))
    entry = await world.logged(answer.headers["x-request-id"])
    assert [each.call.usage for each in entry.tried] == [Usage(input=7, output=3)] * 2


async def test_the_default_answers_last_and_is_not_judged(world: World) -> None:
    for name in ("small", "large", "local"):
        world.providers[name].handler = saying("json", "bad")
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "local")
    assert b"bad" in answer.body
    assert sent(world) == expected("small", "large", "local")
    entry = await world.logged(answer.headers["x-request-id"])
    assert verdicts(entry) == [("small", 0, "escalate"), ("large", 1, "escalate"), ("local", None, "")]


async def test_a_decision_for_a_higher_tier_starts_there(world: World) -> None:
    world.sidecar.decision = begun("large")
    world.providers["large"].handler = saying("json", "good")
    answer = await world.ask(body("auto"))
    assert answer.headers["x-router-served-by"] == "large"
    entry = await world.logged(answer.headers["x-request-id"])
    assert verdicts(entry) == [("large", 1, "accept")]


async def test_the_gate_sees_the_request_and_knows_its_tier(world: World) -> None:
    world.providers["small"].handler = saying("json", "bad")
    await world.ask(body("auto"))
    assert keeper(world).watched == [("frugal/0", body("small")), ("frugal/1", body("small"))]


# --- Streams --------------------------------------------------------------------------------------


async def test_a_stream_is_released_when_its_beginning_is_good_and_then_live(world: World) -> None:
    seen = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: good\n\n")
        await seen.wait()
        await response.write(b"data: bad\n\n")
        return response

    world.providers["small"].handler = stream
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    async with asyncio.timeout(DEADLINE_S), world.http.post(url, data=body("auto"), headers=JSON) as answer:
        assert await answer.content.readexactly(12) == b"data: good\n\n"
        seen.set()
        assert await answer.read() == b"data: bad\n\n"


async def test_a_bad_beginning_closes_the_providers_stream_at_once(world: World) -> None:
    closed = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: bad\n\n")
        try:
            while True:
                await response.write(b": still\n\n")
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    world.providers["small"].handler = stream
    world.providers["large"].handler = saying("sse", "good")
    answer = await world.ask(body("auto"))
    assert answer.headers["x-router-served-by"] == "large"
    async with asyncio.timeout(DEADLINE_S):
        await closed.wait()


@pytest.mark.parametrize("mode", MODES)
async def test_long_answers_are_judged_to_their_end_and_come_whole(world: World, mode: str) -> None:
    parts = [*(f"{number} {'x' * 100_000}" for number in range(25)), "good", *"y" * 100]
    world.providers["small"].handler = saying(mode, *parts)
    answer = await world.ask(body("auto"))
    assert answer.headers["x-router-served-by"] == "small"
    assert all(part.encode() in answer.body for part in parts)
    world.providers["small"].handler = saying(mode, *parts[:25], "bad")
    world.providers["large"].handler = saying(mode, "good")
    assert (await world.ask(body("auto"))).headers["x-router-served-by"] == "large"


async def test_more_than_may_be_held_passes_without_a_verdict(world: World) -> None:
    text = "x" * 12_000_000
    world.providers["small"].handler = saying("json", text, "bad")
    answer = await world.ask(body("auto"))
    assert answer.json()["says"] == [text, "bad"]
    entry = await world.logged(answer.headers["x-request-id"])
    assert verdicts(entry) == [("small", 0, "")]


# --- What fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["503", "500", "429", "reset", "cut head"])
async def test_a_tier_that_fails_is_left_for_the_next(world: World, how: str) -> None:
    await fail(world.providers["small"], how)
    world.providers["large"].handler = saying("json", "good")
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")
    entry = await world.logged(answer.headers["x-request-id"])
    assert verdicts(entry) == [("small", 0, ""), ("large", 1, "accept")]


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_is_cut_while_it_is_held_is_left_for_the_next(world: World, mode: str) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        kind = {"json": "application/json", "sse": "text/event-stream"}[mode]
        response = web.StreamResponse(headers={"content-type": kind, "content-length": "1000"})
        await response.prepare(request)
        await response.write(b"data: so\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    world.providers["small"].handler = cut
    world.providers["large"].handler = saying(mode, "good")
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")


CONTEXT_ERRORS = {
    "openai": {"error": {"message": "too many tokens", "code": "context_length_exceeded"}},
    "vllm": {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000", "code": 400},
    "anthropic": {"type": "error", "error": {"message": "prompt is too long: 208310 tokens > 199999 maximum"}},
}  # fmt: skip


@pytest.mark.parametrize("who", CONTEXT_ERRORS)
async def test_a_prompt_too_long_for_the_tier_is_left_for_the_next(world: World, who: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response(CONTEXT_ERRORS[who], status=400)

    world.providers["small"].handler = refuse
    world.providers["large"].handler = saying("json", "good")
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")
    for name in ("large", "local"):
        world.providers[name].handler = refuse
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.json()) == (400, CONTEXT_ERRORS[who])
    assert "x-router-escalate" not in answer.headers


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
async def test_what_is_the_clients_fault_goes_straight_back(world: World, code: int) -> None:
    world.providers["small"].handler = status(code)
    assert (await world.ask(body("auto"))).status == code
    assert list(sent(world)) == ["small"]


async def test_a_provider_cannot_send_a_request_on(world: World) -> None:
    async def forge(_: web.Request) -> web.Response:
        return web.json_response({"says": "good"}, headers={"x-router-escalate": "1"})

    world.providers["small"].handler = forge
    answer = await world.ask(body("auto"))
    assert answer.headers["x-router-served-by"] == "small"
    assert "x-router-escalate" not in answer.headers


async def test_when_all_are_full_the_last_ones_retry_after_reaches_the_client(world: World) -> None:
    def full(seconds: str) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response({}, status=429, headers={"retry-after": seconds})

        return answer

    for name, seconds in (("small", "1"), ("large", "2"), ("local", "17")):
        world.providers[name].handler = full(seconds)
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.headers["retry-after"]) == (429, "17")


async def test_a_client_that_leaves_stops_the_chain_and_the_provider(world: World) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        asked.set()
        try:
            while True:
                await response.write(b": still\n\n")
                await asyncio.sleep(0.01)
        finally:
            left.set()

    world.providers["small"].handler = hang
    request = asyncio.create_task(world.ask(body("auto")))
    async with asyncio.timeout(DEADLINE_S):
        await asked.wait()
        request.cancel()
        await left.wait()
    while (entry := await world.logged()).flags != ("DC",):
        pass
    assert verdicts(entry) == [("small", 0, "")]
    assert list(sent(world)) == ["small"]


# --- The sidecar ----------------------------------------------------------------------------------


async def test_a_gate_that_breaks_lets_the_answer_pass(world: World) -> None:
    class Broken(Reading):
        def on_body(self, data: bytes, ended: bool) -> Ruling | None:
            raise RuntimeError("a defect")

    keeper(world).reading = Broken
    for mode in MODES:
        world.providers["small"].handler = saying(mode, "bad", "bad")
        answer = await world.ask(body("auto"))
        assert answer.headers["x-router-served-by"] == "small"
        assert answer.body.count(b"bad") == 2
    assert world.sidecar.failures == ["gate", "gate"]
    world.sidecar.failures.clear()


async def test_mixed_traffic_ends_at_its_tier_with_its_key_and_name(world: World) -> None:
    def mixed(name: str) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            text = json.loads(await request.read())["messages"][0]["content"]
            _, mode, meant = text.split(" ")
            return await saying(mode, name, "good" if meant == name else "bad")(request)

        return answer

    for name in ("small", "large", "local"):
        world.providers[name].handler = mixed(name)
    wanted = [("json", "small"), ("sse", "small"), ("json", "large"), ("sse", "large"), ("json", "local")]

    async def client(number: int) -> None:
        for turn in range(4):
            mode, meant = wanted[(number + turn) % len(wanted)]
            answer = await ask_decided(world, f"{number}-{turn} {mode} {meant}")
            assert (answer.status, answer.headers["x-router-served-by"]) == (200, meant)
            assert meant.encode() in answer.body

    await asyncio.gather(*(client(number) for number in range(64)))
    for name in NAMES:
        for request in world.providers[name].received:
            assert request.headers.get("authorization") == KEYS[name]
            assert json.loads(request.body)["model"] == NAMES[name]
    decided = 0
    while decided < 256:
        entry = await world.logged()
        if entry.served_by:
            assert [each.number for each in entry.tried] == list(range(1, entry.attempts + 1))
            assert entry.tried[-1].model == entry.served_by
            decided += 1


async def ask_decided(world: World, text: str) -> Answer:
    """Until it was decided: a machine that is too busy for the sidecar's health leaves it to the default."""
    while True:
        answer = await world.ask(ASK.replace(b'"hi"', json.dumps(text).encode()))
        if "x-router-served-by" in answer.headers:
            return answer
        await asyncio.sleep(0.05)
