import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.embedding.embedding_cache import CachedEncoder

VECTORS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8], "d": [0.8, 0.6]}


class CountingEncoder:
    """Knows four texts, and remembers which it was asked for."""

    def __init__(self, name: str = "tiny/1") -> None:
        self.name = name
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([VECTORS[text] for text in texts], np.float32).reshape(len(texts), 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "embeddings.npz"


def encode(path: Path, texts: Sequence[str], name: str = "tiny/1", limit: int = 100) -> list[str]:
    """Encodes as a process that has just started; checks the vectors, returns what was computed."""
    encoder = CountingEncoder(name)
    found = CachedEncoder(encoder, path, limit).encode(texts)
    np.testing.assert_array_equal(found, np.array([VECTORS[text] for text in texts], np.float32))
    return encoder.asked


def test_a_second_start_computes_nothing(path: Path) -> None:
    assert encode(path, ["a", "b"]) == ["a", "b"]
    assert encode(path, ["b", "a"]) == []


def test_only_what_is_new_is_computed_and_order_is_kept(path: Path) -> None:
    encode(path, ["a", "b"])
    assert encode(path, ["c", "b", "d", "a"]) == ["c", "d"]
    assert encode(path, ["d", "c"]) == []


def test_a_text_given_twice_is_computed_once(path: Path) -> None:
    assert encode(path, ["a", "b", "a"]) == ["a", "b"]


def test_one_process_computes_a_text_once(path: Path) -> None:
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, path)
    cached.encode(["a"])
    cached.encode(["a", "b"])
    assert encoder.asked == ["a", "b"]


def test_nothing_is_encoded_of_nothing(path: Path) -> None:
    assert CachedEncoder(CountingEncoder(), path).encode([]).shape == (0, 2)
    assert not path.exists()


def test_the_name_is_that_of_the_encoder_behind(path: Path) -> None:
    assert CachedEncoder(CountingEncoder("tiny/2"), path).name == "tiny/2"


def test_vectors_of_another_encoder_are_never_returned(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encode(path, ["a", "b"], name="tiny/1")
    assert encode(path, ["a"], name="tiny/2") == ["a"]
    assert "it has vectors of tiny/1, not of tiny/2" in caplog.text
    assert encode(path, ["a"], name="tiny/2") == []


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def damage_by_a_flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(np.array(VECTORS["c"], np.float32).tobytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace_by_text(path: Path) -> None:
    path.write_text("not an archive")


def replace_by_nothing(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_a_bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def replace_by_another_archive(path: Path) -> None:
    np.savez(path, other=np.zeros(3))


def replace_by_arrays_that_do_not_fit(path: Path) -> None:
    digests = np.zeros((3, 32), np.uint8)
    np.savez(path, encoder=np.array("tiny/1"), digests=digests, vectors=np.zeros((2, 2), np.float32))


def replace_by_pickled_objects(path: Path) -> None:
    np.savez(path, encoder=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_cutting,
        damage_by_a_flipped_bit,
        replace_by_text,
        replace_by_nothing,
        replace_by_a_bare_array,
        replace_by_another_archive,
        replace_by_arrays_that_do_not_fit,
        replace_by_pickled_objects,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_file_that_cannot_be_trusted_is_rebuilt(
    path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    encode(path, ["c"])
    assert callable(damage)
    damage(path)
    assert encode(path, ["c"]) == ["c"]
    assert "ignored and rebuilt" in caplog.text
    assert encode(path, ["c"]) == []


def test_an_absent_file_is_no_reason_to_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    encode(path, ["a"])
    assert caplog.text == ""


def test_the_file_is_bounded_and_what_was_just_used_stays(path: Path) -> None:
    encode(path, ["a", "b"], limit=2)
    assert encode(path, ["a", "c"], limit=2) == ["c"]
    assert encode(path, ["a", "c"], limit=2) == []
    assert encode(path, ["b"], limit=2) == ["b"]


def test_more_texts_than_the_bound_are_still_all_encoded(path: Path) -> None:
    assert encode(path, ["a", "b", "c", "d"], limit=2) == ["a", "b", "c", "d"]
    assert encode(path, ["c", "d"], limit=2) == []


def test_without_a_place_to_write_it_works_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cached = CachedEncoder(CountingEncoder(), tmp_path / "file" / "embeddings.npz")
    np.testing.assert_array_equal(cached.encode(["a"]), np.array([VECTORS["a"]], np.float32))
    np.testing.assert_array_equal(cached.encode(["b"]), np.array([VECTORS["b"]], np.float32))
    assert caplog.text.count("embeddings are not cached") == 1


def test_nothing_but_the_cache_is_left_in_its_directory(path: Path) -> None:
    encode(path, ["a"])
    encode(path, ["b"])
    assert [entry.name for entry in path.parent.iterdir()] == ["embeddings.npz"]


def test_half_a_surrogate_pair_has_a_key_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VECTORS, "\ud800", [-1.0, 0.0])
    assert encode(path, ["\ud800"]) == ["\ud800"]
    assert encode(path, ["\ud800"]) == []
