"""Progress is told text by text counted, and the vectors are those of the encoder behind."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.embedding.encoder_progress import CHUNK, ReportingEncoder


class Lengths:
    """An encoder whose vectors are the texts' lengths."""

    name = "lengths"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[len(text)] for text in texts], np.float32).reshape(len(texts), 1)


@pytest.mark.parametrize(
    ("count", "told"), [(0, []), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, CHUNK + 1])]
)
def test_every_chunk_is_told_and_no_vector_changes(count: int, told: list[int]) -> None:
    reports: list[tuple[int, int]] = []
    encoder = ReportingEncoder(Lengths(), lambda done, total: reports.append((done, total)))
    texts = ["x" * number for number in range(count)]
    assert encoder.name == "lengths"
    assert (encoder.encode(texts) == Lengths().encode(texts)).all()
    assert encoder.encode(texts).shape == (count, 1)
    assert reports[: len(told)] == [(done, count) for done in told]
