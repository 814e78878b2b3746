"""Fit heads of `routing` on embeddings, inner layers and lexical features.

The same rows and seed give the same head. Fitting needs scipy (the `eval` extra); serving does not.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.train.optimisers import Adam, Loss, minimise
from extproc.routing.lexical_features import WIDTH, Sparse
from extproc.routing.scorers import Fit, Matrix, fit_centroids, fit_logistic, fit_prototypes, softmax
from extproc.routing.trained_heads import (
    Head,
    Inputs,
    Lexicon,
    Linear,
    OnEmbedding,
    Perceptron,
    Standard,
    Trained,
)

FitHead = Callable[[Inputs, Labels, int, int], Head]  # inputs, labels, routes, seed

STRENGTH = 10.0  # C of logistic regression: the penalty is |W|^2 / (2 STRENGTH n), beside the mean loss
STEPS = 25  # of L-BFGS; more change no decision
NORM = 0.6  # of a text's word features and of its character features (the embedding's is 1), by held-out rows
MANY_ROWS = 5000  # fewer rows need more epochs
ENOUGH_ROWS = 500  # with more rows, features of a single row are ignored
PRIOR_ROWS = 32.0  # the weight, in rows, of the variance common to all features of a block

UNITS = 512
DROPPED, DROPPED_INPUTS = 0.5, 0.3
SMOOTHED = 0.1
RATE = 2e-3


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
    return lambda inputs, labels, routes, _: OnEmbedding(fit(inputs.vectors, labels, routes))


def fit_linear(inputs: Inputs, labels: Labels, routes: int, _: int) -> Trained:
    """Logistic regression on the embedding, its inner layers and, where given, lexical features."""
    standard = fit_standard(inputs)
    dense = standard.apply(inputs)
    lexicon = None if inputs.words is None else _empty_lexicon(inputs.words, routes)
    sparse = None if lexicon is None or inputs.words is None else _design(lexicon, inputs.words)
    weights, bias, of_words = _logistic(dense, sparse, labels, routes)
    if lexicon is not None and of_words is not None:
        lexicon = msgspec.structs.replace(lexicon, weights=of_words)
    return Trained(standard, linear=Linear(weights, bias), lexicon=lexicon)


def fit_dense(inputs: Inputs, labels: Labels, routes: int, seed: int) -> Trained:
    """`fit_linear` without lexical features."""
    return fit_linear(msgspec.structs.replace(inputs, words=None), labels, routes, seed)


def fit_perceptron(inputs: Inputs, labels: Labels, routes: int, seed: int) -> Trained:
    """A perceptron on the embedding and its inner layers."""
    standard = fit_standard(inputs)
    return Trained(standard, perceptron=_perceptron(standard.apply(inputs), labels, routes, seed))


def blend(linear: Trained, perceptron: Trained, temperatures: tuple[float, float]) -> Trained:
    """Both fitted on the same rows, so that their `Standard` is the same."""
    return Trained(linear.standard, linear.linear, linear.lexicon, perceptron.perceptron, temperatures)


SCORERS: dict[str, FitHead] = {
    "centroid": on_embedding(fit_centroids),
    "prototypes": on_embedding(fit_prototypes(4)),
    "logistic": on_embedding(fit_logistic),
    "linear": fit_dense,
    "lexical": fit_linear,
    "perceptron": fit_perceptron,
}
BLEND = "blend"  # of lexical and perceptron
NOT_OF_MANY = ("logistic", "linear")  # with many rows, slow; `lexical` has all that they read, and words
NOT_OF_FEW = ("perceptron", BLEND)  # with fewer than ENOUGH_ROWS rows, slow to fit


def fit_standard(inputs: Inputs) -> Standard:
    """Mean and deviation of each feature; with few rows, variances are shrunk to the mean of their block.

    The shrunk variance is (n s^2 + PRIOR_ROWS s_block^2) / (n + PRIOR_ROWS), the posterior scale with a prior
    worth PRIOR_ROWS rows (Gelman et al., 2013, 2.6).
    """
    rows = inputs.vectors if inputs.inner is None else np.hstack([inputs.vectors, inputs.inner])
    width, blocks = rows.shape[1], rows.shape[1] // inputs.vectors.shape[1]
    variance = rows.var(axis=0, dtype=np.float64).reshape(blocks, -1)
    common = variance.mean(axis=1, keepdims=True)
    shrunk = (len(rows) * variance + PRIOR_ROWS * common) / (len(rows) + PRIOR_ROWS)
    return Standard(
        centre=rows.mean(axis=0, dtype=np.float64).astype(np.float32),
        scale=(1.0 / np.sqrt(np.maximum(shrunk, 1e-12))).reshape(width).astype(np.float32),
        blocks=blocks,
    )


def _logistic(
    dense: Matrix, sparse: csr_matrix | None, labels: Labels, routes: int
) -> tuple[Matrix, Matrix, Matrix | None]:
    """Weights, bias and lexical weights that minimise the penalised mean cross-entropy.

    This is multinomial logistic regression (Hastie, Tibshirani and Friedman, 2009, 4.4). All routes have the
    same weight. The bias has no penalty. The last row of the lexical weights, for unseen features, stays
    zero.
    """
    width, features = dense.shape[1], 0 if sparse is None else sparse.shape[1]
    start = np.zeros((width + 1 + features, routes), np.float32)
    theta = minimise(_cross_entropy(dense, sparse, labels, routes), start, _scale(dense, sparse), STEPS)
    return theta[:width], theta[width], theta[width + 1 :] if features else None


def _cross_entropy(dense: Matrix, sparse: csr_matrix | None, labels: Labels, routes: int) -> Loss:
    """The loss of `_logistic`, of the weights of dense features, the bias and the lexical weights in one."""
    width, every = dense.shape[1], np.arange(len(labels))
    share = (1.0 / (np.bincount(labels, minlength=routes)[labels] * routes)).astype(np.float32)
    across, across_sparse = np.ascontiguousarray(dense.T), None if sparse is None else sparse.T.tocsr()
    penalty = np.float32(1.0 / (STRENGTH * len(labels)))

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        logits = dense @ theta[:width] + theta[width]
        if sparse is not None:
            logits += sparse @ theta[width + 1 :]
        chances = softmax(logits)
        likely = np.maximum(chances[every, labels], np.float32(1e-30))
        chances[every, labels] -= 1
        chances *= share[:, None]
        gradient = penalty * theta
        gradient[width] = 0
        size = float(np.vdot(theta, gradient))
        gradient[:width] += across @ chances
        gradient[width] = chances.sum(axis=0)
        if across_sparse is not None:
            gradient[width + 1 :] += across_sparse @ chances
        return float(-(share * np.log(likely)).sum()) + size / 2, gradient

    return loss


def _scale(dense: Matrix, sparse: csr_matrix | None) -> Matrix:
    """By feature, the root of the largest deviation over its own.

    The inverse curvature would be its square. On held-out rows it overfits rare features.
    """
    squares = [(dense**2).mean(axis=0), np.ones(1)]
    if sparse is not None:
        squares.append(np.asarray(sparse.multiply(sparse).sum(axis=0)).ravel() / len(dense))
    size = np.maximum(np.concatenate(squares), 1e-12)
    scale: Matrix = ((size.max() / size) ** 0.25).astype(np.float32)[:, None]
    return scale


def _empty_lexicon(words: Sparse, routes: int) -> Lexicon:
    """The features of the training rows with their rarity, log((n + 1) / (df + 1)) + 1.

    This is the smoothed inverse document frequency (Spärck Jones, 1972; the form of scikit-learn).
    """
    rows = np.bincount(words.columns, minlength=WIDTH)  # columns are distinct within a row
    rarity = np.log((len(words) + 1) / (rows + 1)) + 1
    seen = np.flatnonzero(rows >= (2 if len(words) >= ENOUGH_ROWS else 1))
    slots = np.full(WIDTH, len(seen), np.int32)
    slots[seen] = np.arange(len(seen), dtype=np.int32)
    return Lexicon(slots, rarity.astype(np.float32), np.zeros((len(seen) + 1, routes), np.float32), NORM)


def _design(lexicon: Lexicon, words: Sparse) -> csr_matrix:
    """The lexical features of each row with serving's weights; the column of unseen features is zero."""
    values = [lexicon.values(words, row) for row in range(len(words))]
    flat = np.concatenate(values) if values else np.zeros(0, np.float32)
    slots = lexicon.slots[words.columns]
    unseen = len(lexicon.weights) - 1
    flat = np.where(slots == unseen, np.float32(0), flat)
    return csr_matrix((flat, slots, words.starts), shape=(len(words), unseen + 1))


def _take_words(words: Sparse, rows: NDArray[np.intp]) -> Sparse:
    parts = [words.row(int(row)) for row in rows]
    return Sparse(
        columns=np.concatenate(parts) if parts else np.zeros(0, np.int32),
        starts=np.cumsum([0, *map(len, parts)]).astype(np.intp),
        words=words.words[rows],
    )


def _perceptron(dense: Matrix, labels: Labels, routes: int, seed: int) -> Perceptron:
    """One hidden layer, fitted by AdamW on a cosine schedule (Loshchilov and Hutter, 2017 and 2019).

    It has dropout (Srivastava et al., 2014), smoothed labels (Szegedy et al., 2016) and He initialisation
    (2015). Inputs are scaled to unit deviation for training, and the weights then include the scale. All
    routes are drawn equally often.
    """
    random = np.random.default_rng(seed)
    scale = np.float32(1.0 / max(float(dense.std()), 1e-6))
    dense = dense * scale
    width = dense.shape[1]
    batch = int(np.clip(len(labels) // 16, 16, 128))
    epochs = 20 if len(labels) >= MANY_ROWS else 60
    steps = epochs * max(1, len(labels) // batch)
    chance = 1.0 / np.bincount(labels, minlength=routes)[labels].astype(np.float64)
    chance /= chance.sum()
    weights = [
        (random.normal(size=(width, UNITS)) * np.sqrt(2 / width)).astype(np.float32),
        np.zeros(UNITS, np.float32),
        (random.normal(size=(UNITS, routes)) * np.sqrt(1 / UNITS)).astype(np.float32),
        np.zeros(routes, np.float32),
    ]
    adam = Adam(weights)
    smooth = np.full((routes, routes), SMOOTHED / routes, np.float32)
    smooth[np.diag_indices(routes)] += np.float32(1 - SMOOTHED)
    for step in range(steps):
        rows = random.choice(len(labels), batch, p=chance)
        x = _drop(dense[rows], DROPPED_INPUTS, random)
        raised = np.maximum(x @ weights[0] + weights[1], 0)
        kept = _drop(np.ones_like(raised), DROPPED, random)
        hidden = raised * kept
        error = (softmax(hidden @ weights[2] + weights[3]) - smooth[labels[rows]]) / np.float32(batch)
        back = (error @ weights[2].T) * kept * (raised > 0)
        gradients = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        adam.step(gradients, RATE * 0.5 * (1 + np.cos(np.pi * step / steps)))
    return Perceptron(weights[0] * scale, weights[1], weights[2], weights[3])


def _drop(values: Matrix, share: float, random: np.random.Generator) -> Matrix:
    kept = (random.random(values.shape, np.float32) >= share).astype(np.float32)
    dropped: Matrix = values * kept / np.float32(1 - share)
    return dropped
