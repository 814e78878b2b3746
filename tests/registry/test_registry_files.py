"""A registry's files are noticed when they are replaced, by whatever way, and at rest."""

import asyncio
import os
from pathlib import Path

import pytest

from extproc.registry.registry_files import Files, FileWatch, fingerprint

NEVER_S = 0.2  # long enough for many polls


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text("one")
    return path


def watch(*paths: Path) -> FileWatch:
    return FileWatch({path: fingerprint(path) for path in paths}, poll_s=0.01, settle_s=0.02)


async def test_it_waits_while_nothing_changes(path: Path) -> None:
    assert not await watch(path).changed(NEVER_S)


async def test_a_file_that_is_renamed_over_is_noticed(path: Path) -> None:
    watching = watch(path)
    (path.parent / "new").write_text("two")
    (path.parent / "new").replace(path)
    assert await watching.changed(10)


async def test_content_of_the_same_size_is_noticed(path: Path) -> None:
    watching = watch(path)
    os.utime(path, ns=(0, 1))
    assert await watching.changed(10)


async def test_a_configmap_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.yaml").write_text("same size")
        os.utime(tmp_path / name / "r.yaml", ns=(0, 0))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "r.yaml").symlink_to("..data/r.yaml")
    watching = watch(tmp_path / "r.yaml")
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert await watching.changed(10)


async def test_a_file_that_comes_or_goes_is_noticed(path: Path) -> None:
    watching = watch(path, path.parent / "more")
    (path.parent / "more").touch()
    assert await watching.changed(10)
    watching.watch({path: fingerprint(path)})
    os.unlink(path)
    assert await watching.changed(10)


async def test_a_file_that_is_still_being_written_is_waited_for(path: Path) -> None:
    watching = FileWatch({path: fingerprint(path)}, poll_s=0.01, settle_s=1.5)
    with path.open("a") as file:
        waiting = asyncio.create_task(watching.changed(10))
        for _ in range(10):
            file.write("more")
            file.flush()
            await asyncio.sleep(0.05)
            assert not waiting.done()
    assert await waiting


async def test_a_change_is_reported_once(path: Path) -> None:
    watching = watch(path)
    os.truncate(path, 0)
    assert await watching.changed(10)
    watching.watch({path: fingerprint(path)})
    assert not await watching.changed(NEVER_S)


async def test_wake_needs_no_change(path: Path) -> None:
    watching = watch(path)
    watching.wake()
    assert await watching.changed(10)
    assert not await watching.changed(NEVER_S)


def test_files_remember_what_they_were_before_they_were_read(path: Path) -> None:
    files = Files()
    before = fingerprint(path)
    assert files.read(path, "r.yaml", 1) == "one"
    path.write_text("two, longer")
    assert files.prints == {path: before}
