"""Examples and holdouts are embedded once, whoever compiles them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from extproc.embedding.batching import Encoded
from extproc.embedding.encoder_files import DIMENSIONS, INNER_DIMENSIONS
from extproc.embedding.encoder_session import embeddings_of
from extproc.embedding.release_compiling import Compiler
from extproc.errors import HoldoutFailed
from extproc.registry.holdout_check import Passed
from extproc.registry.registry_loading import load

REGISTRY = """\
models: {a: {base_url: 'http://h:1'}}
default: a
routes:
  code: {candidates: a, examples: [fix]}
  chat: {candidates: a, examples: [hi]}
"""
HOLDOUT = "holdout: {data: holdout.jsonl, min_accuracy: 0.5, max_worse: 10}\n"
ROWS = '{"text": "fix", "route": "code"}\n{"text": "hi", "route": "chat"}\n'


class Lengths:
    """An encoder of texts by their lengths, which counts what it is asked."""

    name = "lengths"
    static = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed(texts).vectors

    def embed(self, texts: Sequence[str]) -> Encoded:
        self.asked += texts
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[len(text)] = 1
        return Encoded(
            vectors, np.ones((len(texts), INNER_DIMENSIONS), np.float32), np.ones(len(texts), np.int32)
        )


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(REGISTRY + HOLDOUT)
    (tmp_path / "holdout.jsonl").write_text(ROWS)
    return path


def test_a_second_compiler_embeds_nothing_again(registry: Path, tmp_path: Path) -> None:
    first, second = Lengths(), Lengths()
    for encoder in (first, second):
        release = Compiler(encoder, tmp_path / "cache").compiled(load(registry), None)  # type: ignore[arg-type]
        assert release.holdout == Passed(2, 2)
    assert sorted(first.asked) == ["fix", "fix", "hi", "hi"]  # as examples, and deep as a holdout
    assert second.asked == []


def test_without_a_holdout_nothing_is_examined(registry: Path, tmp_path: Path) -> None:
    registry.write_text(REGISTRY)
    assert Compiler(Lengths(), tmp_path).compiled(load(registry), None).holdout is None  # type: ignore[arg-type]


def test_what_serves_is_what_a_version_is_compared_with(registry: Path, tmp_path: Path) -> None:
    compiler = Compiler(Lengths(), tmp_path)  # type: ignore[arg-type]
    serving = compiler.compiled(load(registry), None)
    registry.write_text(REGISTRY.replace("[hi]", "[hello]") + HOLDOUT)
    assert compiler.compiled(load(registry), None).holdout == Passed(1, 2)
    with pytest.raises(HoldoutFailed, match=r"2 by the version that serves.*50\.0 points worse"):
        compiler.compiled(load(registry), serving)


def test_rows_of_an_encoder_are_embeddings_with_their_inner_layers_if_they_have_any() -> None:
    deep = np.arange(2 * (DIMENSIONS + 3), dtype=np.float32).reshape(2, -1)
    first, second = embeddings_of(deep)
    assert (first.vector == deep[0, :DIMENSIONS]).all()
    assert second.inner is not None
    assert (second.inner == deep[1, DIMENSIONS:]).all()
    (plain,) = embeddings_of(deep[:1, :DIMENSIONS])
    assert plain.inner is None
