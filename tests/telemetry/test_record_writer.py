import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from extproc.errors import OperatorError
from extproc.telemetry.record_writer import RecordWriter, open_records
from extproc.telemetry.rows import AttemptRow, EvaluationRow
from extproc.telemetry.segments import AppendFile, segment_paths
from extproc.telemetry.sinks import Outcome

Make = Callable[..., Outcome]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(directory: Path) -> list[dict[str, object]]:
    return [row for path in segment_paths(directory) for row in rows(path)]


def to_file(path: str) -> AppendFile:
    return AppendFile(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), path)


def test_each_exchange_is_one_json_line_in_order(outcome: Make, tmp_path: Path) -> None:
    writer = open_records(str(tmp_path / "records"))
    for number in range(2000):
        writer.accept(outcome(request_id=str(number), path=f"/a\nb{number}"))
    writer.close()
    assert [row["request_id"] for row in rows_of(tmp_path / "records")] == [str(n) for n in range(2000)]
    assert (writer.dropped, writer.deleted) == (0, 0)


def test_a_line_tells_its_kind_schema_and_time_and_null_for_what_is_not_known(
    outcome: Make, tmp_path: Path
) -> None:
    writer = open_records(str(tmp_path))
    writer.accept(outcome(margin=None, first_byte=None))
    writer.close()
    (row,) = rows_of(tmp_path)
    assert row["kind"] == "exchange"
    assert row["schema"] == 1
    assert row["time"] == "2026-11-18T11:06:40.250000Z"
    assert row["margin"] is None
    assert row["first_byte_ms"] is None
    assert row["similarity"] == 0.0


def test_rows_of_other_kinds_go_the_same_way(outcome: Make, tmp_path: Path) -> None:
    writer = open_records(str(tmp_path))
    when = datetime(2026, 11, 25, tzinfo=UTC)
    writer.accept(outcome(request_id="one"))
    writer.write(AttemptRow(time=when, request_id="one", attempt=1))
    writer.write(EvaluationRow(time=when, request_id="one", evaluation_id="e", name="judge", score=1.0))
    writer.close()
    assert [row["kind"] for row in rows_of(tmp_path)] == ["exchange", "attempt", "evaluation"]
    assert {row["request_id"] for row in rows_of(tmp_path)} == {"one"}


def test_records_go_to_standard_output(outcome: Make, capfd: pytest.CaptureFixture[str]) -> None:
    writer = open_records("-")
    writer.accept(outcome(request_id="one"))
    writer.close()
    os.write(1, b"open\n")  # standard output is still ours
    line, still = capfd.readouterr().out.splitlines()
    assert json.loads(line)["request_id"] == "one"
    assert still == "open"


def test_a_directory_that_cannot_be_made_is_an_operators_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"records cannot be written to .*absent.*No such file"):
        open_records(str(tmp_path / "absent" / "records"))
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"records cannot be written to .*file: it is not a directory"):
        open_records(str(tmp_path / "file"))


def test_a_full_disk_is_counted_and_logged_once_and_never_raised(
    outcome: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RecordWriter(to_file("/dev/full"))
    with caplog.at_level(logging.INFO):
        for expected in range(1, 6):
            writer.accept(outcome())
            while writer.dropped < expected:  # ends a batch: five writes fail
                time.sleep(0.001)
        writer.close()
    assert writer.dropped == 5
    assert [record.getMessage() for record in caplog.records] == ["records are being lost"]


class Defective:
    """Raises on its first batch, against its word."""

    deleted = 0

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.raised = threading.Event()

    def append(self, lines: Sequence[bytes]) -> int:
        if not self.raised.is_set():
            self.raised.set()
            raise ZeroDivisionError
        self.lines += lines
        return 0

    def close(self) -> None:
        """Nothing is open."""


def test_a_defect_costs_one_batch_of_records_which_is_counted(
    outcome: Make, caplog: pytest.LogCaptureFixture
) -> None:
    out = Defective()
    writer = RecordWriter(out)
    writer.accept(outcome(request_id="one"))
    assert out.raised.wait(60)
    writer.accept(outcome(request_id="two"))
    writer.close(60)
    assert (len(out.lines), writer.dropped) == (1, 1)
    assert "records could not be written" in caplog.text


def test_a_slow_disk_never_delays_accept_and_what_does_not_fit_is_counted(
    outcome: Make, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    writer = RecordWriter(to_file(str(pipe)), queue_lines=100)
    # Nobody reads: the pipe fills up and its writer stands still. Were accept to write, so would we.
    for number in range(10_000):
        writer.accept(outcome(request_id=str(number)))
    assert writer.dropped > 0
    received = bytearray()
    drain = threading.Thread(target=lambda: received.extend(_read_to_end(reader)))
    drain.start()
    writer.close(timeout_s=60)
    drain.join()
    os.close(reader)
    assert len(received.splitlines()) + writer.dropped == 10_000


def test_a_disk_that_stands_still_does_not_hold_up_the_end(
    outcome: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = RecordWriter(to_file(str(pipe)))
    for _ in range(2_000):
        writer.accept(outcome())
    writer.close(timeout_s=0.05)
    assert writer.dropped > 0
    assert "records could not be written in time" in caplog.messages
    writer.accept(outcome())  # late, and counted
    os.set_blocking(reader, True)
    _read_to_end(reader)  # lets the thread go
    os.close(reader)


def test_records_after_the_end_are_counted(outcome: Make, tmp_path: Path) -> None:
    writer = open_records(str(tmp_path))
    writer.close()
    writer.accept(outcome())
    assert writer.dropped == 1


def _read_to_end(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()
