"""Fits that start from another fit's head: they reach as low a loss, sooner, and the same bytes each time."""

import msgspec
import numpy as np
import pytest

from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.train import linear_fitting
from extproc.lab.train.head_fitting import SCORERS, take
from extproc.routing.lexical_features import lexical
from extproc.routing.scorers import Matrix, softmax
from extproc.routing.trained_heads import Head, Inputs, Trained

ROUTES, WIDTH = 3, 8
WORDS = ("refund invoice charge bank", "python compile rust code", "flight hotel visa train")


def world(rows: int, seed: int = 0) -> tuple[Inputs, Labels]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % ROUTES
    texts = [" ".join(random.choice([*WORDS[label].split(), "please", "now"], 3)) for label in labels]
    vectors = np.random.default_rng(99).normal(size=(ROUTES, WIDTH))[labels] + random.normal(
        size=(rows, WIDTH)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Inputs(vectors.astype(np.float32), words=lexical(texts)), labels.astype(np.intp)


def log_loss(head: Head, inputs: Inputs, labels: Labels) -> float:
    chances = softmax(head.logits(inputs))
    return float(-np.log(chances[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("name", ["linear", "lexical"])
def test_a_fit_that_goes_on_from_most_of_its_rows_is_as_good_in_fewer_steps(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inputs, labels = world(600)
    most = np.flatnonzero(np.arange(600) % 5 > 0)
    start = SCORERS[name](take(inputs, most), labels[most], ROUTES, 0, None)
    cold = SCORERS[name](inputs, labels, ROUTES, 0, None)
    warm = SCORERS[name](inputs, labels, ROUTES, 0, start)
    assert log_loss(warm, inputs, labels) < 1.02 * log_loss(cold, inputs, labels)
    monkeypatch.setattr(linear_fitting, "STEPS", linear_fitting.STEPS_ON)
    short = SCORERS[name](inputs, labels, ROUTES, 0, None)
    assert log_loss(warm, inputs, labels) < log_loss(short, inputs, labels)


def test_a_perceptron_goes_on_from_another_one() -> None:
    inputs, labels = world(150)
    start = SCORERS["perceptron"](inputs, labels, ROUTES, 0, None)
    warm = SCORERS["perceptron"](inputs, labels, ROUTES, 0, start)
    assert log_loss(warm, inputs, labels) < 1.05 * log_loss(start, inputs, labels)


@pytest.mark.parametrize("name", ["linear", "lexical", "perceptron"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_the_same_rows_and_start_give_the_same_bytes(name: str, goes_on: bool) -> None:
    inputs, labels = world(120)
    start = SCORERS[name](*world(90), ROUTES, 0, None) if goes_on else None
    one, other = (SCORERS[name](inputs, labels, ROUTES, 0, start) for _ in range(2))
    assert one.logits(inputs).tobytes() == other.logits(inputs).tobytes()


@pytest.mark.parametrize("name", ["linear", "lexical", "perceptron"])
def test_the_head_that_a_fit_starts_from_is_left_alone(name: str) -> None:
    inputs, labels = world(120)
    start = SCORERS[name](inputs, labels, ROUTES, 0, None)
    before = start.logits(inputs)
    SCORERS[name](inputs, labels, ROUTES, 1, start)
    assert np.array_equal(start.logits(inputs), before)


def test_a_start_with_other_words_lends_only_the_words_that_both_know() -> None:
    inputs, labels = world(120)
    start = SCORERS["lexical"](inputs, labels, ROUTES, 0, None)
    other = msgspec.structs.replace(inputs, words=lexical(["zebra"] * 60 + ["python code"] * 60))
    head = SCORERS["lexical"](other, labels, ROUTES, 0, start)
    assert isinstance(head, Trained)
    assert head.lexicon is not None
    assert np.isfinite(head.logits(other)).all()
    assert not head.lexicon.weights[-1].any()


@pytest.mark.parametrize(("rows", "kept"), [(100, 1), (600, 2), (5000, 3)])
def test_the_more_rows_the_more_often_a_word_must_be_seen_to_count(rows: int, kept: int) -> None:
    """The words `one`, `two` and `three` stand in as many rows."""
    texts = ["plain"] * rows
    texts[:6] = ["one", "two", "two", "three", "three", "three"]
    inputs = Inputs(np.ones((rows, 2), np.float32), words=lexical(texts))
    head = SCORERS["lexical"](inputs, (np.arange(rows) % 2).astype(np.intp), 2, 0, None)
    assert isinstance(head, Trained)
    assert head.lexicon is not None
    weighed = [_weighed(head, word) for word in ("one", "two", "three")]
    assert weighed == [number >= kept for number in (1, 2, 3)]


def _weighed(head: Trained, word: str) -> bool:
    assert head.lexicon is not None
    slots: Matrix = head.lexicon.slots[lexical([word]).columns]
    return bool((slots < len(head.lexicon.weights) - 1).all())
