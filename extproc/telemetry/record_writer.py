"""Records: one JSON line per row, appended to segments or to standard output.

Writing one line to a local file takes a few microseconds. But a full disk queue, a network file system or
a pipe whose reader sleeps can block a write for seconds. On the event loop, that would block every decision.
So ``accept`` only encodes and enqueues. A separate thread writes whole lines, as many as are queued, in one
write. The queue is bounded: lines that do not fit, or that the disk rejects, are lost and counted.
``segments`` documents what is synced. A crash of the process can lose what is in the queue.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

import msgspec

from extproc.telemetry.rows import AnyRow, AttemptRow, EvaluationRow
from extproc.telemetry.segments import Limits, Segments, standard_output
from extproc.telemetry.sinks import Outcome

log = logging.getLogger(__name__)

STDOUT = "-"

_BATCH_LINES = 512


class Lines(Protocol):
    """Where lines go: segments, or one open file."""

    @property
    def deleted(self) -> int:
        """Whole files deleted so far to make room."""
        ...

    def append(self, lines: Sequence[bytes]) -> int:
        """Write lines that end in a newline; returns how many were lost. Never raises."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class RecordWriter:
    """An ``OutcomeSink`` that writes one line per row. Safe to call from any thread."""

    def __init__(self, out: Lines, *, queue_lines: int = 16_384) -> None:
        """``queue_lines`` bounds the queue to the disk. ``close`` also closes ``out``."""
        self._out = out
        self._encode = msgspec.json.Encoder().encode
        self._queue_lines = queue_lines
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()  # None: stop
        self._closed = False
        self._dropped = 0
        self._dropped_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records lost so far, because the queue was full or the disk rejected them."""
        return self._dropped

    @property
    def deleted(self) -> int:
        """Whole segments deleted so far, to keep the directory within its limits."""
        return self._out.deleted

    def accept(self, outcome: Outcome) -> None:
        """Enqueue the record of one exchange; never blocks on the disk."""
        self.write(outcome.row)

    def attempted(self, row: AttemptRow, verdict: EvaluationRow | None) -> None:
        """Enqueue the record of one attempt, and of its gate's verdict; never blocks on the disk."""
        self.write(row)
        if verdict is not None:
            self.write(verdict)

    def write(self, row: AnyRow) -> bool:
        """Enqueue a row of any kind; never blocks on the disk. Returns whether there was room for it."""
        if self._closed or self._queue.qsize() >= self._queue_lines:
            self._drop(1)
            return False
        self._queue.put(self._encode(row) + b"\n")
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued and stop, after ``timeout_s`` seconds at the latest."""
        self._closed = True
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            lost = self._queue.qsize() - 1  # less the stop
            self._drop(lost)
            log.error("records could not be written in time", extra={"lost": lost})

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            lines, goes_on = self._take()
            if lines:
                self._append(lines)
        self._out.close()

    def _append(self, lines: list[bytes]) -> None:
        """Write a batch. A defect loses this batch only: the thread goes on."""
        try:
            self._drop(self._out.append(lines))
        except Exception:
            log.exception("records could not be written", extra={"lost": len(lines)})
            self._drop(len(lines))

    def _take(self) -> tuple[list[bytes], bool]:
        """The queued lines, at least one and at most a batch; and whether more may come."""
        lines: list[bytes] = []
        item = self._queue.get()
        while item is not None:
            lines.append(item)
            if len(lines) == _BATCH_LINES:
                return lines, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return lines, True
        return lines, False

    def _drop(self, lines: int) -> None:
        with self._dropped_lock:
            self._dropped += lines


def open_records(path: str, limits: Limits | None = None) -> RecordWriter:
    """A writer to the directory ``path``, which is created if missing, or to standard output for ``-``.

    Raises:
        OperatorError: the directory cannot be made or written to.
    """
    return RecordWriter(standard_output() if path == STDOUT else Segments(Path(path), limits))
