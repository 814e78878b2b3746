"""RouterArena's score, on numbers that are known."""

import numpy as np
import pytest

from extproc.lab.datasets import ArenaRow
from extproc.lab.measure.arena_score import arena_score, cost_score, measure_arena

ROWS = [
    ArenaRow("a", {"small": 1.0, "large": 1.0}, {"small": 0.0001, "large": 0.01}),
    ArenaRow("b", {"small": 0.0, "large": 1.0}, {"small": 0.0001, "large": 0.01}),
]


def test_cost_is_worth_one_where_it_is_cheap_and_nothing_where_it_is_dear_by_its_logarithm() -> None:
    assert cost_score(np.array([0.001, 0.0044, 200.0, 900.0])).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert cost_score((0.0044 * 200.0) ** 0.5) == pytest.approx(0.5)


def test_the_score_is_a_mean_of_accuracy_and_cheapness_in_which_accuracy_weighs_most() -> None:
    assert arena_score(0.8, 0.0044) == pytest.approx(1.1 * 0.8 / (0.1 * 0.8 + 1))
    assert arena_score(0.8, 200.0) == 0.0
    assert arena_score(0.0, 200.0) == 0.0


def test_scores_that_the_leaderboard_published_are_reproduced() -> None:
    assert arena_score(0.7167, 0.311) == pytest.approx(0.7046, abs=1e-4)
    assert arena_score(0.6841, 0.29) == pytest.approx(0.6765, abs=2e-4)


def test_the_router_stands_beside_the_oracle_and_each_model_and_every_call_is_charged() -> None:
    figures, chosen = measure_arena(ROWS, ("small", "large"), [["small"], ["small", "large"]])
    by_name = {each.name: each for each in figures}
    assert list(by_name) == ["router", "oracle", "small", "large"]
    assert (by_name["router"].accuracy, by_name["router"].dollars) == (1.0, pytest.approx(5.1))
    assert (by_name["oracle"].accuracy, by_name["oracle"].dollars) == (1.0, pytest.approx(5.05))
    assert by_name["small"].accuracy == 0.5
    assert by_name["router"].score.value == pytest.approx(float(arena_score(1.0, 5.1)))
    assert chosen == {"small": 0.5, "large": 0.5}


def test_a_prompt_that_is_denied_scores_and_costs_nothing() -> None:
    figures, chosen = measure_arena(ROWS, ("small", "large"), [["small"], []])
    assert (figures[0].accuracy, figures[0].dollars) == (0.5, pytest.approx(0.05))
    assert chosen == {"small": 0.5}
