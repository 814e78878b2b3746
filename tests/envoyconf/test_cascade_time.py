"""Cascades through the real Envoy: time, breakers, and a sidecar that dies or hangs."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from extproc.envoyconf import http_filters
from extproc.exchanges import Ruling
from extproc.gate.consultation import Consultation, ConsultationResult
from extproc.registry.cascade_settings import Retry, Tier
from extproc.wire import gate_messages, gate_stream
from extproc.wire.decide_messages import StreamMetadata
from extproc.wire.gate_exchange import GateExchange
from extproc.wire.gate_stream import GateConversation
from tests.envoyconf.conftest import ASK, CHAT, JSON, Handler, Launch, World
from tests.envoyconf.test_cascades import (
    MODES,
    Keeper,
    Reading,
    ask_decided,
    begun,
    keeper,
    registry,
    saying,
)
from tests.envoyconf.test_chains import KEYS, NAMES, body, sent, status


async def cascading(launch: Launch, **cascade: Any) -> World:
    world = await launch(**registry(**cascade))
    world.sidecar.decision = begun()
    world.sidecar.gatekeeper = Keeper()
    return world


def hanging(until: asyncio.Event, after: bytes = b"") -> Handler:
    """An answer whose head, and perhaps beginning, comes, and nothing more before ``until``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if not after:
            await until.wait()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(after)
        await until.wait()
        return response

    return answer


@pytest.mark.parametrize("after", [b"", b"data: so\n\n"], ids=["no head", "head"])
async def test_a_tier_that_is_late_is_left_for_the_next(launch: Launch, after: bytes) -> None:
    tiers = [
        Tier(model="small", gate="words", timeout_s=0.3),
        Tier(model="large", gate="words", timeout_s=20),
    ]
    world = await cascading(launch, tiers=tiers)
    keeper(world).seconds = 0.3
    never = asyncio.Event()
    world.providers["small"].handler = hanging(never, after)
    world.providers["large"].handler = saying("sse", "good")
    answer = await world.ask(body("auto"))
    never.set()
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")
    first, _ = (await world.logged()).tried
    assert first.ruling == (Ruling(True, "words", "late") if after else None)
    assert first.call.status == (200 if after else 504)


async def test_a_tier_that_sends_slowly_and_never_stops_is_left_for_the_next(launch: Launch) -> None:
    tiers = [Tier(model="small", gate="words", timeout_s=0.3), Tier(model="large")]
    world = await cascading(launch, tiers=tiers)
    keeper(world).seconds = 0.3

    async def trickling(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionError):  # Envoy closes it
            while True:
                await response.write(b"data: so\n\n")
                await asyncio.sleep(0.02)
        return response

    world.providers["small"].handler = trickling
    answer = await world.ask(body("auto"))
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")
    assert (await world.logged()).tried[0].ruling == Ruling(True, "words", "late")


async def test_a_released_stream_may_pause_longer_than_its_tiers_time(launch: Launch) -> None:
    tiers = [Tier(model="small", gate="words", timeout_s=0.5), Tier(model="large")]
    world = await cascading(launch, tiers=tiers)

    async def pausing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: good\n\n")
        await asyncio.sleep(1.5)
        await response.write(b"data: end\n\n")
        return response

    world.providers["small"].handler = pausing
    answer = await world.ask(ASK)
    assert (answer.headers["x-router-served-by"], answer.body) == ("small", b"data: good\n\ndata: end\n\n")


async def test_a_deadline_is_shared_and_at_its_end_the_client_is_told(launch: Launch) -> None:
    tiers = [Tier(model="small", timeout_s=0.3), Tier(model="large")]
    world = await cascading(launch, tiers=tiers, deadline_s=2.5)
    never = asyncio.Event()
    for name in NAMES:
        world.providers[name].handler = hanging(never)
    answer = await world.ask(body("auto"))
    never.set()
    assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    entry = await world.logged()
    assert [each.model for each in entry.tried] == ["small", "large", "local"]
    small, large, local = (each.call.duration or 0.0 for each in entry.tried)
    # Each got what was left: the first its own time, the second the rest, and nothing remained.
    assert local < small < large


async def test_a_tier_is_asked_again_before_the_next_where_it_says_so(launch: Launch) -> None:
    tiers = [Tier(model="small", retry=Retry(attempts=1, statuses=(503,))), Tier(model="large")]
    world = await cascading(launch, tiers=tiers)
    world.providers["small"].handler = status(503)
    answer = await world.ask(body("auto"))
    assert answer.by == "large-400b" or answer.by == "large"
    assert len(sent(world)["small"]) == 2
    entry = await world.logged()
    assert [(each.model, each.call.attempts) for each in entry.tried] == [("small", 2), ("large", 1)]


async def test_a_tier_that_is_full_is_left_for_the_next(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded(monkeypatch)
    world = await cascading(launch)
    never, asked = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.set()
        await never.wait()
        return await saying("json", "good")(request)

    world.providers["small"].handler = hang
    world.providers["large"].handler = saying("json", "good")
    first = asyncio.create_task(world.ask(body("auto")))
    await asked.wait()
    answer = await world.ask(body("auto"))
    assert answer.headers["x-router-served-by"] == "large"
    assert (await world.logged()).tried[0].call.flags == ("UO",)
    never.set()
    assert (await first).headers["x-router-served-by"] == "small"


def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of the next world takes one request at a time."""
    from tests.envoyconf import conftest

    make = conftest.registry_for

    def smaller(*arguments: Any) -> Any:
        made = make(*arguments)
        models = {name: replace(model, max_requests=1) for name, model in made.models.items()}
        return replace(made, models=models)

    monkeypatch.setattr(conftest, "registry_for", smaller)


@pytest.mark.parametrize("mode", MODES)
async def test_what_a_dying_sidecar_held_goes_on_unjudged(launch: Launch, mode: str) -> None:
    world = await cascading(launch)
    held, on = asyncio.Event(), asyncio.Event()

    class Held(Reading):
        def on_body(self, data: bytes, ended: bool) -> Ruling | None:
            held.set()
            return None

    async def answer(request: web.Request) -> web.StreamResponse:
        kind = {"json": "application/json", "sse": "text/event-stream"}[mode]
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        await response.write(b'data: {"says": "so"}\n\n')
        await on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    keeper(world).reading = Held
    world.providers["small"].handler = answer
    request = asyncio.create_task(world.ask(body("auto")))
    await held.wait()
    await world.sidecar.stop()
    on.set()
    got = await request
    assert (got.status, got.headers["x-router-served-by"]) == (200, "small")
    assert got.body == b'data: {"says": "so"}\n\ndata: [DONE]\n\n'
    assert sent(world).keys() == {"small"}


async def test_after_its_release_a_stream_needs_no_sidecar(launch: Launch) -> None:
    world = await cascading(launch)
    on = asyncio.Event()
    world.providers["small"].handler = hanging(on, b"data: good\n\n")
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    async with asyncio.timeout(30), world.http.post(url, data=ASK, headers=JSON) as answer:
        assert await answer.content.readexactly(12) == b"data: good\n\n"
        await world.sidecar.stop()
        on.set()
        assert await answer.read() == b""


@pytest.mark.parametrize("timeout_s", [2.0, None])
async def test_a_hung_sidecar_costs_time_and_no_answer(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    monkeypatch.setattr(http_filters, "_GATE_SILENCE_S", 0.5)

    async def hang(self: GateConversation, context: Any, stream: StreamMetadata) -> None:
        gate = GateExchange(stream.tier, Keeper())
        for _ in range(2):  # the request's head and body go on
            event = gate_messages.decode(await context.read(), stream)
            await context.write(gate_messages.encode(event, gate.receive(event)))
        await asyncio.Event().wait()

    monkeypatch.setattr(GateConversation, "converse", hang)
    world = await cascading(
        launch, tiers=[Tier(model="small", gate="words", timeout_s=timeout_s), Tier(model="large")]
    )
    world.providers["small"].handler = saying("json", "bad")
    answer = await world.ask(ASK)
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "small")
    assert (await world.logged()).tried[0].ruling is None


@pytest.fixture
def brief_silence(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long Envoy waits for a gate that says nothing, in seconds; gates ask for more well before."""
    monkeypatch.setattr(http_filters, "_GATE_SILENCE_S", 2.0)
    monkeypatch.setattr(gate_stream, "_QUIET_S", 0.1)
    return 2.0


async def test_a_gate_that_is_alive_judges_an_answer_that_pauses(
    launch: Launch, brief_silence: float
) -> None:
    async def pausing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: so\n\n")
        await asyncio.sleep(brief_silence + 0.3)
        await response.write(b"data: bad\n\n")
        return response

    world = await cascading(launch)
    world.providers["small"].handler = pausing
    world.providers["large"].handler = saying("sse", "good")
    answer = await world.ask(ASK)
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")


async def test_a_gate_that_asks_another_model_is_waited_for(launch: Launch, brief_silence: float) -> None:
    class Asking(Reading):
        def on_body(self, data: bytes, ended: bool) -> Consultation | None:
            asked = Consultation(model="large", path=CHAT, body=b"{}", deadline_s=10.0, budget_key="words")
            return asked if ended else None

        def on_second_answer(self, advice: ConsultationResult) -> Ruling:
            return Ruling(True, "words", "bad")

    class Slow:
        async def ask(self, consultation: Consultation, within_s: float | None) -> ConsultationResult:
            await asyncio.sleep(brief_silence + 0.3)
            return ConsultationResult()

    world = await cascading(launch, tiers=[Tier(model="small", gate="words"), Tier(model="large")])
    keeper(world).reading = Asking
    world.sidecar.second_answers = Slow()
    world.providers["small"].handler = saying("json", "so")
    answer = await world.ask(ASK)
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "large")


async def test_large_bodies_and_a_stalled_sidecar_do_not_harm_envoy(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = 0
    all_stalled = asyncio.Event()

    async def stall(*_: object) -> None:
        nonlocal stalled
        stalled += 1
        if stalled == 16:
            all_stalled.set()
        await asyncio.Event().wait()  # not one message is read

    working = GateConversation.converse
    monkeypatch.setattr(GateConversation, "converse", stall)
    world = await cascading(launch)
    large = "x" * 300_000
    clients = [asyncio.create_task(ask_decided(world, large)) for _ in range(16)]
    async with asyncio.timeout(60):
        await all_stalled.wait()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    monkeypatch.setattr(GateConversation, "converse", working)
    world.providers["small"].handler = saying("json", "good")
    answers = await asyncio.gather(*(ask_decided(world, large) for _ in range(16)))
    assert {(each.status, each.headers["x-router-served-by"]) for each in answers} == {(200, "small")}
    assert await world.admin("/ready") == "LIVE\n"


async def test_a_sidecar_that_dies_under_load_fails_no_client(launch: Launch) -> None:
    world = await cascading(launch, max_calls=3)
    for name in NAMES:
        world.providers[name].handler = saying("sse", "good" if name == "large" else "bad")
    answers = 0
    some = asyncio.Event()

    async def client() -> None:
        nonlocal answers
        for _ in range(12):
            answer = await world.ask(ASK)
            assert answer.status == 200
            answers += 1
            if answers == 40:
                some.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as clients:
        for _ in range(16):
            clients.create_task(client())
        await some.wait()
        await world.sidecar.stop()
    assert answers == 192
    for name in NAMES:
        for request in world.providers[name].received:
            assert request.headers.get("authorization") == KEYS[name]
            assert json.loads(request.body)["model"] == NAMES[name]
