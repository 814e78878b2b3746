"""Tasks that die are started again, seen by readiness, counted, and not for ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from extproc.errors import TaskFailed
from extproc.health import Components
from extproc.supervisor import COMPONENT, MOST_DEATHS, WINDOW_S, Supervisor


class World:
    """A supervisor with a clock that only its pauses move on, and tasks that die on demand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.restarts: list[str] = []
        self.gave_up = 0
        self.components = Components(COMPONENT)
        self.paused = asyncio.Event()
        self.go_on = asyncio.Event()
        self.supervisor = Supervisor(
            self.components,
            count_restarts=self.count,
            give_up=self.give_up,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        self.paused.set()
        await self.go_on.wait()

    def count(self, name: str, times: int) -> None:
        self.restarts += [name] * times

    def give_up(self) -> None:
        self.gave_up += 1


class Work:
    """Runs until it is told to end; each run may be ended by an error."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def __call__(self) -> None:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started.put_nowait(end)
        await end


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    async with asyncio.timeout(60):
        await world.supervisor.close()


async def test_a_task_that_dies_makes_the_process_unready_until_it_runs_again(world: World) -> None:
    work = Work()
    world.supervisor.start("queue", work)
    (await work.started.get()).set_exception(ValueError("a defect"))
    await world.paused.wait()
    assert world.components.snapshot()[COMPONENT] == (False, "queue is down: ValueError: a defect")
    assert world.restarts == []
    world.go_on.set()
    await work.started.get()
    assert world.components.snapshot()[COMPONENT] == (True, "running")
    assert world.restarts == ["queue"]


async def test_other_tasks_continue_and_are_reported_by_name(world: World) -> None:
    works = {"one": Work(), "two": Work(), "three": Work()}
    for name, work in works.items():
        world.supervisor.start(name, work)
    ends = {name: await work.started.get() for name, work in works.items()}
    for name in ("one", "two"):
        world.paused.clear()
        ends[name].set_exception(KeyError(name))
        await world.paused.wait()
    assert world.components.snapshot()[COMPONENT] == (
        False,
        "one is down: KeyError: 'one'; two is down: KeyError: 'two'",
    )
    assert not ends["three"].done()


async def test_each_death_doubles_the_pause_and_the_last_ends_the_process(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work()
    world.go_on.set()
    world.supervisor.start("queue", work)
    for number in range(MOST_DEATHS):
        world.supervisor.check()
        (await work.started.get()).set_exception(ValueError(f"defect {number}"))
    async with asyncio.timeout(60):
        while not world.gave_up:
            await asyncio.sleep(0)
    assert world.pauses == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert world.restarts == ["queue"] * (MOST_DEATHS - 1)
    with pytest.raises(TaskFailed, match=r"the task queue failed 6 times within 300 s.*defect 5"):
        world.supervisor.check()
    assert not world.components.ready
    assert caplog.text.count("the task queue failed") == MOST_DEATHS


async def test_deaths_that_are_long_ago_are_forgotten(world: World) -> None:
    work = Work()
    world.go_on.set()
    world.supervisor.start("queue", work)
    for _ in range(3 * MOST_DEATHS):
        (await work.started.get()).set_exception(ValueError("a defect"))
        world.now += WINDOW_S
    await work.started.get()
    assert world.gave_up == 0
    assert set(world.pauses) == {0.5}


async def test_a_cancellation_from_within_is_a_death_and_one_from_without_the_end(world: World) -> None:
    work = Work()
    world.go_on.set()
    world.supervisor.start("queue", work)
    (await work.started.get()).cancel()
    end = await work.started.get()
    assert world.restarts == ["queue"]
    await world.supervisor.close()
    assert end.cancelled()
    assert world.restarts == ["queue"]


async def test_a_task_that_returns_is_done(world: World) -> None:
    work = Work()
    world.supervisor.start("queue", work)
    (await work.started.get()).set_result(None)
    await world.supervisor.close()
    assert world.components.ready
    assert work.started.empty()
