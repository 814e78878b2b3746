"""Restarts the tasks that live as long as the process.

A task that raises is started again, after a pause that doubles with each failure. While it is down the
process is not ready. A task that fails ``MOST_DEATHS`` times within ``WINDOW_S`` seconds ends the process.
So one bad input cannot end the process, and a lasting fault leads to a restart.

Errors of one batch, one row or one reload are handled where they occur, and do not reach the supervisor.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from extproc.errors import TaskFailed
from extproc.health import Components

log = logging.getLogger(__name__)

COMPONENT: Final = "tasks"  # its name among the components
MOST_DEATHS: Final = 6
WINDOW_S: Final = 300.0
FIRST_PAUSE_S: Final = 0.5  # before a restart; the fifth waits 8 seconds


class Supervisor:
    """Keeps tasks running. Use it from one event loop."""

    def __init__(
        self,
        components: Components,
        *,
        count_restarts: Callable[[str, int], None],
        give_up: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``components`` must have one named ``COMPONENT``, which shows the state of all tasks.

        ``count_restarts`` gets the name of a task and 0 at its start, and 1 at each restart. ``give_up``
        is called once, when a task has failed too often. ``clock`` returns seconds since any origin.
        """
        self._components = components
        self._count_restarts = count_restarts
        self._give_up = give_up
        self._clock = clock
        self._sleep = sleep
        self._tasks: list[asyncio.Task[None]] = []
        self._down: dict[str, str] = {}  # names of tasks that do not run now, and why
        self._failure: TaskFailed | None = None
        self._report()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` until it returns, and call it again whenever it raises."""
        self._count_restarts(name, 0)
        self._tasks.append(asyncio.create_task(self._keep(name, work), name=name))

    def check(self) -> None:
        """Raise ``TaskFailed`` if a task has failed too often."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Cancel every task, and return when all have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        while (error := await _death(work)) is not None:
            deaths.append(self._clock())
            recent = sum(died >= deaths[-1] - WINDOW_S for died in deaths)
            cause = f"{type(error).__name__}: {error}"
            self._down[name] = cause
            self._report()
            log.error("the task %s failed", name, exc_info=error, extra={"deaths": recent})
            if recent == MOST_DEATHS:
                self._fail(name, cause)
                return
            await self._sleep(FIRST_PAUSE_S * 2 ** (recent - 1))
            self._count_restarts(name, 1)
            del self._down[name]
            self._report()

    def _fail(self, name: str, cause: str) -> None:
        self._failure = TaskFailed(
            f"the task {name} failed {MOST_DEATHS} times within {WINDOW_S:.0f} s; the last error was {cause}"
        )
        self._give_up()

    def _report(self) -> None:
        down = "; ".join(f"{name} is down: {cause}" for name, cause in self._down.items())
        self._components.report(COMPONENT, ready=not down, detail=down or "running")


async def _death(work: Callable[[], Awaitable[None]]) -> BaseException | None:
    """The error that ended ``work``; None: it returned. Raises ``CancelledError`` if cancelled."""
    try:
        await work()
    except Exception as error:
        return error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return error  # something that ``work`` waited for was cancelled
    return None
