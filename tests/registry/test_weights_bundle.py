"""What every artefact's two files have in common: whole or refused, and equal for equal values."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from extproc.errors import ArtefactUnusable
from extproc.registry.weights_bundle import Arrays, Bundle


class About(msgspec.Struct, frozen=True):
    format: int = 3
    name: str = ""
    weights_sha256: str = ""


FILES = Bundle(
    manifest="about.json", weights="some.npz", kind=About, format=3, command="make them",
    manifest_words="a manifest", weights_words="a file of weights",
)  # fmt: skip
ARRAYS: Arrays = {"a": np.arange(3.0), "b": np.eye(2)}


def total(arrays: Arrays) -> float:
    return float(sum(array.sum() for array in arrays.values()))


def test_what_was_written_is_read_and_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        FILES.write(tmp_path / name, About(name="x"), ARRAYS)
    for file in ("about.json", "some.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    about = FILES.read_manifest(tmp_path / "one")
    assert about.name == "x"
    assert FILES.read_weights(tmp_path / "one", about, total) == 5.0


def test_what_is_not_there_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtefactUnusable, match="expected a directory written by `make them`"):
        FILES.read_manifest(tmp_path)


def test_weights_of_another_manifest_are_refused(tmp_path: Path) -> None:
    FILES.write(tmp_path, About(), ARRAYS)
    about = FILES.read_manifest(tmp_path)
    FILES.write(tmp_path, About(), {"a": np.zeros(1)})
    with pytest.raises(ArtefactUnusable, match=r"damaged: its hash is not the one in about\.json"):
        FILES.read_weights(tmp_path, about, total)


def test_arrays_that_do_not_fit_are_reported_by_name(tmp_path: Path) -> None:
    FILES.write(tmp_path, About(), ARRAYS)
    with pytest.raises(ArtefactUnusable, match="is not a file of weights: 'c'"):
        FILES.read_weights(tmp_path, FILES.read_manifest(tmp_path), lambda arrays: arrays["c"])


def test_removing_leaves_neither_and_may_be_repeated(tmp_path: Path) -> None:
    FILES.write(tmp_path, About(), ARRAYS)
    for _ in range(2):
        FILES.remove(tmp_path)
        assert list(tmp_path.iterdir()) == []
