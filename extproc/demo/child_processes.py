"""A supervised child process: its log, its end, and a guarantee that it does not outlive this process."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from extproc.demo import tether
from extproc.errors import ProcessFailed

_TAIL_LINES = 20
_TAIL_BYTES = 8192
_POLL_S = 0.02
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


class Process:
    """One child process in its own process group. Both of its outputs are appended to ``log``.

    Because of the group, Ctrl-C on a terminal reaches only the supervisor. On Linux, the kernel kills the
    child when the supervisor ends for any reason (see ``tether``).
    """

    def __init__(self, name: str, child: asyncio.subprocess.Process, log: Path, log_start: int) -> None:
        self.name = name
        self.log = log
        self._child = child
        self._log_start = log_start

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Start ``command`` with ``environment`` added to ours. A command that cannot run ends at once."""
        with log.open("ab") as output:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                process_group=0,
            )
            return cls(name, child, log, output.tell())

    @property
    def pid(self) -> int:
        """The child's process id, which is also the id of its process group."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """None while the child runs. If a signal ended it, minus the signal's number."""
        return self._child.returncode

    async def wait(self) -> int:
        """Wait until the child ends. Returns its ``returncode``."""
        return await self._child.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the child only, for example SIGSTOP to make it hang; after its end, do nothing."""
        if self.returncode is None:
            self._child.send_signal(number)

    async def ready(self, url: str, *, timeout_s: float) -> None:
        """Wait until ``url`` answers 200. Raises ProcessFailed if the child ends first or time is up."""
        answer = "no answer"
        try:
            async with asyncio.timeout(timeout_s), aiohttp.ClientSession(timeout=_PROBE_TIMEOUT) as session:
                while answer := await _unready(session, url):
                    if self.returncode is not None:
                        break
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise self._failure(f"was not ready after {timeout_s:g} s ({url}: {answer})") from None
        if self.returncode is not None:  # another process may have answered
            raise self.failure()

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, grace_s: float = 10.0) -> int:
        """Send ``number``, and SIGKILL to the whole group if the child still runs after ``grace_s`` seconds.

        Returns its ``returncode``. A child that SIGSTOP has stopped continues, so that it gets the signal.
        """
        self.send_signal(number)
        self.send_signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(grace_s):
                await self.wait()
        except TimeoutError:
            pass  # killed below, as after a cancellation
        finally:
            if self.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)
        return await self.wait()

    def failure(self) -> ProcessFailed:
        """The error that reports the child's end."""
        code = self.returncode
        if code is not None and code < 0:
            return self._failure(f"was ended by {signal.Signals(-code).name}")
        return self._failure(f"ended with status {code}")

    def log_tail(self) -> str:
        """The last lines that this child wrote, without those of earlier children with the same log."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _failure(self, what: str) -> ProcessFailed:
        tail = self.log_tail()
        output = f"; its last output was:\n{tail}" if tail else "; it had no output"
        return ProcessFailed(f"{self.name} (pid {self.pid}, log {self.log}) {what}{output}")


async def _unready(session: aiohttp.ClientSession, url: str) -> str:
    """Empty if ``url`` answers 200; else the error."""
    try:
        async with session.get(url) as answer:
            return "" if answer.status == 200 else f"{answer.status} {(await answer.text()).strip()}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return str(error) or type(error).__name__
