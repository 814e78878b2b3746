"""Fit heads of `routing` on embeddings, inner layers and lexical features.

The same rows and seed give the same head. Fitting needs scipy (the `eval` extra); serving does not.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.train.linear_fitting import fit_linear, fit_standard
from extproc.lab.train.perceptron_fitting import fit_layer
from extproc.routing.lexical_features import Sparse
from extproc.routing.scorers import Fit, fit_centroids, fit_logistic, fit_prototypes
from extproc.routing.trained_heads import Head, Inputs, OnEmbedding, Trained

# inputs, labels, routes, seed, and a head of the same scorer to go on from
FitHead = Callable[[Inputs, Labels, int, int, Head | None], Head]


def take(inputs: Inputs, rows: NDArray[np.intp]) -> Inputs:
    """Some of the rows, in the order of ``rows``."""
    words = inputs.words
    return Inputs(
        vectors=inputs.vectors[rows],
        inner=None if inputs.inner is None else inputs.inner[rows],
        words=None if words is None else _take_words(words, rows),
        static=None if inputs.static is None else inputs.static[rows],
    )


def on_embedding(fit: Fit) -> FitHead:
    """The fitting of a scorer that serving can fit, too."""
    return lambda inputs, labels, routes, _, __: OnEmbedding(fit(inputs.vectors, labels, routes))


def fit_lexical(inputs: Inputs, labels: Labels, routes: int, _: int, start: Head | None = None) -> Trained:
    """Logistic regression on the embedding, its inner layers and lexical features."""
    return fit_linear(inputs, labels, routes, start if isinstance(start, Trained) else None)


def fit_dense(inputs: Inputs, labels: Labels, routes: int, seed: int, start: Head | None = None) -> Trained:
    """`fit_lexical` without lexical features."""
    return fit_lexical(msgspec.structs.replace(inputs, words=None), labels, routes, seed, start)


def fit_perceptron(
    inputs: Inputs, labels: Labels, routes: int, seed: int, start: Head | None = None
) -> Trained:
    """A perceptron on the embedding and its inner layers."""
    standard = fit_standard(inputs)
    layer = start.perceptron if isinstance(start, Trained) else None
    return Trained(standard, perceptron=fit_layer(standard.apply(inputs), labels, routes, seed, layer))


def blend(linear: Trained, perceptron: Trained, temperatures: tuple[float, float]) -> Trained:
    """Both fitted on the same rows, so that their `Standard` is the same."""
    return Trained(linear.standard, linear.linear, linear.lexicon, perceptron.perceptron, temperatures)


SCORERS: dict[str, FitHead] = {
    "centroid": on_embedding(fit_centroids),
    "prototypes": on_embedding(fit_prototypes(4)),
    "logistic": on_embedding(fit_logistic),
    "linear": fit_dense,
    "lexical": fit_lexical,
    "perceptron": fit_perceptron,
}
BLEND = "blend"  # of lexical and perceptron
NOT_OF_MANY = ("logistic", "linear")  # with many rows, slow; `lexical` has all that they read, and words
NOT_OF_FEW = ("perceptron", BLEND)  # with fewer than ENOUGH_ROWS rows, slow to fit


def _take_words(words: Sparse, rows: NDArray[np.intp]) -> Sparse:
    starts = np.concatenate([[0], np.cumsum(np.diff(words.starts)[rows])]).astype(np.intp)
    moved = np.repeat(words.starts[rows] - starts[:-1], np.diff(starts))
    return Sparse(words.columns[moved + np.arange(starts[-1])], starts, words.words[rows])
