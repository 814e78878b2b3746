"""Record segments: the files of JSON lines that one process appends to, and their rotation.

A directory holds the segments of all processes that were given it, named by when they were begun
and by whom, so that names sort by time and no two processes share a file. A segment that is large
or old enough is finished and the next one begun; when the directory holds too much, the oldest
segments are deleted first, whichever process wrote them.

A segment is synced to disk when it is finished, not before: a crash of the machine can lose what
the kernel had not yet written of the open one. Write errors lose records, which are counted, and
have no other effect.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from extproc.errors import OperatorError

log = logging.getLogger(__name__)

PATTERN = "records-*.jsonl"

_MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True):
    """When a segment is finished, and how much a directory may hold.

    That is seen to when a segment is begun: meanwhile the open ones may grow to their full size.
    """

    segment_bytes: int = 64 * _MIB
    segment_s: float = 3600.0
    kept_bytes: int = 4096 * _MIB  # of all segments of the directory, the open ones included
    kept_segments: int = 4096


def limits_of(mib: int) -> Limits:
    """The limits of a directory that may hold ``mib``: at least eight segments. Raises ``OperatorError``."""
    if mib < 1:
        raise OperatorError(f"--records-mib: {mib} is too little (expected at least 1)")
    return Limits(segment_bytes=min(64 * _MIB, mib * _MIB // 8), kept_bytes=mib * _MIB)


def segment_paths(directory: Path) -> list[Path]:
    """The segments of a directory, the oldest first."""
    return sorted(directory.glob(PATTERN))


class Segments:
    """A directory that takes whole lines. Belongs to one thread."""

    def __init__(
        self, directory: Path, limits: Limits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Makes the directory when it is absent. Raises ``OperatorError`` when it cannot be written to."""
        self._directory = directory
        self._limits = limits or Limits()
        self._clock = clock
        self._deleted = 0
        self._failing = False
        try:
            directory.mkdir(mode=0o750, exist_ok=True)
            self._open = self._begin()
        except FileExistsError as error:
            raise OperatorError(f"records cannot be written to {directory}: it is not a directory") from error
        except OSError as error:
            raise OperatorError(f"records cannot be written to {directory}: {error.strerror}") from error
        self._tidy()

    @property
    def deleted(self) -> int:
        """Segments that were deleted so far, to keep the directory within its limits."""
        return self._deleted

    def append(self, lines: Sequence[bytes]) -> int:
        """Write lines that end in a newline; returns how many did not reach the disk whole."""
        if self._is_due():
            self._rotate()
        return len(lines) if self._open.is_gone() else self._open.append(lines)

    def close(self) -> None:
        """Finish the open segment."""
        self._open.close()

    def _is_due(self) -> bool:
        limits, segment = self._limits, self._open
        return (
            segment.size >= limits.segment_bytes
            or self._clock() - self._begun >= limits.segment_s
            or segment.is_gone()  # somebody made room, or removed the directory
        )

    def _rotate(self) -> None:
        """Begin the next segment; when that cannot be done, go on with the open one."""
        try:
            self._directory.mkdir(mode=0o750, exist_ok=True)
            following = self._begin()
        except OSError as error:
            if not self._failing:
                log.error(
                    "cannot create a new record segment; appending to the old one",
                    extra={"path": str(self._directory), "error": error.strerror},
                )
            self._failing = True
            return
        self._failing = False
        self._open.close()
        self._open = following
        self._tidy()

    def _begin(self) -> "AppendFile":
        self._begun = self._clock()
        started = datetime.fromtimestamp(self._begun, UTC)
        path = self._directory / f"records-{started:%Y%m%dT%H%M%S.%fZ}-{os.getpid()}.jsonl"
        return AppendFile(os.open(path, _FLAGS, 0o640), str(path))

    def _tidy(self) -> None:
        """Delete the oldest segments of a directory that holds too much, never the one just begun."""
        sizes = [(path, size) for path in segment_paths(self._directory) if (size := _size(path)) is not None]
        total = sum(size for _, size in sizes)
        surplus = len(sizes) - self._limits.kept_segments
        for number, (path, size) in enumerate(sizes[:-1]):
            if total <= self._limits.kept_bytes and number >= surplus:
                return
            total -= size
            self._delete(path)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink()
        except OSError as error:  # another process was faster, or it is not ours to delete
            log.warning(
                "cannot delete an old record segment", extra={"path": str(path), "error": error.strerror}
            )
            return
        self._deleted += 1
        log.warning("deleted an old record segment to stay within the size limit", extra={"path": str(path)})


class AppendFile:
    """An open file that takes whole lines and survives a disk that does not. Belongs to one thread."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes over ``fd``; ``name`` is for the log."""
        self._fd = fd
        self._name = name
        self._torn = _ends_torn(fd)
        self._failing = False
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def deleted(self) -> int:
        """Nothing is ever deleted from under one file."""
        return 0

    def is_gone(self) -> bool:
        """Whether the file has no name any more, so that what is written to it is lost."""
        return os.fstat(self._fd).st_nlink == 0

    def append(self, lines: Sequence[bytes]) -> int:
        """Write lines that end in a newline; returns how many did not reach the file whole."""
        # A line that was cut short must not swallow the one after it.
        repair = b"\n" if self._torn else b""
        data = b"".join((repair, *lines))
        done = self._write(data)
        self._size += done
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return len(lines) - data.count(b"\n", len(repair), done)

    def close(self) -> None:
        """Sync a regular file, and close it."""
        try:
            try:
                if stat.S_ISREG(os.fstat(self._fd).st_mode):
                    os.fsync(self._fd)
            finally:
                os.close(self._fd)
        except OSError as error:
            log.error(
                "cannot sync a record segment to disk", extra={"path": self._name, "error": error.strerror}
            )

    def _write(self, data: bytes) -> int:
        """Write all of ``data`` if the disk lets us; returns how many bytes it took."""
        done = 0
        try:
            while done < len(data):  # a disk that fills up takes a part
                done += os.write(self._fd, data[done:])
        except OSError as error:
            self._note_failure(error)
        else:
            self._note_success()
        return done

    def _note_failure(self, error: OSError) -> None:
        # Once, not per record: a full disk must not fill the log too. The metric counts them all.
        if not self._failing:
            log.error("records are being lost", extra={"path": self._name, "error": error.strerror})
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            log.warning("records are written again", extra={"path": self._name})
        self._failing = False


_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def standard_output() -> AppendFile:
    """Standard output, which stays the process's own."""
    return AppendFile(os.dup(1), "standard output")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # another process was faster
        return None


def _ends_torn(fd: int) -> bool:
    """Whether a regular file ends in the middle of a line, as a crash or a full disk leaves it."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    return os.pread(fd, 1, status.st_size - 1) != b"\n"
