"""Decide how far predicted quality is trusted, by leaving out whole kinds of prompts.

A head that predicts rows like those of its training well may predict other kinds of prompts worse than the
length of a prompt does. So each kind (a set that the data names, else a cluster of embeddings) is predicted
by a fit without it, and a head that is no better there than prompt length is not served.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import minimize

from extproc.lab.measure.classification_metrics import Floats, Labels
from extproc.routing.predicted_quality import Familiarity, length_of, sigmoid
from extproc.routing.scorers import Matrix

KINDS = 10  # clusters, where the data names no sets
FEWEST_OF_KIND = 10  # texts of a cluster on average
KNOWN = 2000  # prompts that an artefact keeps; 1.5 MB
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the head, beside prompt length
_TESTED = (0.01, 0.10)  # quantiles of the similarities at which kinds were left out
_BEYOND = 0.1  # similarity below the least tested one at which trust ends
_SLOPE_PENALTY = 1.0


class LeftOut(msgspec.Struct, frozen=True):
    """Log-odds of each text, by fits without its kind."""

    kinds: Labels
    head: Floats  # (n, models) of the head, calibrated
    plain: Floats  # (n, models) by prompt length
    base: Floats  # (n, models) each model's mean
    similarity: Floats  # (n,) to the nearest text of other kinds


def kinds_of(sets: Sequence[str], vectors: Matrix, seed: int) -> tuple[Labels, tuple[str, ...]]:
    """The kind of each text, and the names of the sets; clusters have no names.

    A file with one set, or none, is divided by k-means.
    """
    names = tuple(sorted(set(sets)))
    if len(names) > 1:
        return np.array([names.index(each) for each in sets], np.intp), names
    clusters = max(2, min(KINDS, len(vectors) // FEWEST_OF_KIND))
    # Equal vectors, of which k-means++ could not choose different centres, are moved apart a little.
    apart = vectors + np.random.default_rng(seed).normal(scale=1e-6, size=vectors.shape)
    _, found = kmeans2(apart, clusters, iter=30, minit="++", seed=seed)
    return np.unique(found, return_inverse=True)[1].astype(np.intp), ()


def fit_length(looks: Matrix, scores: Floats, centre: float, scale: float) -> tuple[Floats, Floats]:
    """Slope and bias of each model's log-odds in the length of the prompt (logistic regression)."""
    length = length_of(looks, centre, scale).astype(np.float64)
    pairs = [_logistic(length, scores[:, m]) for m in range(scores.shape[1])]
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


def familiarity(left: LeftOut, scores: Floats, known: Matrix, plain: tuple[Floats, Floats]) -> Familiarity:
    """The trust that predicts the differences between models best where their kind was left out.

    ``plain`` is prompt length's slope and bias on all rows. Its slope is dropped where each model's mean
    predicts as well.
    """
    slope, bias = plain
    reference = left.plain
    if loss_of(left.base, scores) <= loss_of(left.plain, scores):
        means = np.nanmean(scores, axis=0).clip(0.01, 0.99)
        slope, bias, reference = np.zeros_like(slope), np.log(means / (1 - means)), left.base
    least, near = (float(value) for value in np.quantile(left.similarity, _TESTED))
    found = Familiarity(
        known, least - _BEYOND, max(near, least - _BEYOND + 0.01), 0.0,
        slope.astype(np.float32), bias.astype(np.float32),
    )  # fmt: skip
    losses = [
        loss_of(blended(msgspec.structs.replace(found, most=share), left, reference), scores)
        for share in SHARES
    ]
    return msgspec.structs.replace(found, most=SHARES[int(np.argmin(losses))])


def blended(trust: Familiarity, left: LeftOut, reference: Floats | None = None) -> Floats:
    """The log-odds as they are served, of texts whose kind was left out."""
    plain = reference
    if plain is None:
        plain = left.plain if trust.slope.any() else left.base
    weight = trust.trust(left.similarity.astype(np.float32))[:, None]
    found: Floats = plain + weight * (left.head - plain)
    return found


def loss_of(logits: Floats, scores: Floats) -> float:
    """Squared error of the differences between models on one text; of the scores, where one was asked."""
    error = np.where(np.isnan(scores), np.nan, sigmoid(logits) - scores)
    several = (~np.isnan(error)).sum(axis=1) > 1
    if not several.any():
        return float(np.nanmean(error**2))
    return float(np.nanvar(error[several], axis=1).mean())


def known_prompts(vectors: Matrix, places: Floats) -> Matrix:
    """Embeddings of the prompts that the artefact keeps: all, or those with the lowest hashes."""
    return vectors[np.sort(np.argsort(places, kind="stable")[:KNOWN])].astype(np.float16).astype(np.float32)


def _logistic(length: Floats, scores: Floats) -> tuple[float, float]:
    asked = ~np.isnan(scores)
    x, y = length[asked], scores[asked]
    if not len(x):
        return 0.0, 0.0

    def loss(theta: Floats) -> tuple[float, Floats]:
        logits = theta[0] * x + theta[1]
        residual = sigmoid(logits) - y
        value = float((np.logaddexp(0, logits) - y * logits).sum())
        penalty = _SLOPE_PENALTY * theta**2 / 2
        gradient = np.array([residual @ x, residual.sum()]) + _SLOPE_PENALTY * theta
        return value + float(penalty.sum()), gradient

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])
