"""Files that Envoy follows: replaced as a whole, readable by their owner alone."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.envoyconf.xds_directory import Directory
from extproc.errors import NotYet, OperatorError


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "deep/xds")


def test_it_is_made_for_its_owner_alone(directory: Directory) -> None:
    assert directory.path.stat().st_mode & 0o777 == 0o700
    directory.write("cds.json", "one")
    assert (directory.path / "cds.json").stat().st_mode & 0o777 == 0o600


def test_a_file_is_replaced_and_never_changed_in_place(directory: Directory) -> None:
    directory.write("cds.json", "one")
    with (directory.path / "cds.json").open() as before:
        directory.write("cds.json", "two")
        assert before.read() == "one"
    assert directory.texts() == {"cds.json": "two"}
    assert len(list(directory.path.iterdir())) == 1


def test_what_says_the_same_is_left_alone(directory: Directory) -> None:
    directory.write("a.json", "one")
    inode = (directory.path / "a.json").stat().st_ino
    directory.write_all({"a.json": "one", "b.json": "two"})
    assert (directory.path / "a.json").stat().st_ino == inode
    assert directory.texts() == {"a.json": "one", "b.json": "two"}


def test_the_status_is_no_file_of_envoys(directory: Directory) -> None:
    directory.report("{}")
    assert directory.texts() == {}
    assert (directory.path / "status.json").read_text() == "{}"


def test_removing_what_is_not_there_is_nothing(directory: Directory) -> None:
    directory.write("a.json", "one")
    directory.remove("a.json")
    directory.remove("a.json")
    assert directory.texts() == {}


def test_what_cannot_be_written_is_told(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="file"):
        Directory(tmp_path / "file")
    (directory.path / "cds.json").mkdir()
    with pytest.raises(NotYet, match=r"cds\.json"):
        directory.write("cds.json", "one")


def test_a_failed_write_leaves_nothing_behind(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.write("cds.json", "one")
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(NotYet, match="No space left on device"):
        directory.write("cds.json", "two")
    assert [path.name for path in directory.path.iterdir()] == ["cds.json"]
    assert directory.texts() == {"cds.json": "one"}


def test_what_a_killed_writer_left_behind_is_removed_at_the_start(directory: Directory) -> None:
    (directory.path / ".tmpabc.part").write_text("half a file")
    Directory(directory.path)
    assert list(directory.path.iterdir()) == []


@pytest.mark.parametrize("text", ['{"problem": "the disk is full, and this is longer"}', "{}"])
def test_the_status_is_changed_in_place_when_there_is_no_room_for_a_second_file(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    directory.report('{"problem": ""}')
    monkeypatch.setattr(os, "replace", no_space)
    directory.report(text)
    assert (directory.path / "status.json").read_text() == text


@pytest.mark.parametrize(
    "use",
    [
        Directory.texts,
        lambda directory: directory.write("cds.json", "one"),
        lambda directory: directory.write_all({"cds.json": "one"}),
        lambda directory: directory.report("{}"),
    ],
)
def test_a_directory_that_is_away_is_waited_for(
    directory: Directory, use: Callable[[Directory], object]
) -> None:
    directory.path.rmdir()
    with pytest.raises(NotYet, match="No such file or directory"):
        use(directory)


def no_space(source: str, destination: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
