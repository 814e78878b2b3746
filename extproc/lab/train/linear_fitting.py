"""Fit multinomial logistic regression on an embedding, its inner layers and lexical features.

A fit may go on from the head of a fit on most of the same rows, which takes a quarter of the steps.
The same rows and the same start give the same head.
"""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
from scipy.sparse import csr_matrix

from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.train.optimisers import Loss, minimise
from extproc.routing.lexical_features import WIDTH, Sparse
from extproc.routing.scorers import Matrix, softmax
from extproc.routing.trained_heads import Inputs, Lexicon, Linear, Standard, Trained

STRENGTH = 10.0  # C of logistic regression: the penalty is |W|^2 / (2 STRENGTH n), beside the mean loss
STEPS = 25  # of L-BFGS; more change no decision
STEPS_ON = 6  # from the head of a fit on four fifths of the rows; they reach a lower loss than 25 from zero
NORM = 0.6  # of a text's word features and of its character features (the embedding's is 1), by held-out rows
MANY_ROWS, ENOUGH_ROWS = 5000, 500  # with more rows, features of less than 3, or of a single row, are ignored
_THREADS = 2
_BLOCK = 256
PRIOR_ROWS = 32.0  # the weight, in rows, of the variance common to all features of a block


def fit_linear(inputs: Inputs, labels: Labels, routes: int, start: Trained | None = None) -> Trained:
    """Logistic regression on the embedding, its inner layers and, where given, lexical features."""
    standard = fit_standard(inputs)
    dense = standard.apply(inputs)
    lexicon = None if inputs.words is None else _empty_lexicon(inputs.words, routes)
    sparse = None if lexicon is None or inputs.words is None else _design(lexicon, inputs.words)
    begun = np.zeros((dense.shape[1] + 1 + (0 if sparse is None else sparse.shape[1]), routes), np.float32)
    if start is not None:
        _begin(begun, lexicon, start)
    theta = _logistic(dense, sparse, labels, begun, STEPS if start is None else STEPS_ON)
    width = dense.shape[1]
    if lexicon is not None:
        lexicon = msgspec.structs.replace(lexicon, weights=theta[width + 1 :])
    return Trained(standard, linear=Linear(theta[:width], theta[width]), lexicon=lexicon)


def fit_standard(inputs: Inputs) -> Standard:
    """Mean and deviation of each feature; with few rows, variances are shrunk to the mean of their block.

    The shrunk variance is (n s^2 + PRIOR_ROWS s_block^2) / (n + PRIOR_ROWS), the posterior scale with a prior
    worth PRIOR_ROWS rows (Gelman et al., 2013, 2.6).
    """
    rows = inputs.vectors if inputs.inner is None else np.hstack([inputs.vectors, inputs.inner])
    width, blocks = rows.shape[1], rows.shape[1] // inputs.vectors.shape[1]
    centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.zeros(width)
    for start in range(0, len(rows), _BLOCK):  # small ones stay in the processor's cache
        moved = rows[start : start + _BLOCK] - centre
        squares += np.einsum("nd,nd->d", moved, moved)
    variance = (squares / len(rows)).reshape(blocks, -1)
    common = variance.mean(axis=1, keepdims=True)
    shrunk = (len(rows) * variance + PRIOR_ROWS * common) / (len(rows) + PRIOR_ROWS)
    return Standard(
        centre=centre,
        scale=(1.0 / np.sqrt(np.maximum(shrunk, 1e-12))).reshape(width).astype(np.float32),
        blocks=blocks,
    )


def _begin(theta: Matrix, lexicon: Lexicon | None, start: Trained) -> None:
    """Write the weights of ``start`` into ``theta``; features that it does not have stay zero."""
    assert start.linear is not None
    width = len(start.linear.weights)
    theta[:width], theta[width] = start.linear.weights, start.linear.bias
    if lexicon is not None and start.lexicon is not None:
        known = np.flatnonzero(
            (start.lexicon.slots < len(start.lexicon.weights) - 1)
            & (lexicon.slots < len(lexicon.weights) - 1)
        )
        theta[width + 1 + lexicon.slots[known]] = start.lexicon.weights[start.lexicon.slots[known]]


def _logistic(dense: Matrix, sparse: csr_matrix | None, labels: Labels, start: Matrix, steps: int) -> Matrix:
    """Weights of dense features, the bias and lexical weights that minimise the penalised mean cross-entropy.

    This is multinomial logistic regression (Hastie, Tibshirani and Friedman, 2009, 4.4). All routes have the
    same weight. The bias has no penalty. The last row of the lexical weights, for unseen features, stays
    zero.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        products = None if sparse is None else _Products(sparse, threads)
        return minimise(
            _cross_entropy(dense, products, labels, start.shape[1]), start, _scale(dense, sparse), steps
        )


class _Products:
    """Products of a sparse matrix with dense ones, in two threads; scipy uses one.

    Each thread computes its own rows of the result, so that the number of threads changes no bit.
    """

    def __init__(self, sparse: csr_matrix, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._rows = _halves(sparse)
        self._columns = _halves(sparse.T.tocsr())

    def add(self, weights: Matrix, to: Matrix) -> None:
        """Add the matrix times ``weights``."""
        self._add(self._rows, weights, to)

    def add_across(self, errors: Matrix, to: Matrix) -> None:
        """Add the transposed matrix times ``errors``."""
        self._add(self._columns, errors, to)

    def _add(self, halves: list[tuple[slice, csr_matrix]], right: Matrix, to: Matrix) -> None:
        def one(half: tuple[slice, csr_matrix]) -> None:
            rows, left = half
            to[rows] += left @ right

        list(self._threads.map(one, halves))


def _halves(matrix: csr_matrix) -> list[tuple[slice, csr_matrix]]:
    """The upper and the lower rows with half of the entries each."""
    middle = int(np.searchsorted(matrix.indptr, matrix.nnz // 2))
    return [(half, matrix[half]) for half in (slice(0, middle), slice(middle, matrix.shape[0]))]


def _cross_entropy(dense: Matrix, products: _Products | None, labels: Labels, routes: int) -> Loss:
    """The loss of `_logistic`, of the weights of dense features, the bias and the lexical weights in one."""
    width, every = dense.shape[1], np.arange(len(labels))
    share = (1.0 / (np.bincount(labels, minlength=routes)[labels] * routes)).astype(np.float32)
    across = np.ascontiguousarray(dense.T)
    penalty = np.float32(1.0 / (STRENGTH * len(labels)))

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        logits = dense @ theta[:width]
        logits += theta[width]
        if products is not None:
            products.add(theta[width + 1 :], logits)
        chances = softmax(logits)
        likely = np.maximum(chances[every, labels], np.float32(1e-30))
        chances[every, labels] -= 1
        chances *= share[:, None]
        gradient = penalty * theta
        gradient[width] = 0
        size = float(np.vdot(theta, gradient))
        gradient[:width] += across @ chances
        gradient[width] = chances.sum(axis=0)
        if products is not None:
            products.add_across(chances, gradient[width + 1 :])
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
    seen = np.flatnonzero(rows >= (3 if len(words) >= MANY_ROWS else 2 if len(words) >= ENOUGH_ROWS else 1))
    slots = np.full(WIDTH, len(seen), np.int32)
    slots[seen] = np.arange(len(seen), dtype=np.int32)
    return Lexicon(slots, rarity.astype(np.float32), np.zeros((len(seen) + 1, routes), np.float32), NORM)


def _design(lexicon: Lexicon, words: Sparse) -> csr_matrix:
    """The lexical features of each row with serving's weights; the column of unseen features is zero."""
    values = lexicon.rarity[words.columns]
    parts = np.append(np.column_stack([words.starts[:-1], words.starts[:-1] + words.words]), words.starts[-1])
    squares = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) ** 2)])[parts]
    lengths = np.sqrt(np.maximum(np.diff(squares), 1e-24))  # of a row's words, and of its characters
    values *= np.repeat(lexicon.norm / lengths, np.diff(parts)).astype(np.float32)
    slots = lexicon.slots[words.columns]
    unseen = len(lexicon.weights) - 1
    values[slots == unseen] = 0
    return csr_matrix((values, slots, words.starts), shape=(len(words), unseen + 1))
