import numpy as np
import pytest

from extproc.lab.measure.classification_metrics import auroc
from extproc.lab.train.floors import Floors, choose_floors, fit_scope, kept
from extproc.routing.calibration import Calibration


def world(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Errors in scope have a low margin, strangers a low similarity but any margin."""
    random = np.random.default_rng(seed)
    inside = random.random(rows) < 0.8
    margin = random.random(rows)
    right = inside & (random.random(rows) < 0.5 + margin / 2)
    similarity = np.where(inside, random.uniform(0.4, 1.0, rows), random.uniform(0.0, 0.6, rows))
    return margin, similarity, right, inside


@pytest.mark.parametrize("target", [0.02, 0.1])
def test_no_more_is_wrong_than_asked_for_also_on_new_rows(target: float) -> None:
    selected = choose_floors(*world(20_000), target)
    assert selected.wrong <= target
    margin, similarity, right, _ = world(20_000, seed=1)
    passed = kept(margin, similarity, selected.floors)
    assert (~right[passed]).mean() == pytest.approx(target, abs=0.02)
    assert passed.mean() == pytest.approx(selected.coverage, abs=0.02)


def test_both_floors_together_keep_more_than_either_alone() -> None:
    margin, similarity, right, inside = world(20_000)
    both = choose_floors(margin, similarity, right, inside, 0.1)
    alone = choose_floors(margin, np.ones_like(similarity), right, inside, 0.1)
    assert both.floors.similarity > 0.3
    assert both.floors.margin > 0.1
    assert both.coverage > alone.coverage + 0.05


def test_without_strangers_the_similarity_floor_keeps_nearly_every_row() -> None:
    margin, similarity, right, inside = (column[:1000] for column in world(2000))
    known = inside
    selected = choose_floors(margin[known], similarity[known], right[known], inside[known], 1.0)
    assert (similarity[known] >= selected.floors.similarity).mean() == pytest.approx(0.99, abs=0.005)
    assert selected.floors.margin < 0.01


def test_a_target_out_of_reach_gives_the_least_wrong() -> None:
    margin = np.array([0.9, 0.8, 0.1])
    selected = choose_floors(
        margin, np.ones(3), np.array([False, True, False]), np.array([True, True, False]), 0.0
    )
    assert selected.floors == Floors(0.8, 0.0)
    assert selected.wrong == 0.5


def test_scope_uses_what_either_signal_misses() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(2000, 5)).astype(np.float32)
    logits[:1000, 0] += 6
    logits[1000:1500, 0] += 6  # strangers that look like a route, but are far from its examples
    similarity = np.concatenate(
        [random.normal(0.7, 0.1, 1000), random.normal(0.3, 0.1, 500), random.normal(0.7, 0.1, 500)]
    )
    scope = fit_scope(logits[:1000], similarity[:1000], Calibration(1.0))
    score = scope.score(logits, similarity)
    assert auroc(score[:1000], score[1000:]) > 0.95
    assert auroc(similarity[:1000], similarity[1000:]) < 0.8
    assert score[:1000].mean() == pytest.approx(0.0, abs=1e-6)
