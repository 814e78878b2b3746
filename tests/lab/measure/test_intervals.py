"""Intervals cover what they promise, and fast forms equal slow ones."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.lab.measure import classification_metrics, intervals


def test_wilson_is_the_published_interval() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20, method 3.
    found = intervals.wilson(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert intervals.wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert intervals.wilson(0, 0) == intervals.Interval(0.0, 1.0)


@given(st.integers(1, 200), st.data())
def test_wilson_holds_the_share_and_stays_a_share(rows: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, rows))
    found = intervals.wilson(hits, rows)
    assert 0.0 <= found.low <= hits / rows + 1e-12
    assert hits / rows - 1e-12 <= found.high <= 1.0


def test_a_bootstrap_of_a_mean_agrees_with_the_normal_interval_and_the_seed() -> None:
    values = np.random.default_rng(5).normal(size=900)
    found = intervals.bootstrap(intervals.mean_of(values), 900)
    half = 1.96 * values.std() / 30
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)
    assert found == intervals.bootstrap(intervals.mean_of(values), 900)
    assert found != intervals.bootstrap(intervals.mean_of(values), 900, seed=1)


def test_the_interval_of_a_calibration_error_holds_its_figure_and_covers_the_truth() -> None:
    random = np.random.default_rng(9)
    covered = 0
    for _ in range(40):
        confidence = random.uniform(0.5, 1.0, 600)
        right = random.random(600) < confidence - 0.1  # the true error is 0.1

        def drawn(
            chosen: classification_metrics.Labels,
            confidence: classification_metrics.Floats = confidence,
            right: classification_metrics.Truths = right,
        ) -> float:
            return classification_metrics.debiased_ece(confidence[chosen], right[chosen])

        value = classification_metrics.debiased_ece(confidence, right)
        found = intervals.bootstrap_distance(intervals.one_by_one(drawn), value, 600, resamples=200)
        assert found.low <= value <= found.high
        covered += found.low <= 0.1 <= found.high
    assert covered >= 35


def test_a_distance_is_never_below_zero() -> None:
    statistic = intervals.mean_of(np.abs(np.random.default_rng(1).normal(size=50)))
    assert intervals.bootstrap_distance(statistic, 0.0, 50).low == 0.0


def test_blocks_of_resamples_do_not_lose_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_BLOCK", 70)
    seen: list[int] = []

    def statistic(weights: classification_metrics.Floats) -> classification_metrics.Floats:
        assert (weights.sum(axis=1) == 10).all()
        seen.append(len(weights))
        return weights[:, 0]

    intervals.bootstrap(statistic, 10, resamples=16)
    assert seen == [7, 7, 2]


def test_weighted_auroc_equals_auroc_of_the_drawn_rows() -> None:
    random = np.random.default_rng(6)
    scores = random.integers(0, 5, 30).astype(float)
    inside = random.random(30) < 0.6
    weights = random.integers(0, 3, (20, 30)).astype(float)
    found = intervals.auroc_of(scores, inside)(weights)
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(30), row.astype(int))
        chosen = inside[drawn]
        assert value == pytest.approx(
            classification_metrics.auroc(scores[drawn][chosen], scores[drawn][~chosen])
        )


def test_a_resample_without_one_of_the_sides_is_left_out() -> None:
    statistic = intervals.auroc_of(np.array([0.1, 0.9]), np.array([False, True]))
    assert math.isnan(statistic(np.array([[2.0, 0.0]]))[0])
    assert intervals.bootstrap(statistic, 2) == intervals.Interval(1.0, 1.0)


def test_one_by_one_gives_the_rows_that_were_drawn() -> None:
    statistic = intervals.one_by_one(lambda drawn: float(drawn.sum()))
    assert statistic(np.array([[0.0, 2.0, 1.0]])).tolist() == [4.0]
    ordered = intervals.one_by_one(lambda drawn: float(drawn[0]), np.array([2, 1, 0]))
    assert ordered(np.array([[3.0, 1.0, 0.0]])).tolist() == [1.0]


def test_macro_f1_by_cells_agrees_with_drawing_rows() -> None:
    random = np.random.default_rng(7)
    truth = random.integers(-1, 3, 200)
    predicted = np.where(random.random(200) < 0.7, truth, random.integers(-1, 3, 200))

    def slow(drawn: classification_metrics.Labels) -> float:
        return classification_metrics.macro_f1(
            classification_metrics.confusion(truth[drawn], predicted[drawn], 3)
        )

    rows = intervals.bootstrap(intervals.one_by_one(slow), 200)
    cells = intervals.bootstrap_macro_f1(truth, predicted, 3)
    assert cells.low == pytest.approx(rows.low, abs=0.012)
    assert cells.high == pytest.approx(rows.high, abs=0.012)


@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_is_the_share_of_coin_series_at_least_as_uneven(first: int, second: int) -> None:
    rows = first + second
    series = [abs(2 * sum(coins) - rows) for coins in itertools.product((0, 1), repeat=rows)]
    expected = sum(uneven >= abs(first - second) for uneven in series) / len(series)
    assert intervals.mcnemar(first, second) == pytest.approx(expected)


def test_mcnemar_takes_thousands_of_rows() -> None:
    assert intervals.mcnemar(2000, 2000) == 1.0
    assert 0.0 <= intervals.mcnemar(500, 2500) < 1e-100
