import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.calibration import Calibration, fit_isotonic

LOGITS = np.random.default_rng(0).normal(scale=2, size=(200, 4)).astype(np.float32)


@given(
    st.lists(st.floats(0.25, 1.0), min_size=1, max_size=6, unique=True),
    st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6),
)
def test_an_isotonic_map_keeps_the_order_of_routes_and_sums_to_one(
    claimed: list[float], reached: list[float]
) -> None:
    mapped = Calibration(1.0, np.sort(claimed), np.sort(reached[: len(claimed)]))
    plain, found = Calibration(1.0).probabilities(LOGITS), mapped.probabilities(LOGITS)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    assert (found >= 0).all()
    best = plain.argmax(axis=1)
    rows = np.arange(len(best))
    assert (found[rows, best] >= found.max(axis=1) - 1e-6).all()


def test_an_isotonic_map_says_how_often_it_was_right() -> None:
    random = np.random.default_rng(1)
    top = random.uniform(0.3, 1.0, 20_000)
    right = random.random(20_000) < top**2  # surer than it should be
    claimed, reached = fit_isotonic(top, right)
    for at in (0.5, 0.7, 0.9):
        assert np.interp(at, claimed, reached) == pytest.approx(at**2, abs=0.04)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_isotonic_knots_rise_and_are_never_certain_without_being_told(rows: list[tuple[float, bool]]) -> None:
    top, right = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    claimed, reached = fit_isotonic(top, right)
    assert (np.diff(claimed) >= 0).all()
    assert (np.diff(reached) >= 0).all()
    assert ((reached >= 0) & (reached <= 1)).all()


def test_knots_of_one_claim_do_not_fall_by_rounding() -> None:
    claimed, _ = fit_isotonic(np.full(4, 0.21857959764096307), np.array([False, False, False, True]))
    assert (np.diff(claimed) >= 0).all()


def test_a_single_route_stays_certain() -> None:
    mapped = Calibration(1.0, np.array([1.0]), np.array([0.5]))
    np.testing.assert_array_equal(mapped.probabilities(np.zeros((2, 1), np.float32)), 1.0)
