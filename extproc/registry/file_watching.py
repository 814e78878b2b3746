"""Noticing that a registry's files were replaced, whatever the way: edited, renamed over, or swapped.

Polled, not notified: a ConfigMap changes by a symbolic link beside the file, and network file
systems notify nobody.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from extproc.registry.registry_files import Print, fingerprint

POLL_S = 0.5
# A file that is written in place grows for a moment, and half of it may well be a valid registry.
_SETTLE_S = 0.1


class FileWatch:
    """Wakes its one waiter when a watched file changes, or when it is told to."""

    def __init__(
        self, prints: Mapping[Path, Print], *, poll_s: float = POLL_S, settle_s: float = _SETTLE_S
    ) -> None:
        """``prints`` are of the files to watch, as they were when they were read (``Files.prints``)."""
        self._prints = dict(prints)
        self._poll_s = poll_s
        self._settle_s = settle_s
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Wake the waiter although no file changed, as SIGHUP does."""
        self._told.set()

    def see(self, prints: Mapping[Path, Print]) -> None:
        """From now on wait for changes of these files instead."""
        self._prints = dict(prints)

    async def changed(self, within_s: float | None = None) -> bool:
        """Return True once a file has changed and is at rest, or ``tell`` was called.

        After ``within_s`` seconds without either: False.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._changed()
        except TimeoutError:
            return False
        self._told.clear()
        return True

    async def _changed(self) -> None:
        while (now := self._now()) == self._prints:
            if await self._told_within(self._poll_s):
                return
        while True:
            if await self._told_within(self._settle_s):
                return
            earlier, now = now, self._now()
            if now == earlier:
                return

    def _now(self) -> dict[Path, Print]:
        return {path: fingerprint(path) for path in self._prints}

    async def _told_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._told.wait()
        except TimeoutError:
            return False
