"""Fitting predicted quality: on a small world in which it is known what makes a prompt hard."""

import numpy as np
import pytest

from extproc.errors import OperatorError
from extproc.lab.datasets import OutcomeRow
from extproc.lab.measure.classification_metrics import debiased_ece
from extproc.lab.measure.cost_quality import apgr, cost_quality
from extproc.lab.train.quality_fitting import (
    Answers,
    answers_of,
    cross_predict,
    data_hash,
    fit_quality,
    folds_by_text,
)
from extproc.routing.scorers import Matrix

DIMENSIONS = 8


def world(rows: int, seed: int = 0, newcomer: int = 0) -> Answers:
    """Prompts along one direction are hard for `weak`, and only a little for `strong`.

    ``newcomer`` prompts also have an answer of `new`, which is as good as `strong`.
    """
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hard = vectors[:, 0] * np.sqrt(DIMENSIONS)
    weak = random.random(rows) < 1 / (1 + np.exp(2.5 * hard - 0.5))
    strong = random.random(rows) < 1 / (1 + np.exp(0.5 * hard - 1.5))
    new = random.random(rows) < 1 / (1 + np.exp(0.5 * hard - 1.5))
    made = []
    for i in range(rows):
        outcomes = {"weak": float(weak[i]), "strong": float(strong[i])}
        if i < newcomer:
            outcomes["new"] = float(new[i])
        tokens = {"weak": 50 + 10 * (i % 3)} if i % 2 else {}
        made.append(OutcomeRow(f"{random.integers(10**9)} {'ab'[i % 2]}", outcomes, tokens))
    models = ("weak", "strong", "new") if newcomer else ("weak", "strong")
    return answers_of(made, models, vectors, DIMENSIONS)


def gain_apgr(predicted: np.ndarray, answers: Answers) -> float:
    gain = predicted[:, 1] - predicted[:, 0]
    return apgr(cost_quality(gain, answers.scores[:, 0], answers.scores[:, 1]))


def test_what_makes_a_prompt_hard_is_found_and_said_of_rows_not_seen() -> None:
    answers = world(500)
    fitted = fit_quality(answers, seed=0)
    assert gain_apgr(fitted.held, answers) > 0.65
    later = world(500, seed=1)
    predicted = fitted.quality.predict(later.inputs, later.looks).astype(np.float64)
    assert gain_apgr(predicted, later) > 0.65
    for model in (0, 1):
        assert debiased_ece(predicted[:, model], later.scores[:, model] > 0.5) < 0.08


def test_on_noise_held_out_predictions_are_worth_no_more_than_chance() -> None:
    answers = world(150)
    shuffled = np.random.default_rng(1).permutation(answers.scores)
    noise = Answers(
        answers.texts, answers.inputs, answers.looks, answers.models, shuffled, answers.tokens, answers.sets
    )
    assert abs(gain_apgr(cross_predict(noise, seed=0), noise) - 0.5) < 0.2


def test_a_model_that_joins_with_few_labels_is_predicted_as_the_others_at_its_own_level() -> None:
    answers = world(300, newcomer=12)
    later = world(500, seed=1, newcomer=500)
    predicted = fit_quality(answers, seed=0).quality.predict(later.inputs, later.looks)[:, 2]
    right = later.scores[:, 2] > 0.5
    assert np.corrcoef(predicted, right)[0, 1] > 0.1
    assert abs(float(predicted.mean()) - float(right.mean())) < 0.12


def test_equal_rows_and_seed_fit_equal_weights() -> None:
    one, two = (fit_quality(world(120), seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.quality.weights, two.quality.weights)
    np.testing.assert_array_equal(one.held, two.held)


def test_lengths_are_known_of_models_that_told_tokens_and_of_no_other() -> None:
    answers = world(120)
    lengths = fit_quality(answers, seed=0).quality.lengths(answers.inputs, answers.looks)
    assert np.isnan(lengths[:, 1]).all()
    assert 50 < float(np.median(lengths[:, 0])) < 71


def test_near_duplicates_are_in_one_fold_and_folds_are_level() -> None:
    texts = [f"how many apples has tree number {i} in the garden of the old king" for i in range(3)]
    texts += [f"{i * 7919} {chr(97 + i % 26) * 9} {i * 104729}" for i in range(197)]
    rows = [OutcomeRow(text, {"a": 1.0}) for text in texts]
    vectors: Matrix = np.eye(len(rows), DIMENSIONS, dtype=np.float32)
    folds = folds_by_text(answers_of(rows, ("a",), vectors, DIMENSIONS), 0, 5)
    assert len(set(folds[:3].tolist())) == 1
    assert np.ptp(np.bincount(folds, minlength=5)) <= 3


def test_the_hash_follows_the_rows_and_not_their_order() -> None:
    answers = world(40)
    order = np.arange(40)[::-1].copy()
    assert data_hash(answers) == data_hash(answers.take(order))
    assert data_hash(answers) != data_hash(answers.take(order[1:]))


def test_too_few_texts_and_a_model_without_answers_are_told() -> None:
    with pytest.raises(OperatorError, match="19 texts with outcomes are too few"):
        fit_quality(world(19), seed=0)
    silent = world(40).scores.copy()
    silent[:, 1] = np.nan
    some = world(40)
    with pytest.raises(OperatorError, match="no row has an outcome of the model `strong`"):
        fit_quality(
            Answers(some.texts, some.inputs, some.looks, some.models, silent, some.tokens, some.sets), seed=0
        )
