import numpy as np

from extproc.lab.train.splits import folds_of, groups_of, places
from extproc.routing.lexical_features import lexical

TEXTS = [
    "please cancel my subscription and refund the last payment",
    "Please cancel my subscription, and refund the last payment!",
    "please cancel my subscription and refund the last payments",
    "what is the weather in lisbon tomorrow",
    "",
    "?",
]


def test_near_duplicates_share_a_group_and_others_do_not() -> None:
    groups = groups_of(lexical(TEXTS))
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] != groups[0]


def test_a_group_stands_in_one_place_wherever_its_rows_are_in_the_file() -> None:
    groups = groups_of(lexical(TEXTS))
    found = places(TEXTS, groups, seed=1)
    assert found[0] == found[1] == found[2]
    order = [3, 2, 0, 1, 4, 5]
    moved = [TEXTS[row] for row in order]
    np.testing.assert_array_equal(places(moved, groups_of(lexical(moved)), seed=1)[:4], found[order][:4])


def test_places_are_uniform_and_follow_the_seed() -> None:
    texts = [f"text {number}" for number in range(2000)]
    alone = np.arange(2000)
    first, second = places(texts, alone, 0), places(texts, alone, 1)
    assert abs((first < 0.3).mean() - 0.3) < 0.04
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_every_route_with_enough_groups_is_on_both_sides_of_every_fold() -> None:
    labels = np.repeat([0, 1, 2], [5, 7, 30])
    groups = np.arange(42)
    folds = folds_of(places([str(row) for row in range(42)], groups, 0), labels, groups, 5)
    for route in range(3):
        assert set(folds[labels == route].tolist()) == set(range(5))


def test_folds_keep_groups_together() -> None:
    groups = np.array([0, 0, 2, 3, 3, 5, 6, 7])
    folds = folds_of(places(list("abcdefgh"), groups, 0), np.zeros(8, np.intp), groups, 3)
    assert folds[0] == folds[1]
    assert folds[3] == folds[4]
