"""A sidecar that is killed or hangs while it waits for an LLM: the client gets what ``without_sidecar`` says."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from tests.e2e.conftest import Answer, World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

LLM = "small"
DOUBTFUL = "zzyzx quombat frelm"
SILENT = Behaviour(delay_before_headers_s=60)


@pytest_asyncio.fixture(scope="module", params=["default", "refuse"], loop_scope="session")
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, World]]:
    folder = tmp_path_factory.mktemp("llm")

    def doubting(registry: Any) -> None:
        registry["thresholds"] = {"margin": 0.9999, "in_scope": 0.9999}
        registry["llm"] = {"model": LLM, "deadline_ms": 1500, "max_share": 1.0, "per_second": 1000}
        registry["envoy"] = {**registry.get("envoy", {}), "egress": f"unix:{folder}/e"}
        registry["without_sidecar"] = request.param

    async for world in world_in(folder, change=doubting):
        yield request.param, world


@pytest_asyncio.fixture(loop_scope="session")
async def asking(shared: tuple[str, World]) -> tuple[str, World]:
    """What the registry says of requests without a sidecar, and a world whose LLM never answers."""
    without_sidecar, world = shared
    if world.stack.sidecar.returncode is not None:
        await world.stack.start_sidecar()
    await world.stack.sidecars_used()
    world.as_at_first().pool[LLM].behaviour = SILENT
    return without_sidecar, world


async def asked_while_the_llm_is_silent(world: World, text: str, stream: bool) -> asyncio.Task[Answer]:
    """A request whose question the LLM has got."""
    answer = asyncio.create_task(world.post(chat(text, stream=stream)))
    async with asyncio.timeout(60):
        while not world.pool[LLM].journal:
            await asyncio.sleep(0.01)
    return answer


def assert_as_without_a_sidecar(world: World, without_sidecar: str, answer: Answer) -> None:
    answered = {name: requests for name, requests in world.received().items() if name != LLM}
    if without_sidecar == "refuse":
        assert answer.status == 503
        assert answer.json()["error"]["message"]
        assert not answered
        return
    assert answer.status == 200
    ((name, (request,)),) = answered.items()
    assert (name, request.model, request.key) == ("mid", world.pool["mid"].name, world.pool["mid"].key)
    assert "x-router-model" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sidecar_killed_during_the_call_leaves_what_the_registry_says(
    asking: tuple[str, World], stream: bool
) -> None:
    without_sidecar, world = asking
    answer = await asked_while_the_llm_is_silent(world, f"{DOUBTFUL} killed {stream}", stream)
    await world.stack.stop_sidecar(signal.SIGKILL)
    assert_as_without_a_sidecar(world, without_sidecar, await answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sidecar_that_hangs_during_the_call_is_waited_for_as_long_as_it_asked(
    asking: tuple[str, World], stream: bool
) -> None:
    without_sidecar, world = asking
    answer = await asked_while_the_llm_is_silent(world, f"{DOUBTFUL} hung {stream}", stream)
    world.stack.sidecar.send_signal(signal.SIGSTOP)
    try:
        assert_as_without_a_sidecar(world, without_sidecar, await answer)
    finally:
        world.stack.sidecar.send_signal(signal.SIGCONT)


async def test_after_it_the_llm_is_asked_again_as_before(asking: tuple[str, World]) -> None:
    _, world = asking
    await asked_while_the_llm_is_silent(world, f"{DOUBTFUL} before", stream=False)
    await world.stack.stop_sidecar(signal.SIGKILL)
    await world.stack.start_sidecar()
    await world.stack.sidecars_used()
    world.pool[LLM].behaviour = Behaviour(text='{"route": "code", "why": "it fits"}')
    answer = await world.post(chat(f"{DOUBTFUL} after"))
    assert answer.headers["x-router-route"] == "code"
