"""Reads the files of one registry, computes their version, and detects that they were changed.

The files are polled, because a ConfigMap changes through a symbolic link beside the file, and network
file systems send no notifications.
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from extproc.errors import RegistryError
from extproc.vocabulary import Version

Print = tuple[str, int, int, int] | None
"""Identifies one content of a file: its real path (a ConfigMap changes through a symbolic link), inode, size
and modification time in nanoseconds. None: the file does not exist."""


class Files:
    """Reads the files of a registry, and remembers their paths and a hash of their content."""

    def __init__(self) -> None:
        self._prints: dict[Path, Print] = {}
        self._digest = hashlib.sha256()

    @property
    def prints(self) -> Mapping[Path, Print]:
        """The state of every file just before it was read or watched, including files that do not exist."""
        return self._prints

    @property
    def version(self) -> Version:
        """The first 12 hexadecimal digits of the SHA-256 of all content that was read."""
        return Version(self._digest.hexdigest()[:12])

    def watch(self, path: Path) -> None:
        """Remember a file that belongs to the registry but not to its version, such as a secret."""
        self._prints[path] = fingerprint(path)

    def read(self, path: Path, file: str, line: int) -> str:
        """The text at ``path``. Raises ``RegistryError`` at ``line`` of ``file``, which names it."""
        self._prints[path] = fingerprint(path)
        try:
            content = path.read_bytes()
            text = content.decode()
        except OSError as error:
            if str(path) == file:
                raise RegistryError(file, None, f"cannot read the registry: {error.strerror}") from error
            raise RegistryError(file, line, f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RegistryError(file, line, f"{path} is not UTF-8: {error.reason}") from error
        self._digest.update(len(content).to_bytes(8, "big") + content)
        return text


def fingerprint(path: Path) -> Print:
    """The identity of the file's present content."""
    try:
        status = path.stat()
        return os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns
    except OSError:
        return None


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
