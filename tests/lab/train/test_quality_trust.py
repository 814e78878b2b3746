"""The trust in predicted quality where whole kinds of prompts are left out, in a small world."""

import numpy as np

from extproc.lab.datasets import OutcomeRow
from extproc.lab.train.quality_fitting import Answers, answers_of, fit_quality
from extproc.lab.train.quality_trust import kinds_of, known_prompts
from extproc.routing.predicted_quality import sigmoid

DIMENSIONS, KINDS, EACH = 16, 6, 60


def world(*, shared: bool) -> Answers:
    """Kinds of prompts around orthogonal vectors. Half of each kind is hard for `weak`, on one axis.

    ``shared``: the same end of the axis is the hard one in every kind. Else it is the other end in every second
    kind, so that the other kinds say nothing.
    """
    random = np.random.default_rng(0)
    kinds = np.repeat(np.arange(KINDS), EACH)
    vectors = np.eye(DIMENSIONS)[kinds] + random.normal(scale=0.05, size=(len(kinds), DIMENSIONS))
    end = np.where(random.random(len(kinds)) < 0.5, 1.0, -1.0)
    vectors[:, -1] = 0.7 * end
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hard = end > 0 if shared else end * np.where(kinds % 2, 1, -1) > 0
    rows = [
        OutcomeRow(
            f"{random.integers(10**9)}",
            {"weak": float(random.random() < (0.15 if bad else 0.85)), "strong": 0.9},
            set=f"set {kind}",
        )
        for bad, kind in zip(hard, kinds, strict=True)
    ]
    return answers_of(rows, ("weak", "strong"), vectors.astype(np.float32), DIMENSIONS)


def test_a_head_that_is_right_on_kinds_that_were_left_out_is_trusted_near_its_training() -> None:
    answers = world(shared=True)
    familiarity = fit_quality(answers, seed=0).quality.familiarity
    assert familiarity.most == 1.0
    near = familiarity.similarity(answers.inputs.vectors)
    assert familiarity.trust(near).min() == 1.0


def test_a_head_that_is_no_better_than_length_on_kinds_that_were_left_out_is_not_served() -> None:
    answers = world(shared=False)
    fitted = fit_quality(answers, seed=0)
    assert fitted.quality.familiarity.most == 0.0
    predicted = fitted.quality.predict(answers.inputs, answers.looks)
    assert np.ptp(predicted[:, 1]) < 0.1
    assert abs(float(predicted[:, 0].mean()) - np.nanmean(answers.scores[:, 0])) < 0.05


def test_a_prompt_unlike_all_of_training_gets_each_models_mean() -> None:
    answers = world(shared=True)
    quality = fit_quality(answers, seed=0).quality
    strange = np.zeros((2, DIMENSIONS), np.float32)
    strange[:, KINDS] = 1.0
    inputs = answers.take(np.arange(2)).inputs
    far = answers_of(
        [OutcomeRow(text, {"weak": 1.0}) for text in answers.texts[:2]],
        ("weak", "strong"),
        strange,
        DIMENSIONS,
    )
    assert inputs.vectors.shape == far.inputs.vectors.shape
    assert quality.familiarity.trust(quality.familiarity.similarity(strange)).max() == 0.0
    predicted = quality.predict(far.inputs, far.looks)
    np.testing.assert_allclose(predicted[:, 0], np.nanmean(answers.scores[:, 0]), atol=0.1)


def test_the_length_of_a_prompt_has_its_say_where_it_predicts_better_than_the_mean() -> None:
    random = np.random.default_rng(1)
    lengths = random.integers(1, 200, size=400)
    rows = [
        OutcomeRow("x" * int(count), {"weak": float(random.random() > count / 200), "strong": 1.0})
        for count in lengths
    ]
    vectors = random.normal(size=(400, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    familiarity = fit_quality(
        answers_of(rows, ("weak", "strong"), vectors, DIMENSIONS), seed=0
    ).quality.familiarity
    assert familiarity.slope[0] < -0.5
    plain = sigmoid(np.array([-1.0, 1.0]) * familiarity.slope[0] + familiarity.bias[0])
    assert plain[0] > plain[1]


def test_the_kinds_are_the_sets_that_rows_name_and_else_clusters() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    kinds, names = kinds_of(["b", "a"] * 20, vectors, 0)
    assert names == ("a", "b")
    assert kinds[:2].tolist() == [1, 0]
    clusters, unnamed = kinds_of([""] * 40, vectors, 0)
    assert unnamed == ()
    for start in range(0, 40, 10):
        assert len(set(clusters[start : start + 10].tolist())) == 1
    assert (clusters == kinds_of([""] * 40, vectors, 0)[0]).all()


def test_an_artefact_keeps_a_bounded_number_of_prompts() -> None:
    vectors = np.ones((5000, 4), np.float32)
    assert known_prompts(vectors, np.arange(5000.0)).shape == (2000, 4)
