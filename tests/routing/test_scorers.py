import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.calibration import best_temperature, cross_fitted, fit_temperature
from extproc.routing.scorers import (
    Fit,
    Labels,
    Matrix,
    fit_centroids,
    fit_logistic,
    fit_prototypes,
    softmax,
)

DIMENSIONS = 24
ALL_KINDS = [fit_centroids, fit_prototypes(3), fit_logistic]


def unit(rows: Matrix) -> Matrix:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clusters(per_route: int, routes: int = 3, spread: float = 0.15, seed: int = 7) -> tuple[Matrix, Labels]:
    random = np.random.default_rng(seed)
    centres = unit(np.random.default_rng(1).normal(size=(routes, DIMENSIONS)))
    labels = np.repeat(np.arange(routes), per_route)
    return unit(centres[labels] + spread * random.normal(size=(len(labels), DIMENSIONS))), labels


@pytest.mark.parametrize("fit", ALL_KINDS)
def test_unseen_vectors_are_given_to_the_route_they_lie_in(fit: Fit) -> None:
    scorer = fit(*clusters(per_route=10), 3)
    unseen, labels = clusters(per_route=50, seed=8)
    logits = scorer.logits(unseen)
    assert logits.shape == (150, 3)
    assert (logits.argmax(axis=1) == labels).mean() > 0.95


@pytest.mark.parametrize("fit", ALL_KINDS)
def test_fitting_twice_gives_the_same_logits(fit: Fit) -> None:
    vectors, labels = clusters(per_route=6)
    assert np.array_equal(fit(vectors, labels, 3).logits(vectors), fit(vectors, labels, 3).logits(vectors))


@pytest.mark.parametrize("fit", ALL_KINDS)
def test_a_single_route_is_certain_so_that_similarity_decides(fit: Fit) -> None:
    vectors, labels = clusters(per_route=4, routes=1)
    assert np.array_equal(softmax(fit(vectors, labels, 1).logits(vectors)), np.ones((4, 1)))


@pytest.mark.parametrize("fit", ALL_KINDS)
def test_one_example_a_route_is_enough_to_serve(fit: Fit) -> None:
    vectors, labels = clusters(per_route=1)
    assert (fit(vectors, labels, 3).logits(vectors).argmax(axis=1) == labels).all()


def test_prototypes_cover_a_route_of_two_kinds_where_a_centroid_cannot() -> None:
    # Route 0 lies on both sides of route 1, so their means coincide.
    axis = np.eye(DIMENSIONS, dtype=np.float32)
    vectors = unit(np.stack([axis[0] + axis[1], axis[0] - axis[1], axis[0], axis[0] + 0.01 * axis[2]]))
    labels = np.array([0, 0, 1, 1])
    assert (fit_prototypes(2)(vectors, labels, 2).logits(vectors).argmax(axis=1) == labels).all()
    assert not (fit_centroids(vectors, labels, 2).logits(vectors).argmax(axis=1) == labels).all()


def test_prototypes_are_never_more_than_distinct_examples() -> None:
    vectors = np.tile(np.eye(DIMENSIONS, dtype=np.float32)[:1], (5, 1))
    scorer = fit_prototypes(3)(vectors, np.zeros(5, np.intp), 1)
    assert len(scorer.prototypes) == 1


def test_logistic_reaches_the_minimum_of_its_loss() -> None:
    vectors, labels = clusters(per_route=8, spread=0.4)
    fitted = fit_logistic(vectors, labels, 3)

    def loss(weights: Matrix, bias: Matrix) -> float:
        chosen = softmax((vectors @ weights.T + bias).astype(np.float64))[np.arange(len(labels)), labels]
        return float(-np.log(chosen).mean() + 0.5e-3 * (weights.astype(np.float64) ** 2).sum())

    best = loss(fitted.weights, fitted.bias)
    random = np.random.default_rng(3)
    for scale in (1e-1, 1e-2):
        for _ in range(20):
            step = scale * random.normal(size=fitted.weights.shape).astype(np.float32)
            assert loss(fitted.weights + step, fitted.bias) > best - 1e-6


def test_a_route_weighs_the_same_however_often_its_examples_are_repeated() -> None:
    vectors, labels = clusters(per_route=5, routes=2, spread=0.5)
    repeated = np.r_[np.tile(np.arange(5), 10), np.arange(5, 10)]
    once, often = fit_logistic(vectors, labels, 2), fit_logistic(vectors[repeated], labels[repeated], 2)
    assert np.allclose(once.weights, often.weights, atol=1e-4)
    assert np.allclose(once.bias, often.bias, atol=1e-4)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_softmax_is_a_distribution_for_any_logits(logits: list[float]) -> None:
    probabilities = softmax(np.array(logits, np.float32))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("true_temperature", [0.05, 0.3, 1.0])
def test_the_temperature_of_the_data_is_found_again(true_temperature: float) -> None:
    random = np.random.default_rng(5)
    logits = random.normal(size=(20_000, 4)).astype(np.float32)
    cumulative = softmax(logits / true_temperature).cumsum(axis=1)
    labels = (random.random((20_000, 1)) > cumulative).sum(axis=1).clip(0, 3)
    assert best_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.1)


@pytest.mark.parametrize("fit", ALL_KINDS)
def test_fitted_probabilities_are_as_good_as_they_claim(fit: Fit) -> None:
    vectors, labels = clusters(per_route=100, spread=0.45)
    temperature = fit_temperature(cross_fitted(fit, vectors, labels, 3), labels)
    unseen, truth = clusters(per_route=500, spread=0.45, seed=9)
    probabilities = softmax(fit(vectors, labels, 3).logits(unseen) / temperature)
    claimed = probabilities.max(axis=1).mean()
    reached = (probabilities.argmax(axis=1) == truth).mean()
    assert 0.5 < reached < 0.99
    assert claimed == pytest.approx(reached, abs=0.06)


def test_a_route_with_a_single_example_leaves_the_temperature_cautious() -> None:
    vectors, labels = clusters(per_route=1)
    assert fit_temperature(cross_fitted(fit_centroids, vectors, labels, 3), labels) == 0.1
