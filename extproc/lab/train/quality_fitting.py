"""Fit a ``Quality`` on texts and the scores of models' answers.

All models are fitted together. The weights of a model are a part that all models share (some prompts are hard
for every model) and its own part, which has a penalty (multi-task regularisation, Evgeniou and Pontil, 2004).
So the prediction of a model with ten labels is that of the others, shifted to its mean.
"""

import hashlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from extproc.errors import OperatorError
from extproc.lab.datasets import OutcomeRow
from extproc.lab.measure.classification_metrics import Floats, Labels
from extproc.lab.train.head_fitting import take
from extproc.lab.train.linear_fitting import fit_standard
from extproc.lab.train.quality_calibration import calibrate
from extproc.lab.train.quality_trust import (
    KINDS,
    LeftOut,
    blended,
    familiarity,
    fit_length,
    kinds_of,
    known_prompts,
)
from extproc.lab.train.splits import groups_of, places
from extproc.routing.lexical_features import lexical
from extproc.routing.predicted_quality import Quality, QualityHead, layers_of, length_of, sigmoid, surface
from extproc.routing.scorers import Matrix
from extproc.routing.trained_heads import Inputs
from extproc.vocabulary import ModelName

FOLDS = 5
INNER_FOLDS = 3  # to choose the penalty on
FEWEST = 20  # texts; held-out figures of fewer are too noisy
STEPS = 40  # of L-BFGS (Liu and Nocedal, 1989); more change no choice
COMMON_PENALTY = 10.0  # on weights that all models share; its value has little effect
PENALTIES = (3.0, 10.0, 30.0, 100.0)  # on a model's own weights; held-out rows choose one
_OFFSET_PRIOR = 1.0  # the weight, in answers, of the models' common mean in a model's bias
_LENGTH_PENALTY = 30.0

Progress = Callable[[str], None]


class Answers(msgspec.Struct, frozen=True):
    """Texts, their features, and the scores and tokens of models' answers; NaN for a model not asked."""

    texts: tuple[str, ...]
    inputs: Inputs
    looks: Matrix  # (n, surface features)
    models: tuple[str, ...]
    scores: Floats  # (n, models), 0 to 1
    tokens: Floats  # (n, models)
    sets: tuple[str, ...]  # the set that each text is of; "": not named

    def take(self, rows: NDArray[np.intp]) -> "Answers":
        """Some of the rows."""
        return Answers(
            tuple(self.texts[row] for row in rows.tolist()),
            take(self.inputs, rows),
            self.looks[rows],
            self.models,
            self.scores[rows],
            self.tokens[rows],
            tuple(self.sets[row] for row in rows.tolist()),
        )


class FittedQuality(msgspec.Struct, frozen=True):
    """A model of quality, and cross-fitted predictions: each row by a fit without it."""

    quality: Quality
    held: Floats  # (n, models), each row calibrated on other rows
    penalty: float
    apart: Floats  # (n, models), each row by a fit without its kind of prompt, as it would be served
    kinds: Labels  # of each row
    sets: tuple[str, ...]  # the kinds' names; empty: kinds are clusters


def answers_of(rows: Sequence[OutcomeRow], models: Sequence[str], deep: Matrix, width: int) -> Answers:
    """``deep`` has the rows of a ``DeepEncoder``; their first ``width`` columns are the embedding."""
    texts = tuple(row.text for row in rows)
    inner = deep[:, width:] if deep.shape[1] > width else None
    return Answers(
        texts=texts,
        inputs=Inputs(deep[:, :width], inner, lexical(texts)),
        looks=surface(texts),
        models=tuple(models),
        scores=_table([[row.outcomes.get(model) for model in models] for row in rows]),
        tokens=_table([[row.tokens.get(model) for model in models] for row in rows]),
        sets=tuple(row.set for row in rows),
    )


def fit_quality(answers: Answers, seed: int, progress: Progress = lambda line: None) -> FittedQuality:
    """Choose the penalty, fit, and calibrate on held-out rows.

    The same ``seed`` gives the same result. Raises ``OperatorError`` if there are too few rows.
    """
    _check(answers)
    folds = folds_by_text(answers, seed, FOLDS)
    design = _Design(answers, np.arange(len(answers.texts)))
    penalty = choose_penalty(design, answers, folds, progress)
    logits, similarity = np.empty(answers.scores.shape), np.empty(len(folds))
    for fold in range(FOLDS):
        progress(f"quality: fold {fold + 1} of {FOLDS}")
        seen, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        logits[out] = _logits(_fit(design.rows[seen], answers.scores[seen], penalty), design.rows[out])
        similarity[out] = _similarity(answers.inputs.vectors, seen, out)
    progress(f"quality: fitting on all {len(folds)} texts")
    weights, bias = _fit(design.rows, answers.scores, penalty)
    slope, shift = calibrate(logits, answers.scores)
    length, tokens = _fit_lengths(design.rows, answers.tokens)
    kinds, sets = kinds_of(answers.sets, answers.inputs.vectors, seed)
    left = _left_out(design, answers, kinds, penalty, (slope, shift), progress)
    shape = float(design.reading.centre[0]), float(design.reading.scale[0])
    trust = familiarity(
        left,
        answers.scores,
        known_prompts(answers.inputs.vectors, places(answers.texts, np.arange(len(folds)), seed)),
        fit_length(answers.looks, answers.scores, *shape),
    )
    held = trust.blend(
        _calibrated_by_others(logits, answers.scores, folds).astype(np.float32),
        similarity.astype(np.float32),
        length_of(answers.looks, *shape),
    )
    return FittedQuality(
        quality=Quality(
            models=tuple(map(ModelName, answers.models)),
            reading=design.reading,
            weights=(weights * slope).astype(np.float32),
            bias=(bias * slope + shift).astype(np.float32),
            mean=_means(answers.scores).astype(np.float32),
            length=length.astype(np.float32),
            tokens=tokens.astype(np.float32),
            familiarity=trust,
        ),
        held=sigmoid(held).astype(np.float64),
        penalty=penalty,
        apart=sigmoid(blended(trust, left)).astype(np.float64),
        kinds=kinds,
        sets=sets,
    )


def _left_out(
    design: "_Design",
    answers: Answers,
    kinds: Labels,
    penalty: float,
    calibration: tuple[Floats, Floats],
    progress: Progress,
) -> LeftOut:
    """Predict each kind of prompt by fits without it. ``calibration`` is the slopes and shifts."""
    slope, shift = calibration
    shape = float(design.reading.centre[0]), float(design.reading.scale[0])
    length = length_of(answers.looks, *shape).astype(np.float64)
    head, plain, base = (np.empty(answers.scores.shape) for _ in range(3))
    similarity = np.empty(len(kinds))
    folds = kinds % KINDS  # where there are many sets, several are left out together
    for fold in range(int(folds.max()) + 1):
        progress(f"quality: leaving out kinds of prompts, {fold + 1} of {folds.max() + 1}")
        seen, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        scores = answers.scores[seen]
        head[out] = _logits(_fit(design.rows[seen], scores, penalty), design.rows[out]) * slope + shift
        own_slope, own_bias = fit_length(answers.looks[seen], scores, *shape)
        plain[out] = length[out, None] * own_slope + own_bias
        base[out] = [_logit(float(mean)) for mean in _means(scores)]
        similarity[out] = _similarity(answers.inputs.vectors, seen, out)
    return LeftOut(kinds, head, plain, base, similarity)


def _similarity(vectors: Matrix, seen: NDArray[np.intp], out: NDArray[np.intp]) -> Floats:
    """The cosine of each text of ``out`` to the nearest of ``seen``."""
    nearest: Floats = (vectors[out] @ vectors[seen].T).max(axis=1).astype(np.float64)
    return nearest


def cross_predict(answers: Answers, seed: int, progress: Progress = lambda line: None) -> Floats:
    """Predictions by nested cross-validation (Varma and Simon, 2006), shape (n, models).

    Scales, penalty, weights and calibration for a fold are fitted on the other folds alone. These predictions
    are for measuring if there is no other data.
    """
    folds = folds_by_text(answers, seed, FOLDS)
    found = np.empty(answers.scores.shape)
    for fold in range(FOLDS):
        progress(f"quality: measuring, fold {fold + 1} of {FOLDS}")
        out = np.flatnonzero(folds == fold)
        fitted = fit_quality(answers.take(np.flatnonzero(folds != fold)), seed + 1)
        apart = answers.take(out)
        found[out] = fitted.quality.predict(apart.inputs, apart.looks)
    return found


def folds_by_text(answers: Answers, seed: int, folds: int) -> Labels:
    """A fold for each row, by the hash of its text; near-duplicates share a fold. Sizes are nearly equal."""
    assert answers.inputs.words is not None
    groups = groups_of(answers.inputs.words)
    place = places(answers.texts, groups, seed)
    rank = np.searchsorted(np.unique(place), place)
    return np.asarray(rank * folds // (rank.max() + 1), np.intp)


def choose_penalty(design: "_Design", answers: Answers, folds: Labels, progress: Progress) -> float:
    """The penalty that best predicts the differences between models on held-out rows.

    The loss is the squared error of differences between models on one text, because a choice between models
    depends on these and not on their common mean.
    """
    turn = folds % INNER_FOLDS
    losses = np.zeros(len(PENALTIES))
    for fold in range(INNER_FOLDS):
        progress(f"quality: choosing a penalty, {fold + 1} of {INNER_FOLDS}")
        seen, out = turn != fold, turn == fold
        for i, penalty in enumerate(PENALTIES):
            likely = sigmoid(
                _logits(_fit(design.rows[seen], answers.scores[seen], penalty), design.rows[out])
            )
            losses[i] += _difference_loss(likely.astype(np.float64), answers.scores[out])
    return PENALTIES[int(np.argmin(losses))]


def data_hash(answers: Answers) -> str:
    """The SHA-256 of the rows, which does not depend on their order."""
    lines = sorted(
        msgspec.json.encode((text.encode("utf-8", "surrogatepass").hex(), score, tokens))
        for text, score, tokens in zip(
            answers.texts, answers.scores.tolist(), answers.tokens.tolist(), strict=True
        )
    )
    return hashlib.sha256(msgspec.json.encode(answers.models) + b"\n".join(lines)).hexdigest()


class _Design:
    """The rows as input of the linear model, scaled by the rows ``scaled_by``."""

    def __init__(self, answers: Answers, scaled_by: NDArray[np.intp]) -> None:
        deep = answers.inputs.inner is not None
        layers = layers_of(answers.inputs, deep=deep)
        width = answers.inputs.vectors.shape[1]
        first, rest = layers[:, :width], layers[:, width:] if layers.shape[1] > width else None
        standard = fit_standard(take(Inputs(first, rest), scaled_by))
        looks = answers.looks[scaled_by].astype(np.float64)
        self.reading = QualityHead(
            standard=standard,
            deep=deep,
            centre=looks.mean(axis=0).astype(np.float32),
            scale=(1.0 / np.maximum(looks.std(axis=0), 1e-3)).astype(np.float32),
        )
        self.rows = self.reading.apply(answers.inputs, answers.looks)


def _fit(rows: Matrix, scores: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Weights (width, models) and biases that minimise the penalised cross-entropy, by L-BFGS.

    Answers to one text are not independent. So the penalty of the common part is multiplied by the mean
    number of answers to a text, as if each text counted once.
    """
    known = ~np.isnan(scores)
    truth = np.where(known, scores, 0.0).astype(np.float32)
    asked = known.astype(np.float32)
    width, models = rows.shape[1], scores.shape[1]
    level = _logit(_pooled_mean(scores))
    a_text = np.float32(max(1.0, float(asked.sum(axis=1).mean())))
    across = np.ascontiguousarray(rows.T)

    def loss(flat: Floats) -> tuple[float, Floats]:
        theta = flat.astype(np.float32).reshape(width + 1, models + 1)
        common, own, bias = theta[:width, :1], theta[:width, 1:], theta[width, 1:]
        logits = rows @ (common + own) + bias
        likely = sigmoid(logits)
        residual = (likely - truth) * asked
        gradient = np.zeros_like(theta)
        each = across @ residual
        gradient[:width, :1] = each.sum(axis=1, keepdims=True) + COMMON_PENALTY * a_text * common
        gradient[:width, 1:] = each + penalty * own
        gradient[width, 1:] = residual.sum(axis=0) + _OFFSET_PRIOR * (bias - level)
        value = float((asked * (np.logaddexp(0, logits) - truth * logits)).sum(dtype=np.float64))
        value += float(COMMON_PENALTY * a_text * (common**2).sum() + penalty * (own**2).sum()) / 2
        value += _OFFSET_PRIOR * float(((bias - level) ** 2).sum()) / 2
        return value, gradient.ravel().astype(np.float64)

    start = np.zeros((width + 1, models + 1))
    start[width, 1:] = level
    found = minimize(
        loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "maxcor": 8}
    )
    theta = found.x.reshape(width + 1, models + 1)
    return theta[:width, :1] + theta[:width, 1:], theta[width, 1:]


def _logits(fitted: tuple[Floats, Floats], rows: Matrix) -> Floats:
    weights, bias = fitted
    logits: Floats = rows.astype(np.float64) @ weights + bias
    return logits


def _difference_loss(likely: Floats, scores: Floats) -> float:
    """Squared error of the differences between models, over texts: twice the variance of the errors."""
    error = np.where(np.isnan(scores), np.nan, likely - scores)
    several = (~np.isnan(error)).sum(axis=1) > 1
    if not several.any():
        return float(np.nanmean(error**2))
    return float(np.nanvar(error[several], axis=1).sum())


def _calibrated_by_others(logits: Floats, scores: Floats, folds: Labels) -> Floats:
    found = np.empty_like(logits)
    for fold in range(FOLDS):
        out = folds == fold
        slope, shift = calibrate(logits[~out], scores[~out])
        found[out] = logits[out] * slope + shift
    return found


def _fit_lengths(rows: Matrix, tokens: Floats) -> tuple[Floats, Floats]:
    """Ridge regression (Hoerl and Kennard, 1970) of log tokens minus the model's mean; and the means."""
    known = ~np.isnan(tokens)
    logs = np.log1p(np.where(known, tokens, 0.0))
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore"):
        own = np.where(count > 0, (logs * known).sum(axis=0) / count, np.nan)
    counted = known.any(axis=1)
    if not counted.any():
        return np.zeros(rows.shape[1]), own
    above = np.where(known, logs - np.nan_to_num(own), 0.0)[counted].sum(axis=1) / known[counted].sum(axis=1)
    seen = rows[counted].astype(np.float64)
    gram = seen.T @ seen + _LENGTH_PENALTY * np.eye(rows.shape[1])
    return np.linalg.solve(gram, seen.T @ above), own


def _means(scores: Floats) -> Floats:
    """Each model's mean score, with the mean of all models as one more answer."""
    known = ~np.isnan(scores)
    means: Floats = (np.where(known, scores, 0.0).sum(axis=0) + _pooled_mean(scores)) / (
        known.sum(axis=0) + 1
    )
    return means


def _pooled_mean(scores: Floats) -> float:
    return float(np.nanmean(scores))


def _logit(share: float) -> float:
    share = min(max(share, 0.01), 0.99)
    return float(np.log(share / (1 - share)))


def _table(values: Sequence[Sequence[float | None]]) -> Floats:
    return np.array([[np.nan if value is None else value for value in row] for row in values], np.float64)


def _check(answers: Answers) -> None:
    if len(answers.texts) < FEWEST:
        raise OperatorError(
            f"{len(answers.texts)} texts with outcomes are too few (expected {FEWEST} or more)"
        )
    asked = (~np.isnan(answers.scores)).sum(axis=0)
    for model, count in zip(answers.models, asked.tolist(), strict=True):
        if not count:
            raise OperatorError(f"no row has an outcome of the model `{model}`")
