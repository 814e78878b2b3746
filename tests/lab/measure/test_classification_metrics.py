"""Each metric against a slow, plain reading of its definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.lab.measure import classification_metrics
from extproc.lab.measure.classification_metrics import ABSTAIN

ROUTES = 3
labels = st.integers(-1, ROUTES - 1)
decided = st.lists(st.tuples(labels, labels), min_size=1, max_size=40)
scores = st.lists(st.integers(0, 6).map(lambda n: n / 6), min_size=1, max_size=25)
judged = st.lists(st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.booleans()), min_size=1, max_size=40)


def columns(
    rows: list[tuple[float, bool]],
) -> tuple[classification_metrics.Floats, classification_metrics.Truths]:
    return np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], bool)


@given(decided)
def test_confusion_counts_every_pair_with_abstentions_last(rows: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(rows).T
    table = classification_metrics.confusion(truth, predicted, ROUTES)
    names = [*range(ROUTES), ABSTAIN]
    for (i, true), (j, said) in itertools.product(enumerate(names), enumerate(names)):
        assert table[i, j] == sum(row == (true, said) for row in rows)
    assert classification_metrics.accuracy(truth, predicted) == pytest.approx(np.trace(table) / table.sum())


@given(decided)
def test_precision_recall_and_f1_by_counting_rows(rows: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(rows).T
    found = classification_metrics.per_route(classification_metrics.confusion(truth, predicted, ROUTES))
    f1s = []
    for route in range(ROUTES):
        hit = sum(row == (route, route) for row in rows)
        took = sum(said == route for _, said in rows)
        had = sum(true == route for true, _ in rows)
        assert found.support[route] == had
        assert found.precision[route] == pytest.approx(hit / took if took else math.nan, nan_ok=True)
        assert found.recall[route] == pytest.approx(hit / had if had else math.nan, nan_ok=True)
        if took or had:
            f1s.append(2 * hit / (took + had))
    expected = sum(f1s) / len(f1s) if f1s else math.nan
    assert classification_metrics.macro_f1(
        classification_metrics.confusion(truth, predicted, ROUTES)
    ) == pytest.approx(expected, nan_ok=True)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_the_right_order(inside: list[float], outside: list[float]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert classification_metrics.auroc(np.array(inside), np.array(outside)) == pytest.approx(
        sum(pairs) / len(pairs)
    )


@given(scores, scores)
def test_fpr_is_taken_at_the_highest_threshold_that_keeps_95_percent(
    inside: list[float], outside: list[float]
) -> None:
    keeping = [t for t in inside if sum(x >= t for x in inside) / len(inside) >= 0.95]
    expected = sum(x >= max(keeping) for x in outside) / len(outside)
    assert classification_metrics.fpr_at_tpr(np.array(inside), np.array(outside)) == pytest.approx(expected)


def test_without_one_of_the_sides_detection_is_unknown() -> None:
    some, none = np.array([0.5]), np.array([])
    for metric in (classification_metrics.auroc, classification_metrics.fpr_at_tpr):
        assert math.isnan(metric(some, none))
        assert math.isnan(metric(none, some))


@given(judged, st.integers(1, 6))
def test_calibration_error_is_the_mean_gap_of_bins_of_equal_mass(
    rows: list[tuple[float, bool]], bins: int
) -> None:
    confidence, right = columns(rows)
    ordered = sorted(rows, key=lambda row: row[0])
    sizes = [len(rows) // bins + (i < len(rows) % bins) for i in range(bins)]
    starts = itertools.accumulate([0, *sizes[:-1]])
    gaps = [
        abs(sum(c for c, _ in part) - sum(r for _, r in part))
        for part in (ordered[start : start + size] for start, size in zip(starts, sizes, strict=True))
    ]
    assert classification_metrics.ece(confidence, right, bins) == pytest.approx(sum(gaps) / len(rows))
    assert classification_metrics.reliability(confidence, right, bins).count.sum() == len(rows)


def test_debiasing_matches_the_resampling_that_it_stands_for() -> None:
    random = np.random.default_rng(3)
    confidence = random.uniform(0.3, 1.0, 400)
    right = random.random(400) < confidence - 0.08
    curve = classification_metrics.reliability(confidence, right)
    width = np.sqrt(curve.accuracy * (1 - curve.accuracy) / curve.count)
    redrawn = random.normal(curve.accuracy, width, size=(40_000, len(width)))
    mean = (np.abs(redrawn - curve.confidence) * curve.count).sum(axis=1).mean() / curve.count.sum()
    expected = 2 * classification_metrics.ece(confidence, right) - mean
    assert classification_metrics.debiased_ece(confidence, right) == pytest.approx(expected, abs=5e-4)


def test_debiasing_brings_honest_confidence_closer_to_no_error() -> None:
    random = np.random.default_rng(4)
    plain, debiased = [], []
    for _ in range(50):
        confidence = random.uniform(0.5, 1.0, 300)
        right = random.random(300) < confidence
        plain.append(classification_metrics.ece(confidence, right))
        debiased.append(classification_metrics.debiased_ece(confidence, right))
    assert np.mean(debiased) < 0.65 * np.mean(plain)


@given(judged)
def test_risk_at_each_coverage_is_the_expected_share_of_errors_kept(rows: list[tuple[float, bool]]) -> None:
    confidence, right = columns(rows)
    curve = classification_metrics.risk_coverage(confidence, right)
    for kept in range(1, len(rows) + 1):
        cut = sorted(confidence, reverse=True)[kept - 1]
        above = [r for c, r in rows if c > cut]
        tied = [r for c, r in rows if c == cut]
        wrong = sum(not r for r in above) + sum(not r for r in tied) * (kept - len(above)) / len(tied)
        assert curve.risk[kept - 1] == pytest.approx(wrong / kept)
    assert classification_metrics.aurc(curve) == pytest.approx(sum(curve.risk) / len(rows))


@given(judged, st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_the_coverage_at_a_risk_is_the_best_that_any_threshold_gives(
    rows: list[tuple[float, bool]], risk: float
) -> None:
    confidence, right = columns(rows)
    coverage, threshold = classification_metrics.coverage_at_risk(
        classification_metrics.risk_coverage(confidence, right), risk
    )
    best = 0.0
    for cut in confidence:
        kept = right[confidence >= cut]
        if (~kept).mean() <= risk + 1e-12:
            best = max(best, len(kept) / len(rows))
    assert coverage == pytest.approx(best)
    assert (confidence >= threshold).mean() == pytest.approx(best)


def test_quantiles_of_nothing_are_unknown() -> None:
    assert classification_metrics.quantiles(np.array([1.0, 2.0, 3.0]), (0.0, 0.5, 1.0)) == (1.0, 2.0, 3.0)
    assert all(math.isnan(value) for value in classification_metrics.quantiles(np.array([])))
