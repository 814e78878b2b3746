"""Copies of examples in polite words, as people write to an assistant: "hi there, ... thanks".

Heads are fitted on examples and their copies, so that a greeting does not change the route. There are no
misspelt copies, because spelling is corrected before a text is embedded. A copy belongs to its example: it is
fitted when that is fitted. It is never held out, so it does not change calibration, floors or figures.
"""

import hashlib
from collections.abc import Sequence
from importlib import resources

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import ABSTAIN, Labels
from extproc.lab.train.head_fitting import take
from extproc.routing.lexical_features import Sparse, lexical
from extproc.routing.scorers import Matrix
from extproc.routing.text_changes import TextChange, changed
from extproc.routing.trained_heads import Inputs
from extproc.vocabulary import Encoder

MOST = 5000  # copies; copies of all rows of a large data set would multiply the training time
_COURTESIES = "courtesies.txt"


class Copies(msgspec.Struct, frozen=True):
    """Copies of some rows of a corpus."""

    inputs: Inputs
    of: NDArray[np.intp]  # (copies,) the row that each one copies

    def take(self, rows: NDArray[np.intp]) -> "Copies":
        """The copies of these rows, which get the numbers 0, 1, ... in their order."""
        place = np.full(max(int(rows.max(initial=-1)), int(self.of.max(initial=-1))) + 1, -1, np.intp)
        place[rows] = np.arange(len(rows))
        kept = np.flatnonzero(place[self.of] >= 0)
        return Copies(take(self.inputs, kept), place[self.of[kept]])

    def after(self, inputs: Inputs) -> Inputs:
        """The inputs of the rows and, after them, of their copies."""
        return Inputs(
            vectors=np.vstack([inputs.vectors, self.inputs.vectors]),
            inner=_stacked(inputs.inner, self.inputs.inner),
            words=_chained(inputs.words, self.inputs.words),
        )


def copies_of(texts: Sequence[str], labels: Labels, deep: Encoder, width: int, seed: int) -> Copies:
    """A copy of each row in scope, or of ``MOST`` of them.

    The first ``width`` columns of ``deep`` are the embedding.
    """
    rows = _by_content(texts, np.flatnonzero(labels != ABSTAIN), seed)[:MOST]
    courtesies = _courtesies()
    copied = [changed(texts[row], TextChange.COURTESY, seed, courtesies) for row in rows]
    vectors = deep.encode(copied)
    inner = vectors[:, width:] if vectors.shape[1] > width else None
    return Copies(Inputs(vectors[:, :width], inner, lexical(copied)), np.array(rows, np.intp))


def _by_content(texts: Sequence[str], rows: NDArray[np.intp], seed: int) -> list[int]:
    """The rows in an order that other rows do not change."""
    return sorted(rows.tolist(), key=lambda row: (_hash(texts[row], seed), row))


def _hash(text: str, seed: int) -> int:
    content = f"copy {seed}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big")


def _courtesies() -> list[str]:
    lines = resources.files("extproc.lab.train").joinpath(_COURTESIES).read_text("utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _stacked(first: Matrix | None, second: Matrix | None) -> Matrix | None:
    return None if first is None or second is None else np.vstack([first, second])


def _chained(first: Sparse | None, second: Sparse | None) -> Sparse | None:
    if first is None or second is None:
        return None
    return Sparse(
        columns=np.concatenate([first.columns, second.columns]),
        starts=np.concatenate([first.starts, first.starts[-1] + second.starts[1:]]),
        words=np.concatenate([first.words, second.words]),
    )
