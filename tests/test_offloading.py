"""Large bodies are worked on beside the event loop, small ones on it."""

import asyncio
import threading

import pytest

from extproc.offloading import LARGE_BODY, Offload

DEADLINE_S = 60.0  # only ever reached by what hangs


@pytest.mark.parametrize(("size", "here"), [(LARGE_BODY - 1, True), (LARGE_BODY, False)])
async def test_only_work_on_large_bodies_leaves_the_loops_thread(size: int, here: bool) -> None:
    worker = await Offload().run(size, threading.get_ident)
    assert (worker == threading.get_ident()) is here


@pytest.mark.parametrize("size", [0, LARGE_BODY])
async def test_what_the_work_raises_reaches_the_caller(size: int) -> None:
    with pytest.raises(ZeroDivisionError):
        await Offload().run(size, divmod, 1, 0)


async def test_the_loop_goes_on_while_the_work_takes_its_time() -> None:
    release = threading.Event()
    work = asyncio.create_task(Offload().run(LARGE_BODY, release.wait, DEADLINE_S))
    await asyncio.sleep(0)
    release.set()  # by the loop, which would otherwise wait for the work
    assert await work


async def test_a_caller_that_is_cancelled_waits_for_work_that_has_begun() -> None:
    began, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        release.wait(DEADLINE_S)
        ended.set()

    task = asyncio.create_task(Offload().run(LARGE_BODY, work))
    await asyncio.to_thread(began.wait, DEADLINE_S)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_work_that_has_not_begun_is_dropped_with_its_caller() -> None:
    offload, release, begun = Offload(threads=1), threading.Event(), threading.Event()
    first = asyncio.create_task(offload.run(LARGE_BODY, release.wait, DEADLINE_S))
    second = asyncio.create_task(offload.run(LARGE_BODY, begun.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    await first
    await offload.run(LARGE_BODY, int)  # behind whatever was queued
    assert not begun.is_set()
