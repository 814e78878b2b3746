"""The optimisers on losses whose minima are known."""

import numpy as np

from extproc.lab.train.optimisers import Adam, minimise
from extproc.routing.scorers import Matrix

CURVATURE = np.logspace(0, 2, 50, dtype=np.float32)[:, None]
TARGET = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def bowl(weights: Matrix) -> tuple[float, Matrix]:
    """Quadratic, with curvatures from 1 to 100."""
    away = weights - TARGET
    return float((CURVATURE * away**2).sum()) / 2, CURVATURE * away


def found(scale: Matrix, steps: int = 100) -> Matrix:
    return minimise(bowl, np.zeros_like(TARGET), scale, steps)


def test_the_minimum_is_found_whatever_the_scale() -> None:
    for scale in (np.ones_like(CURVATURE), 1 / CURVATURE):
        np.testing.assert_allclose(found(scale), TARGET, atol=0.05)


def test_a_scale_near_the_inverse_curvature_needs_fewer_steps() -> None:
    scaled, plain = (bowl(found(scale, steps=10))[0] for scale in (1 / CURVATURE, np.ones_like(CURVATURE)))
    assert scaled < plain / 10


def test_the_start_is_left_alone_and_equal_losses_give_equal_weights() -> None:
    start = np.zeros_like(TARGET)
    first, second = (minimise(bowl, start, np.ones_like(CURVATURE), 20) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not start.any()


def test_no_step_is_taken_at_the_minimum() -> None:
    np.testing.assert_array_equal(minimise(bowl, TARGET, np.ones_like(CURVATURE), 5), TARGET)


def test_adam_moves_by_the_rate_at_first_and_only_matrices_decay() -> None:
    matrix, bias = np.full((2, 2), 4.0, np.float32), np.full(2, 4.0, np.float32)
    adam = Adam([matrix, bias])
    adam.step([np.full((2, 2), 7.0, np.float32), np.full(2, 7.0, np.float32)], 0.1)
    np.testing.assert_allclose(bias, 3.9, atol=1e-5)
    np.testing.assert_allclose(matrix, 4.0 * (1 - 0.1 * 0.01) - 0.1, atol=1e-5)
