"""Trained heads: score a text against every route, with numpy alone.

A head reads the embedding of a text, the encoder's inner layers and the lexical features. It returns
logits, which a `calibration.Calibration` turns into probabilities.
"""

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.routing.lexical_features import Sparse
from extproc.routing.scorers import Matrix, Scorer, softmax


class Inputs(msgspec.Struct, frozen=True):
    """The inputs of a head. Each text is one row."""

    vectors: Matrix  # (n, dimensions), unit rows
    inner: Matrix | None = None  # (n, inner dimensions): see vocabulary.Embedding
    words: Sparse | None = None  # of routing.features
    static: Matrix | None = None  # (n, components) of the static encoder, for the fast path

    def __len__(self) -> int:
        return len(self.vectors)


class Head(Protocol):
    """Scores texts against every route at once."""

    def logits(self, inputs: Inputs) -> Matrix:
        """Shape (n, routes)."""
        ...


class OnEmbedding(msgspec.Struct, frozen=True):
    """A scorer that reads the embedding and nothing else."""

    scorer: Scorer

    def logits(self, inputs: Inputs) -> Matrix:
        """The scorer's own, shape (n, routes)."""
        return self.scorer.logits(inputs.vectors)


class Standard(msgspec.Struct, frozen=True):
    """Embedding and inner layers, each standardised by feature and then of unit length.

    Inner layers have a few features that are large for every text; standardised, they count no
    more than others, and each layer no more than the embedding.
    """

    centre: Matrix  # (width,)
    scale: Matrix  # (width,) what to multiply with
    blocks: int  # vectors side by side, the embedding first; width = blocks * dimensions

    def apply(self, inputs: Inputs) -> Matrix:
        """Shape (n, width)."""
        rows = inputs.vectors if inputs.inner is None else np.hstack([inputs.vectors, inputs.inner])
        moved = ((rows - self.centre) * self.scale).reshape(len(rows), self.blocks, -1)
        length = np.sqrt(np.einsum("nbd,nbd->nb", moved, moved))
        unit: Matrix = (moved / np.maximum(length, np.float32(1e-12))[:, :, None]).reshape(rows.shape)
        return unit


class Linear(msgspec.Struct, frozen=True):
    """Multinomial logistic regression on what `Standard` gives."""

    weights: Matrix  # (width, routes)
    bias: Matrix  # (routes,)

    def logits(self, dense: Matrix) -> Matrix:
        """Log-odds up to a constant, shape (n, routes)."""
        return dense @ self.weights + self.bias


class Lexicon(msgspec.Struct, frozen=True):
    """The linear head's part for lexical features: a row of weights for each that training saw.

    A text's words and its character n-grams are each weighted by rarity and of length ``norm``, so
    that they count about as much as the embedding whatever the length of the text; features that
    training never saw take their share of that length with them.
    """

    slots: NDArray[np.int32]  # (features.WIDTH,) the row of ``weights``; the last one is all zero
    rarity: Matrix  # (features.WIDTH,) inverse document frequency
    weights: Matrix  # (features seen + 1, routes)
    norm: float

    def values(self, words: Sparse, row: int) -> Matrix:
        """The weight of each of a row's features."""
        values = self.rarity[words.row(row)]
        split = int(words.words[row])
        for part in (values[:split], values[split:]):
            part *= np.float32(self.norm / max(float(np.sqrt(part @ part)), 1e-12))
        return values

    def logits(self, words: Sparse) -> Matrix:
        """What the features add to the linear head's logits, shape (n, routes)."""
        found = np.empty((len(words), self.weights.shape[1]), np.float32)
        for row in range(len(words)):
            found[row] = self.values(words, row) @ self.weights[self.slots[words.row(row)]]
        return found


class Perceptron(msgspec.Struct, frozen=True):
    """One hidden layer of rectified units on what `Standard` gives: for routes of several kinds."""

    hidden: Matrix  # (width, units)
    hidden_bias: Matrix  # (units,)
    weights: Matrix  # (units, routes)
    bias: Matrix  # (routes,)

    def logits(self, dense: Matrix) -> Matrix:
        """Shape (n, routes)."""
        raised = np.maximum(dense @ self.hidden + self.hidden_bias, np.float32(0))
        logits: Matrix = raised @ self.weights + self.bias
        return logits


class Trained(msgspec.Struct, frozen=True):
    """A head from `extproc train`: a linear part, a perceptron, or the mean of both.

    Each part has its own temperature, applied before the mean, so that an overconfident part does not
    dominate the other.
    """

    standard: Standard
    linear: Linear | None = None
    lexicon: Lexicon | None = None  # only with ``linear``
    perceptron: Perceptron | None = None
    temperatures: tuple[float, float] = (1.0, 1.0)  # of the linear part and of the perceptron

    def logits(self, inputs: Inputs) -> Matrix:
        """Log-probabilities if both parts exist, else the logits of one part; shape (n, routes)."""
        dense = self.standard.apply(inputs)
        linear, perceptron = self._linear(dense, inputs), None
        if self.perceptron is not None:
            perceptron = self.perceptron.logits(dense)
        if linear is None or perceptron is None:
            only = perceptron if linear is None else linear
            assert only is not None  # a head always has at least one part
            return only
        return mean_of_logs(linear, perceptron, self.temperatures)

    def _linear(self, dense: Matrix, inputs: Inputs) -> Matrix | None:
        if self.linear is None:
            return None
        logits = self.linear.logits(dense)
        if self.lexicon is not None and inputs.words is not None:
            logits = logits + self.lexicon.logits(inputs.words)
        return logits


def reads_inner(head: Head) -> bool:
    """Whether the head needs the encoder's inner layers."""
    return isinstance(head, Trained) and head.standard.blocks > 1


def reads_words(head: Head) -> bool:
    """Whether the head needs lexical features."""
    return isinstance(head, Trained) and head.lexicon is not None


def mean_of_logs(linear: Matrix, perceptron: Matrix, temperatures: tuple[float, float]) -> Matrix:
    """The mean of both log-probabilities, each at its own temperature; shape (n, routes)."""
    first, second = (np.float32(value) for value in temperatures)
    mean: Matrix = (log_softmax(linear / first) + log_softmax(perceptron / second)) / np.float32(2)
    return mean


def log_softmax(logits: Matrix) -> Matrix:
    """Log-probabilities over the last axis; never below what float32 can hold."""
    logs: Matrix = np.log(np.maximum(softmax(logits), np.float32(1e-30)))
    return logs
