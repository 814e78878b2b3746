"""Fit a perceptron of one hidden layer. The same rows, seed and start give the same weights."""

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.train.optimisers import Adam
from extproc.routing.scorers import Matrix, softmax
from extproc.routing.trained_heads import Perceptron

MANY_ROWS = 5000  # fewer rows need more epochs
UNITS = 512
SMOOTHED = 0.1


class _Pace(msgspec.Struct, frozen=True):
    """How rows are shown."""

    epochs: int
    batch: int
    rate: float
    dropped: float  # the share of units that a step leaves out
    dropped_inputs: float


def _pace(rows: int, *, going_on: bool) -> _Pace:
    """Many rows need few epochs, and less dropout in so few; from another fit's weights, fewer still."""
    if rows < MANY_ROWS:
        return _Pace(60, int(np.clip(rows // 16, 16, 128)), 2e-3, 0.5, 0.3)
    return _Pace(3, 256, 2e-3, 0.3, 0.2) if going_on else _Pace(10, 256, 3e-3, 0.3, 0.2)


def fit_layer(
    dense: Matrix, labels: Labels, routes: int, seed: int, start: Perceptron | None = None
) -> Perceptron:
    """One hidden layer, fitted by AdamW on a cosine schedule (Loshchilov and Hutter, 2017 and 2019).

    It has dropout (Srivastava et al., 2014), smoothed labels (Szegedy et al., 2016) and He initialisation
    (2015). Inputs are scaled to unit deviation for training, and the weights then include the scale. All
    routes are drawn equally often.
    """
    random, pace = np.random.default_rng(seed), _pace(len(labels), going_on=start is not None)
    scale = np.float32(1.0 / max(float(dense.std()), 1e-6))
    dense = dense * scale
    steps = pace.epochs * max(1, len(labels) // pace.batch)
    chance = 1.0 / np.bincount(labels, minlength=routes)[labels].astype(np.float64)
    chance /= chance.sum()
    weights = _initial(dense.shape[1], routes, random) if start is None else _begun(start, scale)
    adam = Adam(weights)
    smooth = np.full((routes, routes), SMOOTHED / routes, np.float32)
    smooth[np.diag_indices(routes)] += np.float32(1 - SMOOTHED)
    for step in range(steps):
        rows = random.choice(len(labels), pace.batch, p=chance)
        x = _drop(dense[rows], pace.dropped_inputs, random)
        raised = np.maximum(x @ weights[0] + weights[1], 0)
        kept = _drop(np.ones_like(raised), pace.dropped, random)
        hidden = raised * kept
        error = (softmax(hidden @ weights[2] + weights[3]) - smooth[labels[rows]]) / np.float32(pace.batch)
        back = (error @ weights[2].T) * kept * (raised > 0)
        gradients = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        adam.step(gradients, pace.rate * 0.5 * (1 + np.cos(np.pi * step / steps)))
    return Perceptron(weights[0] * scale, weights[1], weights[2], weights[3])


def _initial(width: int, routes: int, random: np.random.Generator) -> list[Matrix]:
    return [
        (random.normal(size=(width, UNITS)) * np.sqrt(2 / width)).astype(np.float32),
        np.zeros(UNITS, np.float32),
        (random.normal(size=(UNITS, routes)) * np.sqrt(1 / UNITS)).astype(np.float32),
        np.zeros(routes, np.float32),
    ]


def _begun(start: Perceptron, scale: np.float32) -> list[Matrix]:
    """Copies of the weights, the first of them for inputs of that scale."""
    return [start.hidden / scale, start.hidden_bias.copy(), start.weights.copy(), start.bias.copy()]


def _drop(values: Matrix, share: float, random: np.random.Generator) -> Matrix:
    """The values, of which a share becomes 0 and the others grow so that the mean stays."""
    dropped: Matrix = values * (random.random(values.shape, np.float32) >= share)
    dropped *= np.float32(1 / (1 - share))
    return dropped
