"""Calibration: what a scorer's logits are worth as probabilities.

Temperature scaling (Guo et al., 2017): probabilities are softmax(logits / T), with T chosen to
make held-out examples as likely as possible. It keeps the order of routes, so that it can make
a decision honest but never change it.
"""

import numpy as np

from extproc.routing.scorers import Fit, Labels, Matrix, softmax

_TEMPERATURES = np.geomspace(0.005, 5.0, 121)
_FOLDS = 5
# Cosines of short texts to route centroids differ by tenths: with too few examples to hold any
# out, this makes a lead of 0.1 worth odds of e.
_UNFITTED = 0.1


def fit_temperature(fit: Fit, vectors: Matrix, labels: Labels, routes: int) -> float:
    """The temperature that fits the scorer's own examples, each scored by a fit without it.

    Stratified cross-validation with up to five folds. A route with a single example cannot be
    held out; where that leaves nothing to fit on, a cautious constant is returned.
    """
    counts = np.bincount(labels, minlength=routes)
    folds = int(min(_FOLDS, counts.min()))
    if routes < 2 or folds < 2:
        return _UNFITTED
    fold_of = _stratified_folds(labels, folds)
    logits = np.empty((len(labels), routes), np.float32)
    for fold in range(folds):
        held = fold_of == fold
        logits[held] = fit(vectors[~held], labels[~held], routes).logits(vectors[held])
    return best_temperature(logits, labels)


def best_temperature(logits: Matrix, labels: Labels) -> float:
    """The temperature of least mean negative log-likelihood, from a fixed log-spaced grid."""
    rows = np.arange(len(labels))
    losses = [
        -np.log(np.maximum(softmax(logits / temperature)[rows, labels], 1e-12)).mean()
        for temperature in _TEMPERATURES
    ]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _stratified_folds(labels: Labels, folds: int) -> Labels:
    """Each example's fold: within a route, examples take turns in the order written."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
    fold_of = np.empty(len(labels), np.intp)
    fold_of[order] = (np.arange(len(labels)) - starts) % folds
    return fold_of
