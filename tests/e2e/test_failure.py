"""The failure contract: whatever happens to the sidecar, the default model answers, by Envoy alone."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from tests.e2e.conftest import Answer, World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

CODE = "implement quicksort in python"
CLIENTS = 16


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def module_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("failure")):
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def world(module_world: World) -> World:
    """The module's world, whose sidecar runs and decides."""
    if module_world.stack.sidecar.returncode is not None:
        await module_world.stack.start_sidecar()
    async with asyncio.timeout(60):
        while "x-router-model" not in (await module_world.post(chat("hi"))).headers:
            await asyncio.sleep(0.02)
    return module_world.as_at_first()


def sent_as_it_should(world: World) -> Counter[str]:
    """How many requests each model got; every one must have had that model's own name and key."""
    for name, requests in world.received().items():
        for request in requests:
            assert request.model == world.pool[name].name
            assert request.key == world.pool[name].key
    return Counter({name: len(requests) for name, requests in world.received().items()})


async def answers_until(world: World, over: asyncio.Event) -> list[Answer]:
    """What one client gets that asks the same thing again and again."""
    answers = []
    while not over.is_set():
        answers.append(await world.post(chat(CODE), authorization="Bearer clients-own"))
    return answers


async def test_a_sidecar_killed_under_load_loses_no_request_and_is_used_when_back(world: World) -> None:
    over = asyncio.Event()
    clients = [asyncio.create_task(answers_until(world, over)) for _ in range(CLIENTS)]
    async with asyncio.timeout(60):
        while len(world.pool["code"].journal) < 100:
            await asyncio.sleep(0.01)
        await world.stack.stop_sidecar(signal.SIGKILL)
        while len(world.pool["mid"].journal) < 100:
            await asyncio.sleep(0.01)
        await world.stack.start_sidecar()
        routed = len(world.pool["code"].journal)
        while len(world.pool["code"].journal) == routed:
            await asyncio.sleep(0.01)
        over.set()
        answers = [answer for client in clients for answer in await client]
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    counts = sent_as_it_should(world)
    assert counts.keys() == {"code", "mid"}
    assert counts.total() == len(answers)


async def test_a_hung_sidecar_costs_the_deadline_and_nothing_else(world: World) -> None:
    assert (await world.post(chat(CODE))).headers["x-router-model"] == "code"
    world.forget()
    world.stack.sidecar.send_signal(signal.SIGSTOP)
    try:
        answer = await world.post(chat(CODE))
        assert answer.status == 200
    finally:
        world.stack.sidecar.send_signal(signal.SIGCONT)
    assert sent_as_it_should(world) == {"mid": 1}
    assert not [name for name in answer.headers if name.lower().startswith("x-router-")]


async def test_where_the_registry_refuses_no_denied_text_passes_a_sidecar_that_is_killed(
    tmp_path: Path,
) -> None:
    def refusing(registry: Any) -> None:
        registry["without_sidecar"] = "refuse"

    statuses: list[int] = []

    async def client(over: asyncio.Event) -> None:
        while not over.is_set():
            statuses.append((await world.post(chat("My card is 4111 1111 1111 1111"))).status)

    async def becomes(status: int) -> None:
        seen = len(statuses)
        while status not in statuses[seen:]:
            await asyncio.sleep(0.01)

    async for world in world_in(tmp_path, change=refusing):
        over = asyncio.Event()
        clients = [asyncio.create_task(client(over)) for _ in range(8)]
        async with asyncio.timeout(60):
            await becomes(400)
            await world.stack.stop_sidecar(signal.SIGKILL)
            await becomes(503)
            await world.stack.start_sidecar()
            await becomes(400)
            over.set()
            await asyncio.gather(*clients)
        assert set(statuses) == {400, 503}
        assert not world.received()


async def test_requests_without_a_sidecar_do_not_fill_envoys_log(world: World) -> None:
    await world.stack.stop_sidecar(signal.SIGKILL)
    for _ in range(3):
        assert (await world.post(chat(CODE))).status == 200
    assert "[ext_proc]" not in world.stack.envoy_log.read_text()


async def test_without_a_sidecar_what_clients_forge_still_chooses_nothing(world: World) -> None:
    await world.stack.stop_sidecar(signal.SIGKILL)
    answer = await world.post(chat(CODE), x_router_cluster="model-small", x_router_model="small")
    assert answer.status == 200
    assert sent_as_it_should(world) == {"mid": 1}
    async with world.http.get(f"{world.stack.url}/v1/models") as models:
        assert models.status == 200


async def test_what_the_sidecar_missed_is_recorded_as_bypassed_once_it_is_back(world: World) -> None:
    await world.stack.stop_sidecar(signal.SIGTERM)
    assert (await world.post(chat(CODE))).status == 200
    await world.stack.start_sidecar()
    await world.stack.sidecars_used()
    answer = await world.post(chat(CODE))
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert record["bypassed"] is False
    assert record["model"] == "code"


async def test_a_provider_that_fails_is_told_as_it_is(world: World) -> None:
    """Routing adds no error of its own: what the chosen provider answers is what the client gets."""
    world.pool["code"].behaviour = Behaviour(status=429)
    answer = await world.post(chat(CODE))
    assert answer.status == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_sigterm_finishes_what_is_in_flight_and_leaves_no_error(world: World) -> None:
    over = asyncio.Event()
    clients = [asyncio.create_task(answers_until(world, over)) for _ in range(4)]
    async with asyncio.timeout(60):
        while len(world.pool["code"].journal) < 20:
            await asyncio.sleep(0.01)
        assert await world.stack.stop_sidecar(signal.SIGTERM) == 0
        over.set()
        answers: list[Any] = [answer for client in clients for answer in await client]
    assert {answer.status for answer in answers} == {200}
    sent_as_it_should(world)
