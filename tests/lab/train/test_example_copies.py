"""Copies of examples: which rows have one, what it says, and that it goes where its example goes."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.train import example_copies
from extproc.lab.train.example_copies import copies_of
from extproc.routing.lexical_features import lexical
from extproc.routing.trained_heads import Inputs

TEXTS = [f"number {i}: what is the balance of my account?" for i in range(40)]
LABELS = np.array([0, 1, ABSTAIN, 1] * 10, np.intp)


class Listing:
    """A ``vocabulary.Encoder`` that numbers its texts: the vector of text i is (i, i, ..., i)."""

    name = "listing"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts = list(texts)
        return np.repeat(np.arange(len(texts), dtype=np.float32)[:, None], 6, axis=1)


def test_every_row_in_scope_has_a_polite_copy() -> None:
    encoder = Listing()
    copies = copies_of(TEXTS, LABELS, encoder, 4, seed=0)
    assert sorted(copies.of.tolist()) == np.flatnonzero(LABELS != ABSTAIN).tolist()
    pairs = [(TEXTS[row], text) for row, text in zip(copies.of.tolist(), encoder.texts, strict=True)]
    assert all(text in copy and text != copy for text, copy in pairs)
    assert copies.inputs.vectors.shape == (30, 4)
    assert copies.inputs.inner is not None
    assert copies.inputs.inner.shape == (30, 2)


def test_the_same_rows_and_seed_give_the_same_copies_in_any_order() -> None:
    first, second, other = Listing(), Listing(), Listing()
    copies_of(TEXTS, LABELS, first, 4, seed=0)
    copies_of(TEXTS[::-1], LABELS[::-1], second, 4, seed=0)
    copies_of(TEXTS, LABELS, other, 4, seed=1)
    assert first.texts == second.texts != other.texts


def test_of_many_rows_a_part_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_copies, "MOST", 10)
    copies = copies_of(TEXTS, LABELS, Listing(), 4, seed=0)
    assert len(set(copies.of.tolist())) == 10


def test_a_copy_follows_its_row() -> None:
    copies = copies_of(TEXTS, LABELS, Listing(), 4, seed=0)
    rows = np.array([7, 2, 0])  # row 2 is out of scope and has no copy
    taken = copies.take(rows)
    assert sorted(rows[taken.of].tolist()) == [0, 7]
    place = {
        float(vector[0]): row for row, vector in zip(copies.of.tolist(), copies.inputs.vectors, strict=True)
    }
    assert [place[float(vector[0])] for vector in taken.inputs.vectors] == rows[taken.of].tolist()
    assert copies.take(np.array([2])).of.tolist() == []


def test_copies_come_after_the_rows_with_all_their_features() -> None:
    encoder = Listing()
    copies = copies_of(TEXTS[:4], LABELS[:4], encoder, 4, seed=0)
    deep = Listing().encode(TEXTS[:4])
    rows = Inputs(deep[:, :4], deep[:, 4:], lexical(TEXTS[:4]))
    both, expected = copies.after(rows), lexical([*TEXTS[:4], *encoder.texts])
    assert both.words is not None
    assert both.inner is not None
    assert len(both.vectors) == len(both.inner) == len(both.words) == 7
    assert [both.words.row(i).tolist() for i in range(7)] == [expected.row(i).tolist() for i in range(7)]
    assert both.words.words.tolist() == expected.words.tolist()
