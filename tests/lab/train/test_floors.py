import numpy as np
import pytest

from extproc.lab.train.floors import Floors, Selected, choose_floors, kept, unless_default_is_better

DEFAULT = Floors(0.1, 0.5)


def world(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Errors in scope have a low margin, strangers a low P(in scope) but any margin."""
    random = np.random.default_rng(seed)
    inside = random.random(rows) < 0.8
    margin = random.random(rows)
    right = inside & (random.random(rows) < 0.5 + margin / 2)
    in_scope = np.where(inside, random.uniform(0.4, 1.0, rows), random.uniform(0.0, 0.6, rows))
    return margin, in_scope, right, inside


@pytest.mark.parametrize("target", [0.02, 0.1])
def test_about_as_much_is_wrong_as_asked_for_also_on_new_rows(target: float) -> None:
    selected = choose_floors(*world(20_000), target, Floors(0.9, 0.6))
    assert selected.wrong == pytest.approx(target, abs=0.01)
    margin, in_scope, right, _ = world(20_000, seed=1)
    passed = kept(margin, in_scope, selected.floors)
    assert (~right[passed]).mean() == pytest.approx(target, abs=0.02)
    assert passed.mean() == pytest.approx(selected.coverage, abs=0.02)


def test_both_floors_together_keep_more_than_either_alone() -> None:
    margin, in_scope, right, inside = world(20_000)
    both = choose_floors(margin, in_scope, right, inside, 0.1, DEFAULT)
    alone = choose_floors(margin, np.ones_like(in_scope), right, inside, 0.1, DEFAULT)
    assert both.floors.in_scope > 0.3
    assert both.floors.margin > 0.1
    assert both.coverage > alone.coverage + 0.05


def test_without_strangers_the_floor_on_scope_keeps_nearly_every_row() -> None:
    margin, in_scope, right, known = (column[:1000] for column in world(2000))
    selected = choose_floors(margin[known], in_scope[known], right[known], known[known], 1.0, DEFAULT)
    assert (in_scope[known] >= selected.floors.in_scope).mean() == pytest.approx(0.99, abs=0.005)
    assert selected.floors.margin < 0.01


def test_the_fewer_strangers_are_known_the_nearer_are_the_floors_to_the_default_ones() -> None:
    rows = world(20_000)
    distances = []
    for strangers in (60, 300, 3000):
        chosen = np.concatenate([np.flatnonzero(rows[3]), np.flatnonzero(~rows[3])[:strangers]])
        floors = choose_floors(*(column[chosen] for column in rows), 0.1, Floors(0.9, 0.9)).floors
        distances.append(0.9 - floors.in_scope)
    assert 0 < distances[0] < distances[1] < distances[2]


def test_few_strangers_count_as_the_share_of_traffic_that_they_usually_are() -> None:
    margin, in_scope, right, inside = world(20_000)
    few = np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)[:400]])
    selected = choose_floors(margin[few], in_scope[few], right[few], inside[few], 0.1, DEFAULT)
    passed = kept(margin[few], in_scope[few], selected.floors)
    assert selected.wrong > (~right[few][passed]).mean()


def test_a_target_out_of_reach_gives_the_least_wrong() -> None:
    margin = np.array([0.9, 0.8, 0.1])
    selected = choose_floors(
        margin,
        np.ones(3),
        np.array([False, True, False]),
        np.array([True, True, False]),
        0.0,
        Floors(0.8, 0.0),
    )
    assert selected.floors == Floors(0.8, 0.0)
    assert selected.wrong == 0.5


def test_learnt_floors_that_decide_fewer_rows_as_labelled_give_way_to_the_default() -> None:
    rows = world(2000)
    strict = Selected(Floors(0.9, 0.5), 0.1, 0.0)
    chosen = unless_default_is_better(strict, Floors(0.1, 0.5), *rows)
    assert (chosen.floors, chosen.learnt) == (Floors(0.1, 0.5), False)
    passed = kept(rows[0], rows[1], chosen.floors)
    assert chosen.coverage == pytest.approx(passed.mean())
    assert chosen.wrong == pytest.approx((~rows[2][passed]).mean())


def test_learnt_floors_that_decide_more_rows_as_labelled_are_kept() -> None:
    rows = world(2000)
    learnt = Selected(Floors(0.1, 0.5), 0.7, 0.2)
    assert unless_default_is_better(learnt, Floors(0.1, 0.0), *rows) is learnt


def test_learnt_floors_that_keep_fewer_than_half_of_the_rows_in_scope_are_refused() -> None:
    margin, in_scope = np.array([0.9, 0.2, 0.2]), np.ones(3)
    right, inside = np.array([True, False, False]), np.ones(3, bool)
    learnt = Selected(Floors(0.5, 0.0), 1 / 3, 0.0)
    assert not unless_default_is_better(learnt, Floors(0.0, 0.0), margin, in_scope, right, inside).learnt
