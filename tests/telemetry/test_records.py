import json
import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extproc.errors import OperatorError
from extproc.telemetry.records import AppendFile, RecordWriter
from extproc.vocabulary import Exchange

Make = Callable[..., Exchange]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_exchange_is_one_json_line_in_order(exchange: Make, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    writer = RecordWriter(str(file))
    for number in range(2000):
        writer.accept(exchange(request_id=str(number), path=f"/a\nb{number}"))
    writer.close()
    assert [row["request_id"] for row in rows(file)] == [str(number) for number in range(2000)]
    assert writer.dropped == 0


def test_a_line_tells_its_kind_schema_and_time_and_null_for_what_is_not_known(
    exchange: Make, tmp_path: Path
) -> None:
    file = tmp_path / "records.jsonl"
    writer = RecordWriter(str(file))
    writer.accept(exchange(margin=None, first_byte=None))
    writer.close()
    (row,) = rows(file)
    assert row["kind"] == "exchange"
    assert row["schema"] == 1
    assert row["time"] == "2026-11-18T11:06:40.250000Z"
    assert row["margin"] is None
    assert row["first_byte_ms"] is None
    assert row["similarity"] == 0.0


def test_records_go_to_standard_output(exchange: Make, capfd: pytest.CaptureFixture[str]) -> None:
    writer = RecordWriter("-")
    writer.accept(exchange(request_id="one"))
    writer.close()
    os.write(1, b"open\n")  # standard output is still ours
    line, still = capfd.readouterr().out.splitlines()
    assert json.loads(line)["request_id"] == "one"
    assert still == "open"


def test_a_file_that_cannot_be_opened_is_an_operators_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"records cannot be written to .*absent.*No such file"):
        RecordWriter(str(tmp_path / "absent" / "records.jsonl"))


def test_a_full_disk_is_counted_and_logged_once_and_never_raised(
    exchange: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RecordWriter("/dev/full")
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            writer.accept(exchange())
            writer.reopen()  # ends a batch: five writes fail
        writer.close()
    assert writer.dropped == 5
    assert [record.getMessage() for record in caplog.records] == ["records are being lost"]


def test_a_slow_disk_never_delays_accept_and_what_does_not_fit_is_counted(
    exchange: Make, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    writer = RecordWriter(str(pipe), queue_lines=100)
    # Nobody reads: the pipe fills up and its writer stands still. Were accept to write, so would we.
    for number in range(10_000):
        writer.accept(exchange(request_id=str(number)))
    assert writer.dropped > 0
    received = bytearray()
    drain = threading.Thread(target=lambda: received.extend(_read_to_end(reader)))
    drain.start()
    writer.close(timeout_s=60)
    drain.join()
    os.close(reader)
    assert len(received.splitlines()) + writer.dropped == 10_000


def test_a_disk_that_stands_still_does_not_hold_up_the_end(
    exchange: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = RecordWriter(str(pipe))
    for _ in range(2_000):
        writer.accept(exchange())
    writer.close(timeout_s=0.05)
    assert writer.dropped > 0
    assert "records could not be written in time" in caplog.messages
    writer.accept(exchange())  # late, and counted
    os.set_blocking(reader, True)
    _read_to_end(reader)  # lets the thread go
    os.close(reader)


def test_records_after_the_end_are_counted(exchange: Make, tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path / "records.jsonl"))
    writer.close()
    writer.accept(exchange())
    assert writer.dropped == 1


def test_after_a_rotation_the_path_is_a_new_file(exchange: Make, tmp_path: Path) -> None:
    file, rotated = tmp_path / "records.jsonl", tmp_path / "records.1.jsonl"
    writer = RecordWriter(str(file))
    writer.accept(exchange(request_id="before"))
    file.rename(rotated)
    writer.accept(exchange(request_id="between"))
    writer.reopen()
    writer.accept(exchange(request_id="after"))
    writer.close()
    assert [row["request_id"] for row in rows(rotated)] == ["before", "between"]
    assert [row["request_id"] for row in rows(file)] == ["after"]


def test_several_writers_append_to_one_file_without_mixing_lines(exchange: Make, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    writers = [RecordWriter(str(file)) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda w=w: [w.accept(exchange()) for _ in range(500)]) for w in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    assert len(rows(file)) == 2000


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "records.jsonl"
    out = AppendFile(str(file))
    with caplog.at_level(logging.INFO):
        with file_size_limit(10):
            assert out.append([b"first\n", b"second\n", b"third\n"]) == 2
            assert out.append([b"fourth\n"]) == 1
        assert out.append([b"fifth\n"]) == 0
        assert out.append([b"sixth\n"]) == 0
    out.close()
    assert file.read_bytes() == b"first\nseco\nfifth\nsixth\n"
    assert caplog.messages == ["records are being lost", "records are written again"]


def test_a_line_that_a_crash_cut_short_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"whole\ncut sh")
    out = AppendFile(str(file))
    assert out.append([b"next\n"]) == 0
    out.close()
    assert file.read_bytes() == b"whole\ncut sh\nnext\n"


def test_a_rotation_that_fails_keeps_the_file_that_is_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    out = AppendFile(str(folder / "records.jsonl"))
    folder.rename(tmp_path / "moved")
    out.reopen()
    assert out.append([b"kept\n"]) == 0
    out.close()
    assert (tmp_path / "moved" / "records.jsonl").read_bytes() == b"kept\n"
    assert caplog.messages == ["records cannot be reopened"]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full when a file has ``size`` bytes: a real partial write, then a real error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _read_to_end(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()
