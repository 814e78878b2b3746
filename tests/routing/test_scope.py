"""The scope score on small worlds of unit vectors."""

import numpy as np
import pytest

from extproc.lab.measure.classification_metrics import auroc
from extproc.routing import scope as scoring
from extproc.routing.calibration import cross_fitted, fit_temperature
from extproc.routing.embedding_scorer import fit_meaning, scope_of_examples
from extproc.routing.scope import EQUAL, MEASURES, default_floor, fit_scope, likeness_of, likeness_of_one
from extproc.routing.scorers import Labels, Matrix, fit_logistic
from extproc.vocabulary import Embedding

DIMENSIONS = 24


def unit(rows: Matrix) -> Matrix:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(per_route: int, routes: int = 6, spread: float = 0.15, seed: int = 0) -> tuple[Matrix, Labels]:
    centres = unit(np.random.default_rng(1).normal(size=(routes, DIMENSIONS)))
    labels = np.repeat(np.arange(routes), per_route)
    noise = np.random.default_rng(seed).normal(size=(len(labels), DIMENSIONS))
    return unit(centres[labels] + spread * noise), labels


def strangers(count: int, seed: int = 9) -> Matrix:
    return unit(np.random.default_rng(seed).normal(size=(count, DIMENSIONS)))


class Known:
    """An encoder that knows the vector of each text."""

    name = "known"

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors

    def encode(self, texts: object) -> Matrix:
        return self._vectors


def probabilities(vectors: Matrix, examples: Matrix, labels: Labels, routes: int) -> np.ndarray:
    held = cross_fitted(fit_logistic, examples, labels, routes)
    assert held is not None
    scope = scope_of_examples(examples, labels, held, fit_temperature(held, labels))
    logits = fit_logistic(examples, labels, routes).logits(vectors)
    likeness = likeness_of(vectors, logits, examples, labels, vectors @ scope.centroids.T)
    return np.append(scope.probability(logits, likeness), scope.floor)


def test_examples_alone_give_a_floor_that_keeps_nine_in_ten_and_few_strangers() -> None:
    examples, labels = world(10)
    fresh, _ = world(50, seed=5)
    *found, floor = probabilities(np.concatenate([fresh, strangers(300)]), examples, labels, 6)
    kept = np.array(found) >= floor
    assert kept[:300].mean() == pytest.approx(0.9, abs=0.06)
    assert kept[300:].mean() < 0.1


def test_the_score_is_a_probability_that_is_high_in_scope_and_low_outside() -> None:
    examples, labels = world(10)
    fresh, _ = world(50, seed=5)
    found = probabilities(np.concatenate([fresh, strangers(300)]), examples, labels, 6)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.median(found[:300]) > 0.8
    assert np.median(found[300:-1]) < 0.4


def test_serving_scores_one_text_as_many_are_scored_at_once() -> None:
    examples, labels = world(4, routes=8)
    texts = {f"r{route}": [f"{route} {row}" for row in range(4)] for route in range(8)}
    meaning = fit_meaning(texts, Known(examples), fit_logistic)
    assert meaning.scope is not None
    vectors = np.concatenate([world(2, routes=8, seed=3)[0], strangers(5)])
    logits = fit_logistic(examples, labels, 8).logits(vectors)
    likeness = likeness_of(vectors, logits, examples, labels, vectors @ meaning.scope.centroids.T)
    expected = meaning.scope.probability(logits, likeness)
    for row, vector in enumerate(vectors):
        assert meaning.score(Embedding(vector, 1, 0.0, 0.0), "").in_scope == pytest.approx(
            float(expected[row]), abs=1e-3
        )


def test_a_route_with_one_example_leaves_the_scope_unknown() -> None:
    examples, _ = world(1, routes=2)
    meaning = fit_meaning({"a": ["x"], "b": ["y"]}, Known(examples), fit_logistic)
    assert meaning.scope is None
    assert meaning.score(Embedding(examples[0], 1, 0.0, 0.0), "x").in_scope is None


def test_an_example_is_not_compared_with_itself() -> None:
    examples, labels = world(3, routes=2)
    logits = fit_logistic(examples, labels, 2).logits(examples)
    own = np.arange(6)
    without = likeness_of(examples, logits, examples, labels, examples @ examples[:2].T, own=own)
    assert (without[:, 0] < 0.9999).all()
    to_centroids = scoring.to_centroids_without_self(examples, labels, 2)
    others = examples[1] + examples[2]
    assert to_centroids[0, 0] == pytest.approx(float(examples[0] @ others / np.linalg.norm(others)), abs=1e-5)


def test_a_hidden_route_is_not_compared() -> None:
    examples, labels = world(3, routes=2)
    logits = scoring.without_own_route(fit_logistic(examples, labels, 2).logits(examples), labels)
    hidden = likeness_of(examples, logits, examples, labels, np.ones((6, 2), np.float32))
    expected = [float((examples[row] @ examples[labels != labels[row]].T).max()) for row in range(6)]
    np.testing.assert_allclose(hidden[:, 0], expected, atol=1e-6)


def test_the_ten_nearest_are_averaged_or_all_if_there_are_fewer() -> None:
    few = [np.array([0.1, 0.5], np.float32), np.array([0.3], np.float32)]
    assert likeness_of_one(few, np.array([0.2, 0.4]))[0].tolist() == pytest.approx([0.5, 0.5, 0.4, 0.3])
    many = [np.linspace(0, 1, 101, dtype=np.float32)]
    assert likeness_of_one(many, np.zeros(1))[0, 3] == pytest.approx(0.955)


def measured(rows: int, signal: int, shift: float, seed: int) -> np.ndarray:
    """Measures of which only one separates."""
    found = np.random.default_rng(seed).normal(size=(rows, len(MEASURES)))
    found[:, signal] += shift
    return found


def test_with_enough_known_strangers_the_measure_that_separates_gets_the_weight() -> None:
    inside, known = measured(500, 3, 0.0, 0), measured(60, 3, -4.0, 1)
    scope = fit_scope(np.eye(2, dtype=np.float32), 1.0, inside, known, known[:0])
    assert scope.weights.argmax() == 3
    assert scope.weights[3] > 3 * np.abs(np.delete(scope.weights, 3)).max()


def test_with_fewer_known_strangers_the_weights_stay_equal() -> None:
    inside, known = measured(500, 0, 0.0, 0), measured(49, 0, -4.0, 1)
    scope = fit_scope(np.eye(2, dtype=np.float32), 1.0, inside, known, known[:0])
    np.testing.assert_allclose((scope.weights * scope.scales)[EQUAL == 0], 0.0)
    assert len(set(scope.weights[EQUAL == 1].round(9).tolist())) == 1


def test_one_measure_out_of_all_bounds_does_not_silence_the_others() -> None:
    inside, known = measured(200, 0, 0.0, 0), measured(49, 0, -4.0, 1)
    inside[:, 4], known[:, 4] = 0.0, -1e6
    scope = fit_scope(np.eye(2, dtype=np.float32), 1.0, inside, known, known[:0])
    assert scope.weights[0] > 0.1


def test_few_rows_move_the_floor_towards_even_odds() -> None:
    inside = np.full(6, 0.9)
    assert default_floor(inside, 3) < 0.9
    assert default_floor(inside, 3) > 0.5
    assert default_floor(np.full(60, 0.9), 3) == pytest.approx(0.9, abs=1e-3)
    assert default_floor(np.full(6, 0.1), 3) > 0.1


@pytest.mark.parametrize(
    ("inside", "floor"),
    [
        (np.linspace(0.0, 1.0, 1001), 0.15),  # strangers are much like them: 15 % are doubted, no more
        (np.linspace(0.3, 1.0, 1001), 0.4),  # the usual floor doubts 14 %
        (np.linspace(0.8, 1.0, 1001), 0.82),  # strangers are unlike them: 10 % are doubted all the same
    ],
)
def test_the_default_floor_is_the_usual_one_within_bounds_on_the_share_that_is_doubted(
    inside: np.ndarray, floor: float
) -> None:
    assert default_floor(inside, 3) == pytest.approx(floor, abs=1e-3)


def test_scope_sees_what_either_measure_alone_misses() -> None:
    examples, labels = world(10)
    fresh, _ = world(50, seed=5)
    between = unit(examples[:10] + examples[10:20])
    rows = np.concatenate([fresh, strangers(100), between])
    found = probabilities(rows, examples, labels, 6)[:-1]
    similarity = (rows @ examples.T).max(axis=1)
    assert auroc(found[:300], found[300:]) > auroc(similarity[:300], similarity[300:])
