"""RouteLLM's measures against a plain walk through the thresholds."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extproc.lab.measure import cost_quality as cq
from extproc.lab.measure.intervals import bootstrap

requests = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30
)


def columns(rows: list[tuple[int, int, int]]) -> tuple[cq.Floats, cq.Floats, cq.Floats]:
    score, weak, strong = np.array(rows, float).T
    return score, weak, strong


@given(requests)
def test_each_threshold_gives_the_quality_and_cost_of_its_choice(rows: list[tuple[int, int, int]]) -> None:
    score, weak, strong = columns(rows)
    curve = cq.cost_quality(score, weak, strong, weak_cost=1.0, strong_cost=np.arange(len(rows)) + 2.0)
    for cut in {*score, math.inf}:
        goes_strong = score >= cut
        k = int(goes_strong.sum())
        costs = np.where(goes_strong, np.arange(len(rows)) + 2.0, 1.0)
        assert curve.quality[k] == pytest.approx(np.where(goes_strong, strong, weak).mean())
        assert curve.cost[k] == pytest.approx(costs.mean())
        assert curve.strong_share[k] == pytest.approx(k / len(rows))


@given(requests)
def test_a_router_that_knows_nothing_recovers_half(rows: list[tuple[int, int, int]]) -> None:
    _, weak, strong = columns(rows)
    assume(strong.mean() > weak.mean())
    curve = cq.cost_quality(np.zeros(len(rows)), weak, strong)
    assert cq.apgr(curve) == pytest.approx(0.5)
    assert cq.cpt(curve, 0.5) == pytest.approx(math.ceil(len(rows) / 2) / len(rows))


def test_a_router_that_knows_all_calls_the_strong_model_only_where_it_helps() -> None:
    weak = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1.0])
    strong = np.ones(10)
    curve = cq.cost_quality(strong - weak, weak, strong)
    assert cq.cpt(curve, 0.5) == pytest.approx(0.1)
    assert cq.cpt(curve, 0.8) == pytest.approx(0.2)
    assert cq.apgr(curve) == pytest.approx(0.9)
    assert cq.saving_at(curve, 0.95) == pytest.approx(0.8)
    assert cq.saving_at(curve, 0.8) == pytest.approx(1.0)


def test_saving_counts_what_the_weak_model_costs() -> None:
    weak, strong = np.array([1.0, 0.0]), np.ones(2)
    curve = cq.cost_quality(strong - weak, weak, strong, weak_cost=0.2, strong_cost=1.0)
    assert cq.saving_at(curve, 1.0) == pytest.approx(0.4)


def test_without_a_gap_nothing_can_be_recovered() -> None:
    same = np.array([1.0, 0.0])
    curve = cq.cost_quality(np.array([0.1, 0.2]), same, same)
    assert math.isnan(cq.apgr(curve))
    assert math.isnan(cq.cpt(curve, 0.5))


@given(requests)
def test_resampled_apgr_equals_apgr_of_the_drawn_requests(rows: list[tuple[int, int, int]]) -> None:
    score, weak, strong = columns(rows)
    weights = np.random.default_rng(len(rows)).integers(0, 3, (4, len(rows))).astype(float)
    weights[:, 0] += 1
    for row, value in zip(weights, cq.apgr_of(score, weak, strong)(weights), strict=True):
        drawn = np.repeat(np.arange(len(rows)), row.astype(int))
        expected = cq.apgr(cq.cost_quality(score[drawn], weak[drawn], strong[drawn]))
        assert value == pytest.approx(expected, nan_ok=True)


def test_a_paired_interval_is_narrower_than_its_two_sides() -> None:
    random = np.random.default_rng(8)
    need = random.random(400)
    weak = (random.random(400) > need).astype(float)
    strong = (random.random(400) > need / 4).astype(float)
    good, close = cq.apgr_of(need, weak, strong), cq.apgr_of(need + random.normal(0, 0.05, 400), weak, strong)
    alone = bootstrap(good, 400)
    paired = bootstrap(lambda weights: good(weights) - close(weights), 400)
    assert alone.low > 0.5
    assert paired.high - paired.low < alone.high - alone.low
