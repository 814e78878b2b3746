import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extproc.errors import OperatorError
from extproc.telemetry.segments import AppendFile, Limits, Segments, limits_of, segment_paths

LINE = b"x" * 99 + b"\n"


class Clock:
    """Seconds since the epoch, moved by the test; each reading is a millisecond later."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


def opened(path: Path) -> AppendFile:
    return AppendFile(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), str(path))


def test_a_segment_is_named_by_its_start_and_its_process(tmp_path: Path) -> None:
    out = Segments(tmp_path / "records", clock=lambda: 1_795_000_000.25)
    out.close()
    (path,) = segment_paths(tmp_path / "records")
    assert path.name == f"records-20261118T110640.250000Z-{os.getpid()}.jsonl"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_segment_that_is_large_enough_is_followed_by_the_next(tmp_path: Path) -> None:
    out = Segments(tmp_path, Limits(segment_bytes=250), Clock())
    assert [out.append([LINE]) for _ in range(7)] == [0] * 7
    out.close()
    assert [path.stat().st_size for path in segment_paths(tmp_path)] == [300, 300, 100]


def test_a_segment_that_is_old_enough_is_followed_by_the_next(tmp_path: Path) -> None:
    clock = Clock()
    out = Segments(tmp_path, Limits(segment_s=3600), clock)
    for minutes in (0, 59, 2, 59):
        clock.now += minutes * 60
        out.append([LINE])
    out.close()
    assert [path.stat().st_size for path in segment_paths(tmp_path)] == [200, 200]


@pytest.mark.parametrize("limits", [Limits(100, kept_bytes=350), Limits(100, kept_segments=4)])
def test_the_oldest_segments_make_room_and_are_counted(tmp_path: Path, limits: Limits) -> None:
    out = Segments(tmp_path, limits, Clock())
    for number in range(10):
        out.append([b"%099d\n" % number])
    out.close()
    kept = b"".join(path.read_bytes() for path in segment_paths(tmp_path))
    assert [int(line) for line in kept.split()] == [6, 7, 8, 9]
    assert out.deleted == 6


def test_a_small_directory_has_small_segments() -> None:
    assert (limits_of(4096).segment_bytes, limits_of(8).segment_bytes) == (64 * 2**20, 2**20)
    with pytest.raises(OperatorError, match="--records-mib: 0"):
        limits_of(0)


def test_segments_of_earlier_processes_count_and_strangers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "records-20200101T000000.000000Z-1.jsonl").write_bytes(LINE * 10)
    (tmp_path / "notes.txt").write_bytes(LINE * 10)
    out = Segments(tmp_path, Limits(kept_bytes=500), Clock())
    out.close()
    assert out.deleted == 1
    assert sorted(path.name[:12] for path in tmp_path.iterdir()) == ["notes.txt", "records-2026"]


def test_a_segment_that_was_deleted_while_it_was_open_is_followed_by_the_next(tmp_path: Path) -> None:
    out = Segments(tmp_path / "records", Limits(), Clock())
    out.append([LINE])
    for path in segment_paths(tmp_path / "records"):
        path.unlink()
    (tmp_path / "records").rmdir()
    assert out.append([LINE]) == 0
    out.close()
    assert [path.read_bytes() for path in segment_paths(tmp_path / "records")] == [LINE]


def test_a_rotation_that_fails_goes_on_with_the_open_segment_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Segments(tmp_path / "records", Limits(segment_bytes=100), Clock())
    out.append([LINE])
    (tmp_path / "records").rename(tmp_path / "moved")
    (tmp_path / "records").touch()  # a file in its place
    assert [out.append([LINE]), out.append([LINE])] == [0, 0]
    out.close()
    (path,) = segment_paths(tmp_path / "moved")
    assert path.read_bytes() == LINE * 3
    assert caplog.messages == ["cannot create a new record segment; appending to the old one"]


def test_lines_that_no_file_takes_are_counted_as_lost(tmp_path: Path) -> None:
    out = Segments(tmp_path / "records", Limits(), Clock())
    for path in segment_paths(tmp_path / "records"):
        path.unlink()
    (tmp_path / "records").rmdir()
    (tmp_path / "records").touch()
    assert out.append([LINE, LINE]) == 2
    out.close()


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "records.jsonl"
    out = opened(file)
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
    out = opened(file)
    assert out.append([b"next\n"]) == 0
    out.close()
    assert file.read_bytes() == b"whole\ncut sh\nnext\n"


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full when a file has ``size`` bytes: a real partial write, then a real error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
