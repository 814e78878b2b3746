import numpy as np
import pytest

from extproc.lab.train.floors import Aim, Costs, Floors, ScoredRows, choose_floors, kept, moved, row_costs

DEFAULT = Floors(0.1, 0.5)
NONE_MADE = ScoredRows(np.zeros(0), np.zeros(0), np.zeros(0, bool), np.zeros(0, bool))


def world(rows: int, seed: int = 0, inside_share: float = 0.8) -> ScoredRows:
    """Errors in scope have a low margin, strangers a low P(in scope) but any margin."""
    random = np.random.default_rng(seed)
    inside = random.random(rows) < inside_share
    margin = random.random(rows)
    right = inside & (random.random(rows) > 0.3 * (1 - margin) ** 3)
    in_scope = np.where(inside, random.uniform(0.5, 1.0, rows), random.uniform(0.0, 0.55, rows))
    return ScoredRows(margin, in_scope, right, inside)


def passing(rows: ScoredRows, floors: Floors) -> np.ndarray:
    return kept(rows.margin, rows.in_scope, floors)


def some(rows: ScoredRows, chosen: np.ndarray) -> ScoredRows:
    return ScoredRows(rows.margin[chosen], rows.in_scope[chosen], rows.right[chosen], rows.inside[chosen])


def cost(rows: ScoredRows, floors: Floors, costs: Costs) -> float:
    return float(row_costs(passing(rows, floors), rows.right, rows.inside, costs).mean())


@pytest.mark.parametrize("target", [0.02, 0.04])
def test_about_as_much_is_wrong_as_asked_for_also_on_new_rows(target: float) -> None:
    selected = choose_floors(world(20_000), NONE_MADE, Aim(target_wrong=target), Floors(0.3, 0.6))
    assert selected.wrong == pytest.approx(target, abs=0.01)
    fresh = world(20_000, seed=1)
    passed = passing(fresh, selected.floors)
    assert (~fresh.right[passed]).mean() == pytest.approx(target, abs=0.02)
    assert passed.mean() == pytest.approx(selected.coverage, abs=0.02)


def test_both_floors_together_cost_less_than_either_alone() -> None:
    rows, aim = world(20_000), Aim(Costs(wrong=8.0))
    both = choose_floors(rows, NONE_MADE, aim, DEFAULT).floors
    assert both.in_scope > 0.4
    assert both.margin > 0.1
    for alone in (Floors(both.margin, 0.0), Floors(0.0, both.in_scope)):
        assert cost(rows, both, aim.costs) < cost(rows, alone, aim.costs) - 0.005


@pytest.mark.parametrize("costs", [Costs(), Costs(wrong=5.0), Costs(stranger=0.5)])
def test_floors_cost_less_on_new_rows_than_the_default_ones(costs: Costs) -> None:
    strict, lax = Floors(0.4, 0.7), Floors(0.0, 0.1)
    fresh = world(20_000, seed=1)
    for default in (strict, lax):
        found = choose_floors(world(20_000), NONE_MADE, Aim(costs), default)
        assert found.learnt
        assert cost(fresh, found.floors, costs) < cost(fresh, moved(default, costs), costs)


def test_what_costs_more_is_done_less() -> None:
    rows = world(20_000)

    def floors(costs: Costs) -> Floors:
        return choose_floors(rows, NONE_MADE, Aim(costs), DEFAULT).floors

    assert floors(Costs(wrong=8.0)).margin > floors(Costs()).margin + 0.1
    assert floors(Costs(stranger=8.0)).in_scope > floors(Costs(stranger=0.2)).in_scope + 0.05


def test_few_rows_follow_costs_by_the_default_floors_alone() -> None:
    rows = some(world(40, inside_share=1.0), np.arange(40))
    assert choose_floors(rows, NONE_MADE, Aim(), DEFAULT).floors == DEFAULT
    dear = choose_floors(rows, NONE_MADE, Aim(Costs(stranger=8.0)), DEFAULT).floors
    assert dear.in_scope == pytest.approx(0.8)  # four times the odds
    assert dear.margin == DEFAULT.margin
    assert moved(DEFAULT, Costs(wrong=4.0)).margin == pytest.approx(0.55)
    assert moved(DEFAULT, Costs(wrong=0.1)).margin == 0.0


def test_without_known_strangers_the_made_ones_are_kept_out() -> None:
    """The floor was a low quantile of the rows in scope, and let through whoever was a little like them."""
    rows = world(3000)
    known, made = some(rows, rows.inside), some(rows, ~rows.inside)
    for aim in (Aim(), Aim(target_wrong=0.1)):
        floors = choose_floors(known, made, aim, DEFAULT).floors
        assert passing(made, floors).mean() < 0.3
        assert passing(known, floors).mean() > 0.5


def test_the_fewer_strangers_are_known_the_nearer_are_the_floors_to_the_default_ones() -> None:
    rows = world(20_000)
    distances = []
    for strangers in (60, 300, 3000):
        chosen = np.concatenate([np.flatnonzero(rows.inside), np.flatnonzero(~rows.inside)[:strangers]])
        floors = choose_floors(some(rows, chosen), NONE_MADE, Aim(), Floors(0.1, 0.75)).floors
        distances.append(0.75 - floors.in_scope)
    assert 0 < distances[0] < distances[1] < distances[2]


def test_few_strangers_count_as_the_share_of_traffic_that_they_usually_are() -> None:
    rows = world(20_000)
    few = some(rows, np.concatenate([np.flatnonzero(rows.inside), np.flatnonzero(~rows.inside)[:400]]))
    selected = choose_floors(few, NONE_MADE, Aim(), DEFAULT)
    assert selected.wrong > (~few.right[passing(few, selected.floors)]).mean()


def test_learnt_floors_that_cost_more_give_way_to_the_default() -> None:
    """On this few strangers the best floors are drawn back so far that they lie between two good places."""
    margin = np.concatenate([np.full(200, 0.5), np.linspace(0.4, 0.6, 60)])
    in_scope = np.concatenate([np.full(200, 0.9), np.full(60, 0.1)])
    inside = np.arange(260) < 200
    found = choose_floors(ScoredRows(margin, in_scope, inside, inside), NONE_MADE, Aim(), DEFAULT)
    assert (found.floors, found.learnt) == (DEFAULT, False)
    assert found.coverage == pytest.approx(200 / 260)


def test_learnt_floors_that_keep_fewer_than_half_of_the_rows_in_scope_are_refused() -> None:
    rows = world(4000)
    wrong = ScoredRows(rows.margin, rows.in_scope, rows.right & (rows.margin > 0.9), rows.inside)
    default = Floors(0.0, 0.3)
    found = choose_floors(wrong, NONE_MADE, Aim(target_wrong=0.01), default)
    assert (found.floors, found.learnt) == (default, False)
    assert found.wrong > 0.5
