import numpy as np
import pytest

from extproc.lab.train.floors import Floors, choose_floors, kept


def world(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Errors in scope have a low margin, strangers a low P(in scope) but any margin."""
    random = np.random.default_rng(seed)
    inside = random.random(rows) < 0.8
    margin = random.random(rows)
    right = inside & (random.random(rows) < 0.5 + margin / 2)
    in_scope = np.where(inside, random.uniform(0.4, 1.0, rows), random.uniform(0.0, 0.6, rows))
    return margin, in_scope, right, inside


@pytest.mark.parametrize("target", [0.02, 0.1])
def test_no_more_is_wrong_than_asked_for_also_on_new_rows(target: float) -> None:
    selected = choose_floors(*world(20_000), target)
    assert selected.wrong <= target
    margin, in_scope, right, _ = world(20_000, seed=1)
    passed = kept(margin, in_scope, selected.floors)
    assert (~right[passed]).mean() == pytest.approx(target, abs=0.02)
    assert passed.mean() == pytest.approx(selected.coverage, abs=0.02)


def test_both_floors_together_keep_more_than_either_alone() -> None:
    margin, in_scope, right, inside = world(20_000)
    both = choose_floors(margin, in_scope, right, inside, 0.1)
    alone = choose_floors(margin, np.ones_like(in_scope), right, inside, 0.1)
    assert both.floors.in_scope > 0.3
    assert both.floors.margin > 0.1
    assert both.coverage > alone.coverage + 0.05


def test_without_strangers_the_floor_on_scope_keeps_nearly_every_row() -> None:
    margin, in_scope, right, inside = (column[:1000] for column in world(2000))
    known = inside
    selected = choose_floors(margin[known], in_scope[known], right[known], inside[known], 1.0)
    assert (in_scope[known] >= selected.floors.in_scope).mean() == pytest.approx(0.99, abs=0.005)
    assert selected.floors.margin < 0.01


def test_a_target_out_of_reach_gives_the_least_wrong() -> None:
    margin = np.array([0.9, 0.8, 0.1])
    selected = choose_floors(
        margin, np.ones(3), np.array([False, True, False]), np.array([True, True, False]), 0.0
    )
    assert selected.floors == Floors(0.8, 0.0)
    assert selected.wrong == 0.5
