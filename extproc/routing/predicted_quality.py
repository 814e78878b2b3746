"""Predicted quality: how likely each model is to answer a request well, and how long the answer is.

One linear model reads what is known of a text before it is answered: the encoder's inner layers (or its
embedding, if it has no inner layers), lexical features and surface features. All models
are predicted by one matrix product, so that a decision costs microseconds however many there are.
"""

from collections.abc import Collection

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import EncoderFailed
from extproc.routing.lexical_features import Sparse, lexical
from extproc.routing.scorers import Matrix
from extproc.routing.surface_features import surface
from extproc.routing.trained_heads import Inputs, Standard
from extproc.vocabulary import Embedding, ModelName

FOLDED = 1024  # numbers that a text's words, and as many that its character n-grams, are folded into
_SURFACE_WEIGHT = np.float32(1.0)
_SIGMAS = np.float32(3.0)  # a surface feature counts no more than this many deviations
_SIGN = np.uint64(0x9E3779B97F4A7C15)


class Forecast(msgspec.Struct, frozen=True):
    """What is expected of one model's answer."""

    quality: float  # the probability that it is good, [0, 1]
    tokens: float | None = None  # its length; None: not known of any model


class QualityHead(msgspec.Struct, frozen=True):
    """Turns a text into the numbers that quality is predicted from."""

    standard: Standard  # of the encoder's layers
    deep: bool  # inner layers are read, and not the embedding
    centre: Matrix  # (surface features,)
    scale: Matrix  # (surface features,) what to multiply with

    def apply(self, inputs: Inputs, looks: Matrix) -> Matrix:
        """Shape (n, width): layers, surface, words and characters, each block of about unit length.

        ``looks`` are the texts' surface features. Raises ``EncoderFailed`` where inner layers are
        missing that were there in training.
        """
        assert inputs.words is not None  # the caller always computes them
        if self.deep and inputs.inner is None:
            raise EncoderFailed("the encoder returns no inner layers, but predicted quality needs them")
        layers = self.standard.apply(Inputs(layers_of(inputs, deep=self.deep)))
        moved = np.clip((looks - self.centre) * self.scale, -_SIGMAS, _SIGMAS)
        seen = moved * (_SURFACE_WEIGHT / np.float32(np.sqrt(looks.shape[1])))
        return np.hstack([layers, seen, fold(inputs.words)]).astype(np.float32)


class Quality(msgspec.Struct, frozen=True):
    """Calibrated P(good | text) of each model, and the length of its answer."""

    models: tuple[ModelName, ...]
    reading: QualityHead
    weights: Matrix  # (width, models)
    bias: Matrix  # (models,) both give log-odds, calibrated
    mean: Matrix  # (models,) mean quality in training: all that is known of a request without text
    length: Matrix  # (width,) log of an answer's tokens, what all models have in common
    tokens: Matrix  # (models,) log of its own; NaN where training had no lengths

    def predict(self, inputs: Inputs, looks: Matrix) -> Matrix:
        """P(good) of each text by each model, shape (n, models)."""
        return sigmoid(self.reading.apply(inputs, looks) @ self.weights + self.bias)

    def lengths(self, inputs: Inputs, looks: Matrix) -> Matrix:
        """Expected tokens of each answer, shape (n, models); NaN where training had no lengths."""
        lengths: Matrix = np.exp((self.reading.apply(inputs, looks) @ self.length)[:, None] + self.tokens)
        return lengths

    def forecasts(
        self, embedding: Embedding, text: str, models: Collection[ModelName]
    ) -> dict[ModelName, Forecast]:
        """The forecast of each of ``models`` that was trained. Raises ``EncoderFailed``."""
        inner = None if embedding.inner is None else embedding.inner[None, :]
        inputs = Inputs(embedding.vector[None, :], inner, lexical([text]))
        row = self.reading.apply(inputs, surface([text]))[0]
        likely = sigmoid(row @ self.weights + self.bias)
        return self._by_model(likely, float(row @ self.length), models)

    def usual(self, models: Collection[ModelName]) -> dict[ModelName, Forecast]:
        """The mean of each model in training, for a request that was not embedded."""
        return self._by_model(self.mean, 0.0, models)

    def _by_model(
        self, likely: Matrix, length: float, models: Collection[ModelName]
    ) -> dict[ModelName, Forecast]:
        tokens = np.exp(self.tokens + np.float32(length)).tolist()
        return {
            model: Forecast(quality, None if np.isnan(expected) else expected)
            for model, quality, expected in zip(self.models, likely.tolist(), tokens, strict=True)
            if model in models
        }


def layers_of(inputs: Inputs, *, deep: bool) -> Matrix:
    """The layers of the encoder that the model reads."""
    return inputs.inner if deep and inputs.inner is not None else inputs.vectors


def fold(words: Sparse) -> Matrix:
    """Words and characters folded into ``FOLDED`` numbers each, shape (n, 2 FOLDED), halves of unit length.

    Signed feature hashing (Weinberger et al., 2009): inner products of texts are kept in expectation,
    so that a linear model over many models' answers stays small.
    """
    found = np.zeros((len(words), 2 * FOLDED), np.float32)
    rows = np.repeat(np.arange(len(words)), np.diff(words.starts))
    place = np.arange(len(words.columns)) - words.starts[rows]
    is_word = place < words.words[rows]
    mixed = (words.columns.astype(np.uint64) + np.uint64(1)) * _SIGN
    sign = np.where((mixed >> np.uint64(63)).astype(bool), np.float32(1), np.float32(-1))
    bucket = ((mixed >> np.uint64(40)) % np.uint64(FOLDED)).astype(np.intp) + np.where(is_word, 0, FOLDED)
    np.add.at(found, (rows, bucket), sign)
    halves = found.reshape(len(words), 2, FOLDED)
    length = np.linalg.norm(halves, axis=2, keepdims=True)
    folded: Matrix = (halves / np.maximum(length, np.float32(1))).reshape(len(words), -1)
    return folded


def sigmoid(logits: NDArray[np.floating]) -> Matrix:
    """Probabilities of log-odds, safe for large ones."""
    likely: Matrix = (0.5 * (1.0 + np.tanh(0.5 * logits))).astype(np.float32)
    return likely
