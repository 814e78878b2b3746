"""A trained head beside the default scorer, in a small world of vectors."""

import msgspec
import numpy as np
import pytest

from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.train.default_comparison import Comparison
from extproc.lab.train.floors import Costs
from extproc.lab.train.route_artefacts import TrainOptions, learn
from extproc.lab.train.route_training import Corpus, corpus, train
from extproc.routing.scorers import fit_centroids

WIDTH = 16
ROUTES = ("billing", "coding", "smalltalk")


def quiet(_: str) -> None:
    """No progress in tests."""


def world(per_route: int, *, spread: float, inner_spread: float, strangers: int = 0, seed: int = 0) -> Corpus:
    """Vectors and inner layers around a centre a route; the default scorer reads the vectors alone."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(2, 4, WIDTH))
    labels = np.array([*np.repeat(np.arange(3), per_route), *[ABSTAIN] * strangers], np.intp)
    parts = []
    for centre, noise in zip(centres, (spread, inner_spread), strict=True):
        rows = centre[labels] + noise * random.normal(size=(len(labels), WIDTH))
        parts.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    texts = [f"w{random.integers(10_000)} w{random.integers(10_000)} {row}" for row in range(len(labels))]
    rows = corpus(texts, labels, ROUTES, np.hstack(parts).astype(np.float32), WIDTH)
    return msgspec.structs.replace(rows, examples=np.flatnonzero(labels != ABSTAIN))


def compared(rows: Corpus, scorer: str, costs: Costs = Costs()) -> Comparison:  # noqa: B008 frozen
    outcome = train(rows, costs=costs, seed=0, scorer=scorer, progress=quiet, default=fit_centroids)
    assert outcome.comparison is not None
    return outcome.comparison


def test_a_head_that_reads_what_the_default_does_not_is_better() -> None:
    found = compared(world(30, spread=1.5, inner_spread=0.3), "linear")
    assert found.better
    assert found.right.lead.low > 0
    assert found.cost.lead.low > 0
    lead = found.right.trained.value - found.right.default.value
    assert found.right.lead.value == pytest.approx(lead)


def test_a_head_that_reads_the_same_is_not_better() -> None:
    found = compared(world(20, spread=1.5, inner_spread=50.0), "centroid")
    assert not found.better
    assert found.right.lead.low <= 0


def test_rows_in_scope_stand_for_strangers_where_few_are_known() -> None:
    few = compared(world(10, spread=0.4, inner_spread=0.4, strangers=5), "linear")
    many = compared(world(10, spread=0.4, inner_spread=0.4, strangers=60), "linear")
    assert (few.rows, few.strangers, few.made) == (30, 5, True)
    assert (many.rows, many.strangers, many.made) == (30, 60, False)


def test_the_operators_costs_decide() -> None:
    rows = world(10, spread=0.8, inner_spread=0.8)
    cheap, dear = (compared(rows, "linear", Costs(abstained=abstained)) for abstained in (0.1, 10.0))
    assert dear.cost.default.value > 5 * cheap.cost.default.value
    assert dear.right.default == cheap.right.default


def test_a_registry_without_examples_of_a_route_decides_nothing_to_compare_with() -> None:
    rows = world(10, spread=0.4, inner_spread=0.4)
    rows = msgspec.structs.replace(rows, examples=np.flatnonzero(rows.labels != 1))
    outcome = train(rows, seed=0, scorer="centroid", progress=quiet, default=fit_centroids)
    assert outcome.comparison is None


def test_a_single_example_a_route_is_compared_on_the_other_rows() -> None:
    rows = world(10, spread=0.4, inner_spread=0.4)
    rows = msgspec.structs.replace(rows, examples=np.array([0, 10, 20]))
    assert compared(rows, "linear").rows == 27


def test_a_head_that_was_asked_for_by_name_is_written_all_the_same() -> None:
    rows = world(20, spread=1.5, inner_spread=50.0)
    options = TrainOptions(default=fit_centroids)
    kinds = {
        name: learn(rows, "encoder", msgspec.structs.replace(options, **changed), quiet)[0].kind
        for name, changed in {
            "auto": {},
            "named": {"scorer": "centroid"},
            "target": {"target_wrong": 0.05},
        }.items()
    }
    assert kinds["auto"] == "default"
    assert kinds["named"] == "centroid"
    assert kinds["target"] != "default"


def test_of_fewer_than_five_rows_a_route_no_head_is_called_better() -> None:
    found = compared(world(4, spread=1.5, inner_spread=0.1), "linear")
    assert found.few
    assert not found.better
