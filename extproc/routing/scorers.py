"""Scorers: compute one logit per route from an embedding, by matrix products.

A scorer is fitted on unit vectors of examples. ``routing.calibration`` turns its logits into probabilities.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Labels = NDArray[np.intp]
Fit = Callable[[Matrix, Labels, int], "Scorer"]


class Scorer(Protocol):
    """Scores unit vectors against every route at once."""

    def logits(self, vectors: Matrix) -> Matrix:
        """Shape (n, dimensions) -> (n, routes)."""
        ...


class Centroids(msgspec.Struct, frozen=True):
    """Cosine to the mean of each route's examples: robust from five examples on."""

    centroids: Matrix  # (routes, dimensions), unit rows

    def logits(self, vectors: Matrix) -> Matrix:
        """Cosines, shape (n, routes)."""
        return vectors @ self.centroids.T


class Prototypes(msgspec.Struct, frozen=True):
    """Cosine to the nearest of several prototypes a route: for routes of several kinds."""

    prototypes: Matrix  # (prototypes of all routes, dimensions), unit rows, grouped by route
    starts: Labels  # (routes,) where each route's group begins

    def logits(self, vectors: Matrix) -> Matrix:
        """Cosines to the nearest prototype, shape (n, routes)."""
        return np.maximum.reduceat(vectors @ self.prototypes.T, self.starts, axis=1)


class Logistic(msgspec.Struct, frozen=True):
    """Multinomial logistic regression: the sharpest of the three once examples are many."""

    weights: Matrix  # (routes, dimensions)
    bias: Matrix  # (routes,)

    def logits(self, vectors: Matrix) -> Matrix:
        """Log-odds up to a constant, shape (n, routes)."""
        return vectors @ self.weights.T + self.bias


def fit_centroids(vectors: Matrix, labels: Labels, routes: int) -> Centroids:
    """The normalised mean of each route's vectors. Every route has at least one."""
    sums = np.zeros((routes, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, labels, vectors)
    return Centroids(_unit(sums))


def fit_prototypes(per_route: int) -> Fit:
    """Spherical k-means within each route (Dhillon and Modha, 2001), seeded farthest first.

    A route with fewer distinct examples than ``per_route`` keeps each as a prototype.
    """

    def fit(vectors: Matrix, labels: Labels, routes: int) -> Prototypes:
        groups = [spherical_k_means(vectors[labels == route], per_route) for route in range(routes)]
        sizes = [len(group) for group in groups]
        starts = np.cumsum([0, *sizes[:-1]]).astype(np.intp)
        return Prototypes(np.concatenate(groups), starts)

    return fit


def fit_logistic(vectors: Matrix, labels: Labels, routes: int) -> Logistic:
    """Minimise mean cross-entropy + l2/2 |W|^2 by Nesterov's accelerated gradient descent.

    The loss is smooth with constant L <= 1/2 + l2 for unit vectors with a bias column, so the
    step 1/L needs no search; 500 steps bring a few hundred examples to convergence in
    milliseconds. The penalty is light because the temperature is fitted afterwards.
    """
    l2, steps = 1e-3, 500
    inputs = np.hstack([vectors, np.ones((len(vectors), 1), np.float32)])
    targets = np.eye(routes, dtype=np.float32)[labels]
    # Routes weigh the same, however many examples each has.
    weight = (1.0 / (np.bincount(labels, minlength=routes)[labels] * routes)).astype(np.float32)
    rate = 1.0 / (1.0 + l2)  # |input|^2 = 2 with the bias; softmax's Hessian is at most 1/2
    theta = np.zeros((routes, inputs.shape[1]), np.float32)
    ahead = theta
    for step in range(steps):
        residual = (softmax(inputs @ ahead.T) - targets) * weight[:, None]
        gradient = residual.T @ inputs
        gradient[:, :-1] += l2 * ahead[:, :-1]
        moved = ahead - rate * gradient
        ahead = moved + np.float32(step / (step + 3)) * (moved - theta)
        theta = moved
    return Logistic(theta[:, :-1], theta[:, -1])


def spherical_k_means(vectors: Matrix, k: int) -> Matrix:
    """At most ``k`` unit vectors, each the direction of a cluster's mean; deterministic."""
    centres = _farthest_first(vectors, k)
    for _ in range(20):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        occupied = np.bincount(nearest, minlength=len(centres)) > 0
        moved = np.where(occupied[:, None], _unit(sums), centres)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def softmax(logits: Matrix) -> Matrix:
    """Probabilities over the last axis, safe for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Matrix = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def margins(probabilities: Matrix) -> NDArray[np.float64]:
    """The lead of the most probable route over the second; 1 if there is only one route."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    best = np.partition(probabilities, -2, axis=1)[:, -2:].astype(np.float64)
    lead: NDArray[np.float64] = best[:, 1] - best[:, 0]
    return lead


def _farthest_first(vectors: Matrix, k: int) -> Matrix:
    """Deterministic seeds: the one nearest the mean, then always the one worst covered."""
    chosen = [int(np.argmax(vectors @ vectors.mean(axis=0)))]
    covered = vectors @ vectors[chosen[0]]
    while len(chosen) < k and covered.min() < 1.0 - 1e-6:
        chosen.append(int(np.argmin(covered)))
        covered = np.maximum(covered, vectors @ vectors[chosen[-1]])
    return vectors[chosen]


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Matrix = rows / np.maximum(norms, np.float32(1e-12))
    return unit
