"""The scope score: the probability that a text belongs to any route at all.

It adds several measures of a text. The log-probability of the best route is low for texts between routes, and
with a high temperature the size of the logits counts and not only their lead (ODIN, Liang, Li and Srikant,
2018). The cosines to examples and centroids are low for texts far from all routes (k nearest neighbours, Sun
et al., 2022). Each measure is standardised on rows that were held out, and a logistic function turns the sum
into a probability.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.routing.scorers import Labels, Matrix
from extproc.routing.trained_heads import log_softmax

Floats = NDArray[np.float64]

SHOWN = 5  # most probable routes that are compared by their examples, and kept on a decision
LIKENESS = ("nearest", "nearest_of_best", "centroid", "ten_nearest")  # cosines, the columns of a likeness
MEASURES = (*LIKENESS, "log_probability", "logit")
EQUAL = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])  # weights of the measures where too few strangers are known
SOFTENED = 3.0  # times the calibrated temperature, for the log-probability
ENOUGH_STRANGERS = 50  # rows known to be out of scope, from which on weights are fitted
LEAST_DOUBTED, MOST_DOUBTED = 0.10, 0.15  # the share of rows in scope below the default floor
USUAL_FLOOR = 0.4  # on P(in scope); the default floor where it doubts a share between these two
_NEIGHBOURS = 10
_FEW_A_ROUTE, _FEW = 5, 20  # rows; with fewer, their quantile is mostly chance
_RIDGE = 0.002
_LEAST_SCALE = 0.01  # cosines and log-probabilities that differ by less are equal
_LEAST_SLOPE = 0.25  # of the sum of three standardised measures
_BOUND = 8.0  # of a standardised measure


def are_few(rows: int, routes: int) -> bool:
    """Whether so many examples are too few for a score that is fitted to them."""
    return rows < _FEW_A_ROUTE * routes or rows < _FEW


class ScopeScore(msgspec.Struct, frozen=True):
    """P(in scope) of a text, by its logits and its likeness to examples and centroids."""

    centroids: Matrix  # (routes, dimensions), unit rows
    temperature: float
    centres: Floats  # (measures,) of rows in scope
    scales: Floats  # (measures,)
    weights: Floats  # (measures,)
    bias: float
    floor: float = 0.0  # P(in scope) below which a text is out of scope, where nobody sets another floor

    def probability(self, logits: Matrix, likeness: Floats) -> Floats:
        """P(in scope) for logits of shape (n, routes) and likenesses of shape (n, 4)."""
        found = measures(logits, likeness, self.temperature)
        return _sigmoid(_standard(found, self.centres, self.scales) @ self.weights + self.bias)


def likeness_of_one(similarities: Sequence[Matrix], to_centroids: Matrix) -> Floats:
    """The likeness of one text, shape (1, 4).

    ``similarities`` has the cosines to the examples of each of the most probable routes, best route first.
    """
    nearest, of_best, ten = _nearest(similarities)
    return np.array([[nearest, of_best, to_centroids.max(), ten]], np.float64)


def likeness_of(
    vectors: Matrix,
    logits: Matrix,
    examples: Matrix,
    of_example: Labels,
    to_centroids: Matrix,
    *,
    own: Labels | None = None,
) -> Floats:
    """The likeness of many texts, shape (n, 4), to the examples of each one's most probable routes.

    ``of_example`` is the route of each example, ``to_centroids`` the cosines of shape (n, routes).
    A route whose logit is -inf is hidden. ``own`` is the number of the example that each text is itself, and
    that it is not compared with.
    """
    found = np.empty((len(vectors), len(LIKENESS)))
    visible = np.isfinite(logits)
    found[:, 2] = np.where(visible, to_centroids, -1.0).max(axis=1)
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :SHOWN]
    order = np.argsort(of_example, kind="stable")
    grouped, place = examples[order], np.argsort(order)
    starts = np.searchsorted(of_example[order], np.arange(logits.shape[1] + 1)).tolist()
    nobody = np.zeros(0, np.float32)
    for row, vector in enumerate(vectors):
        compared = []
        for route in ranked[row].tolist():
            seen = grouped[starts[route] : starts[route + 1]] @ vector if visible[row, route] else nobody
            if own is not None and len(seen) and of_example[own[row]] == route:
                seen = np.delete(seen, place[own[row]] - starts[route])
            compared.append(seen)
        found[row, 0], found[row, 1], found[row, 3] = _nearest(compared)
    return found


def to_centroids_without_self(vectors: Matrix, labels: Labels, routes: int) -> Matrix:
    """The cosines of examples to every route's centroid, each to its own route's without itself."""
    sums = np.zeros((routes, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    lengths = np.linalg.norm(sums, axis=1)
    found: Matrix = (vectors @ sums.T) / np.maximum(lengths, np.float32(1e-6))
    rows = np.arange(len(labels))
    others = sums[labels] - vectors
    length = np.maximum(np.linalg.norm(others, axis=1), np.float32(1e-6))
    found[rows, labels] = np.einsum("nd,nd->n", vectors, others) / length
    return found


def without_own_route(logits: Matrix, labels: Labels) -> Matrix:
    """The logits of rows as if the route of each did not exist: its own logit is -inf."""
    hidden = logits.copy()
    hidden[np.arange(len(labels)), labels] = -np.inf
    return hidden


def measures(logits: Matrix, likeness: Floats, temperature: float) -> Floats:
    """The measures of each row, shape (n, measures).

    The log-probability is relative to that of chance, so that rows with a hidden route compare with others.
    """
    chance = -np.log(np.isfinite(logits).sum(axis=1))
    logs = log_softmax(logits / np.float32(temperature)).max(axis=1) - chance
    return np.column_stack([likeness, logs, logits.max(axis=1)]).astype(np.float64)


def fit_scope(
    centroids: Matrix, temperature: float, inside: Floats, known: Floats, made: Floats
) -> ScopeScore:
    """Fit on measures of rows that trained nothing, with both classes at equal weight.

    ``inside`` has rows in scope, ``known`` rows that are known to be out of scope, and ``made`` the rows in
    scope as if their own route did not exist. ``temperature`` is that of the measures. With enough known
    strangers each measure gets a weight of its own; with fewer, weights are equal and only the slope and the
    bias are fitted.
    """
    centres, scales = inside.mean(axis=0), np.maximum(inside.std(axis=0), _LEAST_SCALE)
    enough = len(known) >= ENOUGH_STRANGERS
    projection = np.eye(len(MEASURES)) if enough else EQUAL[:, None]
    outside = known if enough else np.concatenate([known, made])
    rows, others = (_standard(found, centres, scales) @ projection for found in (inside, outside))
    slopes, bias = _logistic(rows, others)
    if not enough and slopes[0] < _LEAST_SLOPE:
        slopes, bias = _least_slope(rows, others)
    scope = ScopeScore(centroids, temperature, centres, scales, projection @ slopes, bias)
    held = _sigmoid(rows @ slopes + bias)
    return msgspec.structs.replace(scope, floor=default_floor(held, len(centroids)))


def default_floor(inside: Floats, routes: int) -> float:
    """``USUAL_FLOOR``, or the nearest floor that doubts 10 to 15 % of these rows in scope.

    Few rows in scope reach ``USUAL_FLOOR`` where strangers are much like them, and nearly all where not. With
    fewer than ``_FEW_A_ROUTE`` rows a route or ``_FEW`` in all, the log-odds of the floor shrink towards even
    odds. It is rounded down to four digits.
    """
    low, high = np.clip(np.quantile(inside, [LEAST_DOUBTED, MOST_DOUBTED]), 1e-6, 1 - 1e-6).tolist()
    chance = min(max(USUAL_FLOOR, low), high)
    trust = min(1.0, len(inside) / (_FEW_A_ROUTE * routes), len(inside) / _FEW)
    shrunk = 1.0 / (1.0 + math.exp(-trust * math.log(chance / (1.0 - chance))))
    return math.floor(shrunk * 1e4) / 1e4


def _logistic(inside: Floats, outside: Floats) -> tuple[Floats, float]:
    """Slopes and bias of a ridge logistic regression in which both classes weigh the same.

    Without rows outside, slopes are 1 and the bias is 0. Minimised by steps on the quadratic upper bound of
    the loss (Böhning and Lindsay, 1988), which never overshoot.
    """
    if not len(outside):
        return np.ones(inside.shape[1]), 0.0
    rows = np.concatenate([inside, outside])
    inputs = np.column_stack([rows, np.ones(len(rows))])
    targets = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    share = np.repeat([0.5 / len(inside), 0.5 / len(outside)], [len(inside), len(outside)])
    ridge = np.diag([2 * _RIDGE] * inside.shape[1] + [0.0])
    step = np.linalg.inv(0.25 * (inputs.T * share) @ inputs + ridge + 1e-9 * np.eye(len(ridge)))
    theta = np.zeros(inputs.shape[1])
    for _ in range(500):
        residual = share * (_sigmoid(inputs @ theta) - targets)
        theta = theta - step @ (inputs.T @ residual + ridge @ theta)
    return theta[:-1], float(theta[-1])


def _least_slope(inside: Floats, outside: Floats) -> tuple[Floats, float]:
    """A gentle slope with even odds midway between both classes, for examples that hardly separate."""
    return np.array([_LEAST_SLOPE]), -_LEAST_SLOPE * float(inside.mean() + outside.mean()) / 2


def _standard(found: Floats, centres: Floats, scales: Floats) -> Floats:
    """Standardised measures, bounded so that one measure cannot outweigh all others."""
    bounded: Floats = np.clip((found - centres) / scales, -_BOUND, _BOUND)
    return bounded


def _nearest(similarities: Sequence[Matrix]) -> tuple[float, float, float]:
    """The greatest of all, the greatest of the first route, and the mean of the ten greatest; -1 of none."""
    every = np.concatenate(similarities)
    if not len(every):
        return -1.0, -1.0, -1.0
    ten = every if len(every) <= _NEIGHBOURS else np.partition(every, -_NEIGHBOURS)[-_NEIGHBOURS:]
    of_best = float(similarities[0].max()) if len(similarities[0]) else -1.0
    return float(every.max()), of_best, float(ten.mean())


def _sigmoid(values: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-np.clip(values, -500.0, 500.0)))
    return found
