"""Models that are no better than cheaper ones, on tables of which it is known."""

import numpy as np

from extproc.lab.measure.dominance import (
    CandidatePool,
    by_name,
    by_place,
    dominated_in,
    dominators,
    matched_of,
)

MODELS = ("small", "mid", "large")
COSTS = np.tile([1.0, 2.0, 10.0], (600, 1))
RANDOM = np.random.default_rng(0)
FAILS = RANDOM.random(600)
# `mid` is as good as `small` on other rows, `large` is better.
SCORES = np.stack([FAILS > 0.4, RANDOM.random(600) > 0.42, FAILS > 0.1], axis=1).astype(np.float64)
BLIND = np.tile([0.6, 0.6, 0.9], (600, 1))


def test_a_model_that_is_no_better_than_a_cheaper_one_is_dominated_and_a_better_one_is_not() -> None:
    found = dominated_in(MODELS, MODELS, SCORES, COSTS, matched_of(BLIND, SCORES))
    assert [(each.model, each.by) for each in found] == [("mid", "small")]
    assert found[0].lead.low < found[0].lead.value <= 0
    assert CandidatePool(("chat",), MODELS, tuple(found)).kept == ("small", "large")


def test_a_model_that_surely_gains_where_it_is_predicted_to_be_better_is_not_dominated() -> None:
    fails = np.arange(600) % 2 == 0
    scores = np.stack([~fails, fails & (np.arange(600) % 10 != 0)], axis=1).astype(np.float64)
    assert matched_of(np.tile([0.5, 0.5], (600, 1)), scores)[1, 0]
    assert not matched_of(scores, scores)[1, 0]


def test_few_rows_dominate_no_model() -> None:
    few = SCORES[:20, :2]
    few[:, 1] = few[:, 0]
    few[0, 1], few[1, 1] = 1 - few[0, 1], 1 - few[1, 1]
    assert not matched_of(BLIND[:20, :2], few).any()


def test_a_model_of_another_pool_dominates_none() -> None:
    matched = matched_of(BLIND, SCORES)
    assert dominated_in(("mid", "large"), MODELS, SCORES, COSTS, matched) == []
    assert dominated_in(("mid", "unknown"), MODELS, SCORES, COSTS, matched) == []


def test_a_dearer_model_dominates_none_however_good() -> None:
    matched = np.zeros((2, 2), bool)
    matched[0, 1] = True
    assert not dominators(np.array([1.0, 2.0]), matched).any()
    assert dominators(np.array([2.0, 1.0]), matched)[0, 1]


def test_names_and_places_are_each_others_inverse() -> None:
    matched = matched_of(BLIND, SCORES)
    np.testing.assert_array_equal(by_place(MODELS, by_name(MODELS, matched)), matched)
