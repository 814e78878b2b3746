"""Files that Envoy follows: replaced as a whole, readable by their owner alone."""

from pathlib import Path

import pytest

from extproc.envoyconf.directory import Directory
from extproc.errors import OperatorError


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
    directory.tell("{}")
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
    with pytest.raises(OperatorError, match=r"cds\.json"):
        directory.write("cds.json", "one")
