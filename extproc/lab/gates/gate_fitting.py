"""Fit P(the answer is good), and choose the threshold below which the large model is asked.

Everything is deterministic. The threshold is chosen on cross-fitted predictions: each row is predicted by a
fit without it. On fitted rows, the expected quality would be too high.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import OperatorError
from extproc.gate.answer_scoring import Goodness, Logit
from extproc.lab.figures.number_formats import setting
from extproc.lab.gates.answer_rows import Pair
from extproc.lab.measure.classification_metrics import Floats, Truths

FOLDS = 5
FEWEST = 40  # prompts; held-out figures of fewer are too noisy
PENALTIES = (3.0, 10.0, 30.0, 100.0)  # on squared standardised weights; held-out rows choose one
_STEPS = 50  # of Newton's method, at most; it needs about five


class GateTarget(msgspec.Struct, frozen=True):
    """What the threshold shall reach: exactly one of the two."""

    quality: float | None = None  # the least escalation that reaches this share of the large model's quality
    escalation: float | None = None  # this share of answers, those with the lowest P(good)

    def __str__(self) -> str:
        if self.escalation is not None:
            return f"escalation {setting(self.escalation)}"
        return f"quality {setting(self.quality or 0.0)}"


class FittedGate(msgspec.Struct, frozen=True):
    """A gate that judges the answer alone, or together with a second answer."""

    logit: Logit
    held_out: Floats  # P(good) of each fitted row, by a fit without it
    threshold: float
    escalation: float  # share of ``held_out`` below the threshold


def fit(pair: Pair, target: GateTarget, seed: int, apart: int = 0) -> tuple[FittedGate, FittedGate | None]:
    """Fit a gate alone and, if there is a second model, one with its answers. Raises ``OperatorError``.

    ``apart`` is the number of test prompts, which are not in ``pair``; errors name it.
    """
    good = pair.good
    if len(good) < FEWEST or good.all() or not good.any():
        beside = f" and an answer of {pair.second}" if pair.second else ""
        raise OperatorError(
            f"{len(good) + apart} prompts have answers of {pair.small} and {pair.large} with scores{beside}; "
            f"{apart} of them are set apart to measure on; of the {len(good)} to fit on {good.sum()} are "
            f"good ones of {pair.small} (expected at least {FEWEST} to fit on, good ones and bad ones)"
        )
    folds = (pair.places(seed) * 1e9).astype(np.int64) % FOLDS
    alone = _fitted(pair.features, pair, folds, target)
    return alone, _fitted(pair.paired_features, pair, folds, target) if pair.second else None


def goodness(alone: FittedGate, beside: FittedGate | None) -> Goodness:
    """The gates in the form that serving reads."""
    return Goodness(alone.logit, beside.logit if beside else None)


def probabilities(logit: Logit, values: Floats) -> Floats:
    """P(good) of rows of features."""
    likely: Floats = 0.5 * (1.0 + np.tanh(0.5 * logit.log_odds(values)))
    return likely


def _fitted(values: Floats, pair: Pair, folds: NDArray[np.int64], target: GateTarget) -> FittedGate:
    tried = {penalty: _held_out(values, pair.good, folds, penalty) for penalty in PENALTIES}
    penalty = min(tried, key=lambda penalty: _loss(tried[penalty], pair.good))
    found = tried[penalty]
    threshold = choose_threshold(found, pair, target)
    return FittedGate(
        fit_logit(values, pair.good, penalty), found, threshold, float((found < threshold).mean())
    )


def _held_out(values: Floats, good: Truths, folds: NDArray[np.int64], penalty: float) -> Floats:
    found = np.full(len(good), good.mean())
    for fold in range(FOLDS):
        out = folds == fold
        if out.any() and not out.all():
            found[out] = probabilities(fit_logit(values[~out], good[~out], penalty), values[out])
    return found


def _loss(likely: Floats, good: Truths) -> float:
    right = np.where(good, likely, 1.0 - likely)
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def fit_logit(values: Floats, good: Truths, penalty: float) -> Logit:
    """Ridge-penalised logistic regression by Newton's method (Hastie, Tibshirani and Friedman, 2009, 4.4.1).

    The bias has no penalty. A feature that is equal in all rows gets no weight.
    """
    centre, deviation = values.mean(axis=0), values.std(axis=0)
    scale = np.where(deviation > 1e-9, 1.0 / np.maximum(deviation, 1e-9), 0.0)
    design = np.column_stack([(values - centre) * scale, np.ones(len(values))])
    ridge = np.diag(np.append(np.full(values.shape[1], penalty), 1e-6))
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        likely = 0.5 * (1.0 + np.tanh(0.5 * (design @ weights)))
        slope = design.T @ (likely - good) + ridge @ weights
        curvature = (design * np.maximum(likely * (1.0 - likely), 1e-6)[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, slope)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return Logit(centre, scale, weights[:-1], float(weights[-1]))


def choose_threshold(likely: Floats, pair: Pair, target: GateTarget) -> float:
    """The threshold on the risk-coverage curve of ``likely`` that meets the target; 1.0 if none does.

    Coverage is the share of answers that are kept. Risk is the difference between the large model's quality
    and the cascade's (El-Yaniv and Wiener, 2010). The threshold is half-way between two probabilities, so
    rows of equal probability stay together.
    """
    order = np.argsort(likely, kind="stable")
    ranked = likely[order]
    escalated = np.flatnonzero(np.append(True, ranked[1:] > ranked[:-1]))  # how many, where it can be cut
    if target.escalation is not None:
        chosen = int(escalated[np.argmin(np.abs(escalated - target.escalation * len(ranked)))])
        return _cut(ranked, chosen)
    gained = np.append(0.0, np.cumsum((pair.large_score - pair.small_score)[order]))[escalated]
    quality = pair.small_score.mean() + gained / len(ranked)
    enough = escalated[quality >= (target.quality or 0.0) * pair.large_score.mean() - 1e-9]
    return _cut(ranked, int(enough[0])) if len(enough) else 1.0


def _cut(ranked: Floats, escalated: int) -> float:
    return 0.0 if escalated == 0 else float((ranked[escalated - 1] + ranked[escalated]) / 2)
