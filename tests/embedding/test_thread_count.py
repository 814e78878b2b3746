import os
from pathlib import Path

import pytest

from extproc.embedding.thread_count import allowed_cores, default_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)])
def test_the_encoder_takes_half_of_the_cores_up_to_four(cores: int, threads: int) -> None:
    assert default_threads(cores) == threads


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_a_quota_cuts_the_cores_that_the_node_shows(tmp_path: Path, content: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert allowed_cores(tmp_path / "cpu.max") == cores


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert allowed_cores(tmp_path / "absent") == 8
