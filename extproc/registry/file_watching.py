"""Detects that files were edited, replaced by renaming, or swapped through a symbolic link.

The files are polled, because a ConfigMap changes through a symbolic link beside the file, and network
file systems send no notifications.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from extproc.registry.registry_files import Print, fingerprint

POLL_S = 0.5
# A file that is written in place grows for a moment, and half of it may be a valid registry.
_SETTLE_S = 0.1


class FileWatch:
    """Wakes its one waiter when a watched file changes, or on ``wake``."""

    def __init__(
        self, prints: Mapping[Path, Print], *, poll_s: float = POLL_S, settle_s: float = _SETTLE_S
    ) -> None:
        """``prints``: the files to watch, in the state in which they were read (``Files.prints``)."""
        self._prints = dict(prints)
        self._poll_s = poll_s
        self._settle_s = settle_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Wake the waiter although no file changed, as SIGHUP does."""
        self._woken.set()

    def watch(self, prints: Mapping[Path, Print]) -> None:
        """Watch these files from now on."""
        self._prints = dict(prints)

    async def changed(self, within_s: float | None = None) -> bool:
        """True after a file has changed and settled, or after ``wake``; False after ``within_s`` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._changed()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _changed(self) -> None:
        while (now := self._now()) == self._prints:
            if await self._woken_within(self._poll_s):
                return
        while True:
            if await self._woken_within(self._settle_s):
                return
            earlier, now = now, self._now()
            if now == earlier:
                return

    def _now(self) -> dict[Path, Print]:
        return {path: fingerprint(path) for path in self._prints}

    async def _woken_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._woken.wait()
        except TimeoutError:
            return False
