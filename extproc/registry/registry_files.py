"""Reads the files of one registry, computes their version and detects when they change."""

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
