"""Training in a small world: vectors drawn around a few centres, texts that say which."""

import msgspec
import numpy as np
import pytest

from extproc.errors import OperatorError
from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.train.example_copies import Copies
from extproc.lab.train.held_out_scores import decisions, in_scope
from extproc.lab.train.route_artefacts import TrainOptions, learn
from extproc.lab.train.route_training import Corpus, corpus, data_hash, measure, train
from extproc.routing.scorers import fit_logistic
from extproc.routing.trained_heads import Trained
from extproc.vocabulary import Embedding

WIDTH = 16
ROUTES = ("billing", "coding", "smalltalk")
WORDS = {
    "billing": ["refund", "invoice", "card", "charge", "payment", "bank"],
    "coding": ["python", "compile", "stack", "function", "rust", "loop"],
    "smalltalk": ["hello", "joke", "morning", "thanks", "weather", "friend"],
}


def quiet(_: str) -> None:
    """No progress in tests."""


def world(per_route: int, strangers: int = 0, seed: int = 0, spread: float = 0.5) -> Corpus:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(4, WIDTH))
    labels = np.array([*np.repeat(np.arange(3), per_route), *[ABSTAIN] * strangers], np.intp)
    texts = []
    for row, label in enumerate(labels.tolist()):
        known = WORDS[ROUTES[label]] if label >= 0 else ["zebra", "quartz", "violin"]
        chosen = random.choice(known, 3).tolist()
        texts.append(" ".join([*chosen, *(f"w{n}" for n in random.integers(10_000, size=5)), str(row)]))
    rows = centres[labels] + spread * random.normal(size=(len(labels), WIDTH))
    vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    inner = random.normal(size=(len(labels), WIDTH))
    deep = np.hstack([vectors, inner / np.linalg.norm(inner, axis=1, keepdims=True)]).astype(np.float32)
    return corpus(texts, labels, ROUTES, deep, WIDTH)


@pytest.mark.parametrize(
    "scorer", ["centroid", "prototypes", "logistic", "linear", "lexical", "perceptron", "blend"]
)
def test_every_scorer_learns_and_keeps_the_target(scorer: str) -> None:
    outcome = train(world(30, 20), target_wrong=0.05, seed=0, scorer=scorer, progress=quiet)
    fresh = world(60, 40, seed=5)
    held = measure(outcome.meaning, fresh)
    probabilities = outcome.meaning.calibration.probabilities(held.logits)
    inside = held.inside
    assert (probabilities.argmax(axis=1) == held.labels)[inside].mean() > 0.9
    decided = decisions(outcome.meaning, held, outcome.selected.floors)
    kept = decided != ABSTAIN
    assert kept[inside].mean() > 0.5
    assert (decided[kept] != held.labels[kept]).mean() < 0.12


def test_serving_scores_a_text_as_training_measured_it() -> None:
    rows = world(20)
    outcome = train(rows, target_wrong=0.05, seed=0, scorer="blend", progress=quiet)
    held = measure(outcome.meaning, rows)
    probabilities = outcome.meaning.calibration.probabilities(held.logits)
    assert rows.inputs.inner is not None
    for row in range(0, 60, 7):
        embedding = Embedding(rows.inputs.vectors[row], 3, 0.0, 0.0, rows.inputs.inner[row])
        scores = outcome.meaning.score(embedding, rows.texts[row])
        assert scores.candidates[0].route == ROUTES[int(probabilities[row].argmax())]
        assert scores.probability == pytest.approx(float(probabilities[row].max()), abs=1e-4)
        assert scores.similarity == pytest.approx(float(held.likeness[row, 0]), abs=1e-5)
        assert scores.in_scope == pytest.approx(float(in_scope(outcome.meaning, held)[row]), abs=1e-4)


def with_copies(rows: Corpus, shift: float) -> Corpus:
    """Each row in scope has a copy at another place, so that a head without copies does not know them."""
    inside = np.flatnonzero(rows.labels != ABSTAIN)
    part = rows.take(inside)
    moved = part.inputs.vectors + shift * np.eye(WIDTH, dtype=np.float32)[part.labels]
    inputs = msgspec.structs.replace(part.inputs, vectors=np.ascontiguousarray(moved))
    return msgspec.structs.replace(rows, copies=Copies(inputs, inside))


def test_heads_learn_from_copies() -> None:
    """Here only the copies say which route a vector belongs to: the rows' own are noise."""
    noise = world(20, spread=50.0)
    fresh = world(20, spread=50.0, seed=7)
    of_copies = with_copies(fresh, 30.0).copies
    assert of_copies is not None
    unseen = fresh.take(of_copies.of)
    unseen = msgspec.structs.replace(unseen, inputs=of_copies.inputs)

    def right(rows: Corpus) -> float:
        outcome = train(rows, target_wrong=0.05, seed=0, scorer="linear", progress=quiet)
        return float((measure(outcome.meaning, unseen).logits.argmax(axis=1) == unseen.labels).mean())

    assert right(noise) < 0.75
    assert right(with_copies(noise, 30.0)) > 0.9


def test_copies_are_never_held_out_nor_examples() -> None:
    rows = with_copies(world(20, strangers=5), 1.0)
    outcome = train(rows, target_wrong=0.05, seed=0, scorer="linear", progress=quiet)
    assert len(outcome.held.labels) == len(rows.labels)
    assert set(outcome.meaning.texts) <= set(rows.texts)
    assert len(outcome.meaning.examples) == 60


def test_a_copy_is_fitted_only_with_its_row() -> None:
    """Copies of the held-out rows would make held-out figures too good: here labels are chance."""
    rows = world(60, spread=50.0)
    labels = np.random.default_rng(3).integers(3, size=len(rows.labels))
    rows = msgspec.structs.replace(rows, labels=labels)
    outcome = train(with_copies(rows, 0.0), target_wrong=0.05, seed=0, scorer="linear", progress=quiet)
    assert outcome.tried["linear"][0] < 0.5


def test_the_scorer_of_least_log_loss_on_held_out_rows_is_chosen() -> None:
    outcome = train(world(12), target_wrong=0.05, seed=0, scorer="auto", progress=quiet)
    assert set(outcome.tried) == {"centroid", "prototypes", "logistic", "linear", "lexical"}
    assert outcome.tried[outcome.scorer][1] == min(loss for _, loss in outcome.tried.values())


def test_progress_counts_the_fits() -> None:
    lines: list[str] = []
    train(world(12), target_wrong=0.05, seed=0, scorer="linear", progress=lines.append)
    assert lines[0] == "fitting [                    ] 0 of 5: linear on 27 rows"
    assert lines[4].startswith("fitting [################    ] 4 of 5: linear on ")
    assert lines[5] == "fitting linear on all 36 rows"


def test_scorers_that_are_never_chosen_are_not_fitted() -> None:
    def tried(per_route: int) -> set[str]:
        rows = world(per_route)
        return set(train(rows, target_wrong=0.05, seed=0, scorer="auto", progress=quiet).tried)

    assert not {"perceptron", "blend"} & tried(20)
    assert {"perceptron", "blend", "logistic"} <= tried(170)


def test_scorers_that_the_registry_could_name_are_not_tried_on_its_own_examples() -> None:
    rows = world(12)
    known = msgspec.structs.replace(rows, examples=np.arange(36))
    arrived = msgspec.structs.replace(rows, examples=np.array([0, 12, 24]))
    tried = [
        set(train(each, seed=0, scorer="auto", progress=quiet, default=fit_logistic).tried)
        for each in (known, arrived)
    ]
    assert tried == [{"linear", "lexical"}, {"centroid", "prototypes", "logistic", "linear", "lexical"}]


def test_few_rows_are_compared_with_all_others_as_serving_does() -> None:
    """Compared with the fitted rows alone they seemed farther away than requests are: floors were too low."""
    rows = world(10)
    held = train(rows, seed=0, scorer="linear", progress=quiet).held
    cosines = rows.inputs.vectors @ rows.inputs.vectors.T
    np.fill_diagonal(cosines, -1.0)
    np.testing.assert_allclose(held.likeness[:, 0], cosines.max(axis=1), atol=1e-6)


def test_what_is_fitted_on_noise_does_not_look_good_on_held_out_rows() -> None:
    noise = world(30, spread=50.0)
    noise = Corpus(tuple(f"{n} {n * 7}" for n in range(90)), noise.labels, noise.inputs, noise.routes)
    for scorer in ("linear", "perceptron"):
        outcome = train(noise, target_wrong=0.05, seed=0, scorer=scorer, progress=quiet)
        assert outcome.tried[scorer][0] < 0.6


def test_rows_set_apart_fit_nothing_and_are_measured() -> None:
    manifest, outcome, _ = learn(world(60), "encoder", TrainOptions(scorer="centroid"), quiet)
    assert manifest.metrics["measured_on"] == "test"
    assert manifest.split["test"] == manifest.metrics["rows"] > 0
    assert manifest.split["train"] + manifest.split["test"] == 180
    assert len(outcome.meaning.texts) == manifest.split["train"]


def test_few_rows_are_all_trained_on_and_measured_by_fits_without_them() -> None:
    manifest, outcome, _ = learn(world(8), "encoder", TrainOptions(scorer="linear"), quiet)
    assert manifest.metrics["measured_on"] == "cross-fitted"
    assert manifest.split["test"] == 0
    assert len(outcome.meaning.texts) == 24


def test_equal_seeds_train_equal_weights_and_others_do_not() -> None:
    def hidden(seed: int) -> np.ndarray:
        head = train(world(6), target_wrong=0.05, seed=seed, scorer="perceptron", progress=quiet).meaning.head
        assert isinstance(head, Trained)
        assert head.perceptron is not None
        return head.perceptron.hidden

    np.testing.assert_array_equal(hidden(1), hidden(1))
    assert not np.array_equal(hidden(1), hidden(2))


def test_a_route_without_rows_is_told() -> None:
    rows = world(6)
    without = rows.take(np.flatnonzero(rows.labels != 1))
    with pytest.raises(OperatorError, match="no row of the route `coding`"):
        train(without, target_wrong=0.05, seed=0, scorer="centroid", progress=quiet)


def test_the_hash_of_data_follows_its_rows_and_not_their_order() -> None:
    labels = np.array([0, 1, ABSTAIN])
    first = data_hash(["a", "b", "c"], labels, ROUTES)
    assert first == data_hash(["c", "b", "a"], labels[::-1], ROUTES)
    assert first != data_hash(["a", "b", "c"], np.array([0, 1, 2]), ROUTES)
