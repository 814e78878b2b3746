"""What is learnt of the fast path: the lead, and what it does to rows that fitted nothing."""

import numpy as np
import pytest

from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.train import fastpath_training
from extproc.lab.train.fastpath_training import choose_least
from extproc.lab.train.held_out_scores import decisions
from extproc.lab.train.route_training import Corpus, corpus, measure, train
from tests.routing.fast_path_words import SameVector

WIDTH = 16
ROUTES = ("billing", "coding")
WORDS = {0: ["refund", "invoice", "charge"], 1: ["python", "compile", "rust"]}


def quiet(_: str) -> None:
    """No progress in tests."""


def world(rows: int, telling: float, seed: int = 0) -> Corpus:
    """Rows of two routes that vectors tell apart; of their words, this share does too."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = []
    for row, label in enumerate(labels.tolist()):
        known = WORDS[label] if random.random() < telling else ["please", "help", "now"]
        texts.append(f"{random.choice(known)} {random.choice(known)} x{random.integers(10_000)} {row}")
    centres = np.random.default_rng(99).normal(size=(2, WIDTH))
    vectors = centres[labels] + 0.2 * random.normal(size=(rows, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return corpus(texts, labels.astype(np.intp), ROUTES, vectors.astype(np.float32), WIDTH, SameVector())


@pytest.mark.parametrize(
    ("chances", "agreed", "chosen"),
    [
        (np.linspace(1, 0, 200), np.arange(200) < 100, 1 - 100 / 199),  # 99 of 100 and one more
        (np.linspace(1, 0, 200), np.ones(200, bool), 0.0),
        (np.linspace(1, 0, 200), np.zeros(200, bool), 2.0),
        (np.linspace(1, 0, 30), np.ones(30, bool), 2.0),  # too few to be sure of
    ],
)
def test_the_least_chance_is_the_smallest_above_which_agreement_holds(
    chances: np.ndarray, agreed: np.ndarray, chosen: float
) -> None:
    found = choose_least(chances, agreed, np.ones(len(agreed)))
    assert found == pytest.approx(chosen, abs=0.01)
    if found <= 1:
        assert agreed[chances >= found].mean() >= fastpath_training.AGREEMENT


def test_rows_of_equal_chance_are_taken_or_left_together() -> None:
    chances = np.repeat([0.9, 0.5], 100)
    agreed = np.arange(200) < 101
    assert choose_least(chances, agreed, np.ones(200)) == 0.9


def test_a_row_that_stands_for_many_weighs_as_many() -> None:
    chances, agreed, weight = np.linspace(1, 0, 200), np.arange(200) != 120, np.ones(200)
    assert choose_least(chances, agreed, weight) == 0.0
    weight[120] = 10
    assert choose_least(chances, agreed, weight) == pytest.approx(chances[119])


def test_agreement_is_learnt_from_the_measures_and_from_the_route() -> None:
    random = np.random.default_rng(0)
    found, decided = random.normal(size=(2000, 3)), random.integers(0, 2, 2000)
    chance = 1 / (1 + np.exp(-(1 + 2 * found[:, 0] + np.where(decided == 0, 1.5, -1.5))))
    agreed = random.random(2000) < chance
    learnt = fastpath_training.fit_agreement(found, decided, agreed, np.ones(2000), 2)
    assert np.abs(learnt.probability(found, decided) - chance).mean() < 0.03
    assert learnt.biases[0] > learnt.biases[1]


def test_words_that_tell_routes_apart_decide_and_agree_on_rows_never_seen() -> None:
    rows, fresh = world(600, telling=0.7), world(400, telling=0.7, seed=1)
    outcome = train(rows, target_wrong=0.05, seed=0, scorer="linear", progress=quiet)
    learnt = fastpath_training.learn(rows, outcome, progress=quiet)
    held = measure(outcome.meaning, fresh)
    seen = fastpath_training.measure(learnt.words, outcome, fresh, held)
    assert learnt.held.agreement >= fastpath_training.AGREEMENT
    assert 0.4 < learnt.held.coverage < 0.9
    assert 0.4 < seen.coverage < 0.9
    assert seen.agreement > 0.97
    served = decisions(outcome.meaning, held, outcome.selected.floors)
    read = [learnt.words.read(text, SameVector()) for text in fresh.texts]
    taken = [row for row, scores in enumerate(read) if scores is not None]
    assert len(taken) == seen.decided == round(seen.coverage * seen.rows)
    same = [served[row] == ROUTES.index(read[row].candidates[0].route) for row in taken]  # type: ignore[union-attr]
    assert np.mean(same) == pytest.approx(seen.agreement)


def test_words_that_tell_nothing_never_decide() -> None:
    rows = world(300, telling=0.0)
    outcome = train(rows, target_wrong=0.05, seed=0, scorer="linear", progress=quiet)
    learnt = fastpath_training.learn(rows, outcome, progress=quiet)
    assert learnt.held.coverage < 0.2
    assert (
        sum(learnt.words.read(text, SameVector()) is not None for text in world(300, 0.0, seed=2).texts) < 60
    )


def test_a_text_that_the_whole_head_abstains_from_is_no_agreement() -> None:
    rows = world(400, telling=1.0)
    outcome = train(rows, target_wrong=0.05, seed=0, scorer="linear", progress=quiet)
    learnt = fastpath_training.learn(rows, outcome, progress=quiet)
    far = Corpus(rows.texts, np.full(400, ABSTAIN, np.intp), world(400, 1.0, seed=7).inputs, ROUTES)
    strangers = np.roll(far.inputs.vectors, 5, axis=1)  # in a direction that no example has
    far = corpus(far.texts, far.labels, ROUTES, np.ascontiguousarray(strangers), WIDTH, SameVector())
    held = measure(outcome.meaning, far)
    abstained = decisions(outcome.meaning, held, outcome.selected.floors)
    seen = fastpath_training.measure(learnt.words, outcome, far, held)
    assert (abstained == ABSTAIN).mean() > 0.5
    assert seen.strangers > 0.5
    assert seen.agreement < 0.5
