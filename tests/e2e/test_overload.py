"""An encoder that is too slow for its load, and one whose queue dies, through Envoy."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

EASY = "implement quicksort in python"
# Python imports a module of this name at its start: the sidecar gets defects that files switch on.
SITE = "sitecustomize.py"
DEFECTS = """
import pathlib, time
from extproc.embedding import batching, encoder_session

HERE = pathlib.Path(__file__).parent
take, embed = batching.BatchingEmbedder._take, encoder_session.OnnxEncoder.embed

def breakable(self):
    if (HERE / "broken").exists():
        raise RuntimeError("a defect in the queue")
    return take(self)

def slow(self, texts):
    if (HERE / "slow").exists():
        time.sleep(0.05 * len(texts))
    return embed(self, texts)

batching.BatchingEmbedder._take, encoder_session.OnnxEncoder.embed = breakable, slow
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overload")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(folder: Path) -> AsyncIterator[World]:
    (folder / SITE).write_text(DEFECTS)
    async for world in world_in(folder, environment={"PYTHONPATH": str(folder)}):
        yield world


async def reason(world: World) -> str:
    """Why the decision came out as it did; empty: Envoy does not ask a sidecar that is not ready."""
    answer = await world.post(chat(EASY))
    assert answer.status == 200
    return answer.headers.get("x-router-reason", "")


async def test_what_the_encoder_cannot_do_in_time_gets_the_default_and_it_recovers_at_once(
    world: World, folder: Path
) -> None:
    (folder / "slow").touch()
    for _ in range(8):
        await reason(world)  # from which the sidecar learns how slow it is
    reasons = Counter(await asyncio.gather(*(reason(world) for _ in range(300))))
    (folder / "slow").unlink()
    assert reasons["overloaded"] > 100
    assert reasons["matched"] >= 20
    assert await reason(world) == "matched"
    assert set(await asyncio.gather(*(reason(world) for _ in range(8)))) == {"matched"}


async def test_a_queue_that_dies_is_seen_and_started_again(world: World, folder: Path) -> None:
    (folder / "broken").touch()
    async with asyncio.timeout(60):
        while (page := await ready(world))[0] == 200:
            assert await reason(world) in ("overloaded", "")  # the default, at once
    assert page == (503, "embedding queue is down: RuntimeError: a defect in the queue")
    assert await reason(world) in ("overloaded", "")
    (folder / "broken").unlink()
    async with asyncio.timeout(60):
        while (await ready(world))[0] != 200:
            await asyncio.sleep(0.02)
    await world.stack.sidecars_used()
    assert await reason(world) == "matched"
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as metrics:
        assert 'router_task_restarts_total{router_task="embedding queue"}' in await metrics.text()


async def ready(world: World) -> tuple[int, str]:
    async with world.http.get(f"{world.stack.sidecar_admin_url}/readyz") as page:
        return page.status, (await page.json())["components"]["tasks"]["detail"]
