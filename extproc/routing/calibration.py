"""Calibration: turns the logits of a head into probabilities.

Temperature scaling (Guo et al., 2017): probabilities are softmax(logits / T), with T chosen to
make held-out examples as likely as possible. It keeps the order of routes, so it changes how sure a
decision is, but never the decision. Where held-out rows are many, an isotonic map of the best
route's probability may follow (Zadrozny and Elkan, 2002), which keeps the order too.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.routing.scorers import Fit, Labels, Matrix, softmax

_TEMPERATURES = np.geomspace(0.005, 5.0, 121)
_FOLDS = 5
_LEAST_LIKELY = float(np.log(1e-12))  # the logarithm of a probability, at least
# Cosines of short texts to route centroids differ by tenths: with too few examples to hold any
# out, this makes a lead of 0.1 worth odds of e.
_UNFITTED = 0.1


class Calibration(msgspec.Struct, frozen=True):
    """Logits to probabilities: a temperature, then the isotonic map, if there is one."""

    temperature: float = 1.0
    claimed: NDArray[np.float64] = np.zeros(0)  # rising probabilities of the best route; empty: no map
    reached: NDArray[np.float64] = np.zeros(0)  # how often that was right, rising too

    def probabilities(self, logits: Matrix) -> Matrix:
        """Shape (n, routes); rows sum to 1, in the order of the logits."""
        found = softmax(logits / np.float32(self.temperature))
        if not len(self.claimed) or found.shape[1] < 2:
            return found
        rows = np.arange(len(found))
        best = found.argmax(axis=1)
        top = found[rows, best].astype(np.float64)
        second = np.partition(found, -2, axis=1)[:, -2].astype(np.float64)
        rest = np.maximum(1.0 - top, 1e-12)
        # Never so low that the second would overtake: they are level where p / second = (1 - p) / rest.
        level = second / (second + rest)
        mapped = np.maximum(np.interp(top, self.claimed, self.reached), level)
        result: Matrix = found * ((1.0 - mapped) / rest).astype(np.float32)[:, None]
        result[rows, best] = mapped
        return result


def fit_isotonic(top: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """The rising step function nearest to what was right, as knots (claimed, reached).

    Pool adjacent violators (Barlow et al., 1972); each pool is one knot at its mean claim. A pool that
    was always right, or always wrong, stays half a row away from certainty.
    """
    order = np.argsort(top, kind="stable")
    pools: list[tuple[float, float, int]] = []  # sum of claims, sum of right, rows
    for claim, hit in zip(top[order].tolist(), right[order].tolist(), strict=True):
        pool = (claim, float(hit), 1)
        while pools and pools[-1][1] * pool[2] >= pool[1] * pools[-1][2]:
            before = pools.pop()
            pool = (before[0] + pool[0], before[1] + pool[1], before[2] + pool[2])
        pools.append(pool)
    # Pools of one claim have means that differ by rounding, either way.
    claimed = np.maximum.accumulate([claims / rows for claims, _, rows in pools])
    hits = np.array([hits for _, hits, _ in pools])
    sizes = np.array([rows for _, _, rows in pools])
    doubt = 0.5 / (sizes + 1)
    return claimed, np.maximum.accumulate(np.clip(hits / sizes, doubt, 1 - doubt))


def cross_fitted(fit: Fit, vectors: Matrix, labels: Labels, routes: int) -> Matrix | None:
    """The logits of examples, each scored by a fit without it, shape (n, routes).

    Stratified cross-validation with up to five folds. None if an example cannot be held out: there is one
    route, or a route with one example.
    """
    counts = np.bincount(labels, minlength=routes)
    folds = int(min(_FOLDS, counts.min()))
    if routes < 2 or folds < 2:
        return None
    fold_of = _stratified_folds(labels, folds)
    logits = np.empty((len(labels), routes), np.float32)
    for fold in range(folds):
        held = fold_of == fold
        logits[held] = fit(vectors[~held], labels[~held], routes).logits(vectors[held])
    return logits


def fit_temperature(held_out: Matrix | None, labels: Labels) -> float:
    """The temperature that fits the logits of ``cross_fitted``; a cautious constant where there are none."""
    return _UNFITTED if held_out is None else best_temperature(held_out, labels)


def best_temperature(logits: Matrix, labels: Labels) -> float:
    """The temperature of least mean negative log-likelihood, from a fixed log-spaced grid."""
    lower = logits - logits.max(axis=1, keepdims=True)
    true, odds = lower[np.arange(len(labels)), labels].astype(np.float64), np.empty_like(lower)
    losses = []
    for temperature in _TEMPERATURES.tolist():
        np.exp(np.divide(lower, np.float32(temperature), out=odds), out=odds)
        likely = true / temperature - np.log(odds.sum(axis=1, dtype=np.float64))
        losses.append(-np.maximum(likely, _LEAST_LIKELY).mean())
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _stratified_folds(labels: Labels, folds: int) -> Labels:
    """Each example's fold: within a route, examples take turns in the order written."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
    fold_of = np.empty(len(labels), np.intp)
    fold_of[order] = (np.arange(len(labels)) - starts) % folds
    return fold_of
