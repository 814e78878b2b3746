"""Records: one JSON line per exchange, appended to a file or to standard output.

Writing one line to a local file takes a few microseconds, but a full disk queue, a network
file system or a pipe whose reader sleeps can hold a write for seconds, and it would hold every
decision with it. So ``accept`` only encodes and enqueues, and a thread of its own writes: whole
lines, as many as have gathered in one write. The queue is bounded; what does not fit, and what
the disk refuses, is counted and lost. Nothing is synced: a crash of the machine can lose what
the kernel had not written, a crash of the process what had not left the queue.
"""

import enum
import logging
import os
import stat
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue

import msgspec

from extproc.errors import OperatorError
from extproc.telemetry.rows import row_of
from extproc.vocabulary import Exchange

log = logging.getLogger(__name__)

STDOUT = "-"

_BATCH_LINES = 512


class _Command(enum.Enum):
    REOPEN = enum.auto()
    STOP = enum.auto()


class RecordWriter:
    """An ``ExchangeSink`` that appends one line per exchange. Safe to call from any thread.

    Several processes may append to one local file: each batch is one write, and the kernel
    does not mix appends to a file.
    """

    def __init__(self, path: str, *, queue_lines: int = 16_384) -> None:
        """``path`` is a file, made if absent, or ``-``. Raises ``OperatorError`` if it cannot be opened."""
        try:
            self._file = AppendFile(path)
        except OSError as error:
            raise OperatorError(f"records cannot be written to {path}: {error.strerror}") from error
        self._encode = msgspec.json.Encoder().encode
        self._queue_lines = queue_lines
        self._queue: SimpleQueue[bytes | _Command] = SimpleQueue()
        self._closed = False
        self._dropped = 0
        self._dropped_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records lost so far: to a full queue, or to a disk that refused them."""
        return self._dropped

    def accept(self, exchange: Exchange) -> None:
        """Enqueue one record; never blocks on the disk."""
        if self._closed or self._queue.qsize() >= self._queue_lines:
            self._drop(1)
            return
        self._queue.put(self._encode(row_of(exchange)) + b"\n")

    def reopen(self) -> None:
        """Write what is accepted from now on to a newly opened file: call it after a rotation."""
        self._queue.put(_Command.REOPEN)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued and stop; a disk that holds longer than ``timeout_s`` is given up."""
        self._closed = True
        self._queue.put(_Command.STOP)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            lost = self._queue.qsize() - 1  # less the stop command
            self._drop(lost)
            log.error("records could not be written in time", extra={"lost": lost})

    def _run(self) -> None:
        command = None
        while command is not _Command.STOP:
            lines, command = self._take()
            if lines:
                self._drop(self._file.append(lines))
            if command is _Command.REOPEN:
                self._file.reopen()
        self._file.close()

    def _take(self) -> tuple[list[bytes], _Command | None]:
        """The lines that have gathered, at least one, up to a full batch or the next command."""
        lines: list[bytes] = []
        item = self._queue.get()
        while isinstance(item, bytes):
            lines.append(item)
            if len(lines) == _BATCH_LINES:
                return lines, None
            try:
                item = self._queue.get_nowait()
            except Empty:
                return lines, None
        return lines, item

    def _drop(self, lines: int) -> None:
        with self._dropped_lock:
            self._dropped += lines


class AppendFile:
    """A file that takes whole lines and survives a disk that does not. Belongs to one thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _open(path)
        self._torn = _ends_torn(self._fd)
        self._failing = False

    def append(self, lines: Sequence[bytes]) -> int:
        """Write lines that end in a newline; returns how many did not reach the file whole."""
        # A line that was cut short must not swallow the one after it.
        repair = b"\n" if self._torn else b""
        data = b"".join((repair, *lines))
        done = self._write(data)
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return len(lines) - data.count(b"\n", len(repair), done)

    def reopen(self) -> None:
        """Open the path anew; when that fails, go on with the file that is open."""
        try:
            fd = _open(self._path)
        except OSError:
            log.exception("records cannot be reopened", extra={"path": self._path})
            return
        os.close(self._fd)
        self._fd, self._torn = fd, _ends_torn(fd)

    def close(self) -> None:
        os.close(self._fd)

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
        # Once, not per record: a full disk must not fill the log too. The count tells the rest.
        if not self._failing:
            log.error("records are being lost", extra={"path": self._path, "error": error.strerror})
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            log.warning("records are written again", extra={"path": self._path})
        self._failing = False


def _open(path: str) -> int:
    if path == STDOUT:
        return os.dup(1)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _ends_torn(fd: int) -> bool:
    """Whether a regular file ends in the middle of a line, as a crash or a full disk leaves it."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    return os.pread(fd, 1, status.st_size - 1) != b"\n"
