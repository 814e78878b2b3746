"""The files of one registry: read once, known by version, told apart from what replaces them."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from extproc.errors import RegistryError

Print = tuple[str, int, int, int] | None
"""What tells one content of a file from the next: where it really is (a ConfigMap changes by a symbolic
link), its inode, size and time in nanoseconds. None: there is no such file."""


class Files:
    """Reads a registry's files, and remembers which they were and what they held."""

    def __init__(self) -> None:
        self._prints: dict[Path, Print] = {}
        self._digest = hashlib.sha256()

    @property
    def prints(self) -> Mapping[Path, Print]:
        """Every file that was to be read or watched, also one that is not there, as it was just before."""
        return self._prints

    @property
    def version(self) -> str:
        """12 hexadecimal digits of the SHA-256 of all that was read."""
        return self._digest.hexdigest()[:12]

    def watch(self, path: Path) -> None:
        """Remember a file that belongs to the registry but is no part of its version, as a secret."""
        self._prints[path] = fingerprint(path)

    def read(self, path: Path, file: str, line: int) -> str:
        """The text at ``path``. Raises ``RegistryError`` at ``line`` of ``file``, which names it."""
        self._prints[path] = fingerprint(path)
        try:
            content = path.read_bytes()
            text = content.decode()
        except OSError as error:
            if str(path) == file:
                raise RegistryError(file, None, f"cannot read it: {error.strerror}") from error
            raise RegistryError(file, line, f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RegistryError(file, line, f"{path} is not UTF-8: {error.reason}") from error
        self._digest.update(len(content).to_bytes(8, "big") + content)
        return text


def fingerprint(path: Path) -> Print:
    """What tells the file's present content from any other."""
    try:
        status = path.stat()
        return os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns
    except OSError:
        return None
