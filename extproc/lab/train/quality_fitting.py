"""Fitting predicted quality: texts and how well models answered them in, a ``Quality`` out.

Models are fitted together. What all have in common (some prompts are hard for anyone) is learnt from
every answer, and each model's own part only as far as its answers show it (multi-task regularisation,
Evgeniou and Pontil, 2004): a model that joins with ten labels is predicted as the others, shifted to
its level.
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
from extproc.lab.train.head_fitting import fit_standard, take
from extproc.lab.train.splits import groups_of, places
from extproc.routing.lexical_features import lexical
from extproc.routing.predicted_quality import Quality, QualityHead, layers_of, sigmoid, surface
from extproc.routing.scorers import Matrix
from extproc.routing.trained_heads import Inputs
from extproc.vocabulary import ModelName

FOLDS = 5
INNER_FOLDS = 3  # to choose a penalty within
FEWEST = 20  # texts with two or more answers, below which nothing can be held out and believed
STEPS = 40  # of L-BFGS; more change no choice
COMMON_PENALTY = 10.0  # on weights that all models share; its size hardly matters
PENALTIES = (3.0, 10.0, 30.0, 100.0)  # on a model's own weights: one of these, by held-out rows
_OFFSET_PRIOR = 1.0  # answers' worth of belief that a model is as good as the others
# On the deviation of a model's calibration (slope, shift) from the one common to all: about as many answers
# as must speak for its own.
_OWN_CALIBRATION = (20.0, 1.0)
_COMMON_CALIBRATION = (1e-3, 1e-3)
_LENGTH_PENALTY = 30.0

Progress = Callable[[str], None]


class Answers(msgspec.Struct, frozen=True):
    """Texts, all that can be read of them, and what came of each model; NaN where it was not asked."""

    texts: tuple[str, ...]
    inputs: Inputs
    looks: Matrix  # (n, surface features)
    models: tuple[str, ...]
    scores: Floats  # (n, models), 0 to 1
    tokens: Floats  # (n, models)

    def take(self, rows: NDArray[np.intp]) -> "Answers":
        """Some of the rows."""
        return Answers(
            tuple(self.texts[row] for row in rows.tolist()),
            take(self.inputs, rows),
            self.looks[rows],
            self.models,
            self.scores[rows],
            self.tokens[rows],
        )


class FittedQuality(msgspec.Struct, frozen=True):
    """A model of quality, and what fits that had not seen a row said of it."""

    quality: Quality
    held: Floats  # (n, models), calibrated on other rows than its own
    penalty: float


def answers_of(rows: Sequence[OutcomeRow], models: Sequence[str], deep: Matrix, width: int) -> Answers:
    """``deep`` is what a ``DeepEncoder`` gives, ``width`` the part that is the embedding."""
    texts = tuple(row.text for row in rows)
    inner = deep[:, width:] if deep.shape[1] > width else None
    return Answers(
        texts=texts,
        inputs=Inputs(deep[:, :width], inner, lexical(texts)),
        looks=surface(texts),
        models=tuple(models),
        scores=_table([[row.outcomes.get(model) for model in models] for row in rows]),
        tokens=_table([[row.tokens.get(model) for model in models] for row in rows]),
    )


def fit_quality(answers: Answers, seed: int, progress: Progress = lambda line: None) -> FittedQuality:
    """Choose the penalty, fit, and calibrate on rows that the fit had not seen.

    Deterministic under ``seed``. Raises ``OperatorError`` where too little is known to hold any out.
    """
    _check(answers)
    folds = folds_by_text(answers, seed, FOLDS)
    design = _Design(answers, np.arange(len(answers.texts)))
    penalty = choose_penalty(design, answers, folds, progress)
    logits = np.empty(answers.scores.shape)
    for fold in range(FOLDS):
        progress(f"quality: fold {fold + 1} of {FOLDS}")
        seen, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        logits[out] = _logits(_fit(design.rows[seen], answers.scores[seen], penalty), design.rows[out])
    progress(f"quality: fitting on all {len(folds)} texts")
    weights, bias = _fit(design.rows, answers.scores, penalty)
    slope, shift = calibrate(logits, answers.scores)
    length, tokens = _fit_lengths(design.rows, answers.tokens)
    return FittedQuality(
        quality=Quality(
            models=tuple(map(ModelName, answers.models)),
            reading=design.reading,
            weights=(weights * slope).astype(np.float32),
            bias=(bias * slope + shift).astype(np.float32),
            mean=_means(answers.scores).astype(np.float32),
            length=length.astype(np.float32),
            tokens=tokens.astype(np.float32),
        ),
        held=_calibrated_by_others(logits, answers.scores, folds),
        penalty=penalty,
    )


def cross_predict(answers: Answers, seed: int, progress: Progress = lambda line: None) -> Floats:
    """What models of quality say of rows that nothing of theirs has seen, shape (n, models).

    Scales, penalty, weights and calibration of each fold are of the other folds alone. It is what to
    measure on where there is no other data.
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
    """A fold for each row by its text's hash, near-duplicates together, of sizes that differ by little."""
    assert answers.inputs.words is not None
    groups = groups_of(answers.inputs.words)
    place = places(answers.texts, groups, seed)
    rank = np.searchsorted(np.unique(place), place)
    return np.asarray(rank * folds // (rank.max() + 1), np.intp)


def choose_penalty(design: "_Design", answers: Answers, folds: Labels, progress: Progress) -> float:
    """The penalty that best predicts how models differ on rows not fitted.

    The loss is the squared error of differences between models of one text, which is what a choice
    between them rests on, and not that of their common level.
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


def calibrate(logits: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Slope and shift of each model's log-odds (Platt, 1999), drawn to those that suit all models.

    A model with few answers gets the common slope, and a shift as far as its answers carry it.
    """
    known = ~np.isnan(scores)
    slope, shift = _platt(logits[known], scores[known], 1.0, 0.0, _COMMON_CALIBRATION)
    each = [
        _platt(logits[known[:, m], m], scores[known[:, m], m], slope, shift, _OWN_CALIBRATION)
        for m in range(scores.shape[1])
    ]
    return np.array([pair[0] for pair in each]), np.array([pair[1] for pair in each])


def data_hash(answers: Answers) -> str:
    """SHA-256 of the rows, whatever their order."""
    lines = sorted(
        msgspec.json.encode((text.encode("utf-8", "surrogatepass").hex(), score, tokens))
        for text, score, tokens in zip(
            answers.texts, answers.scores.tolist(), answers.tokens.tolist(), strict=True
        )
    )
    return hashlib.sha256(msgspec.json.encode(answers.models) + b"\n".join(lines)).hexdigest()


class _Design:
    """Rows as the linear model sees them, scaled by some of them."""

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
    """Weights (width, models) and biases of least penalised cross-entropy, by L-BFGS.

    The part in common answers to the mean over models of each text, since answers to one text are
    not independent, and so carries its penalty once and not for each model.
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


def _platt(
    logits: Floats, scores: Floats, slope: float, shift: float, prior: tuple[float, float]
) -> tuple[float, float]:
    """Newton's method; the penalty draws (slope, shift) to what is given.

    Targets are Platt's: never quite 0 or 1, so that no finite number of answers makes anything certain.
    """
    good = float(scores.sum())
    low, high = 1.0 / (len(scores) - good + 2.0), (good + 1.0) / (good + 2.0)
    targets = low + (high - low) * scores
    start = np.array([slope, shift])
    theta = start.copy()
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    drawn = np.array(prior)
    for _ in range(25):
        likely = sigmoid(design @ theta).astype(np.float64)
        gradient = design.T @ (likely - targets) + drawn * (theta - start)
        curve = (design * (likely * (1 - likely))[:, None]).T @ design + np.diag(drawn)
        step = np.linalg.solve(curve, gradient)
        theta -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    # A falling map would turn predictions around; none is believed.
    return (float(theta[0]), float(theta[1])) if theta[0] > 0.05 else (0.05, float(theta[1]))


def _calibrated_by_others(logits: Floats, scores: Floats, folds: Labels) -> Floats:
    found = np.empty_like(logits)
    for fold in range(FOLDS):
        out = folds == fold
        slope, shift = calibrate(logits[~out], scores[~out])
        found[out] = sigmoid(logits[out] * slope + shift)
    return found


def _fit_lengths(rows: Matrix, tokens: Floats) -> tuple[Floats, Floats]:
    """Ridge regression of the log of an answer's length, less its model's mean; and these means."""
    known = ~np.isnan(tokens)
    logs = np.log1p(np.where(known, tokens, 0.0))
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore"):
        own = np.where(count > 0, (logs * known).sum(axis=0) / count, np.nan)
    told = known.any(axis=1)
    if not told.any():
        return np.zeros(rows.shape[1]), own
    above = np.where(known, logs - np.nan_to_num(own), 0.0)[told].sum(axis=1) / known[told].sum(axis=1)
    seen = rows[told].astype(np.float64)
    gram = seen.T @ seen + _LENGTH_PENALTY * np.eye(rows.shape[1])
    return np.linalg.solve(gram, seen.T @ above), own


def _means(scores: Floats) -> Floats:
    """Each model's mean, drawn to the mean of all by one answer."""
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
            raise OperatorError(f"no row tells an outcome of the model `{model}`")
