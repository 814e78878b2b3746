"""Predicted quality: how likely each model is to answer a request well, and how long the answer is.

One linear model reads what is known of a text before it is answered: the encoder's inner layers (or its
embedding, if it has no inner layers), lexical features and surface features (counts of characters, words,
numbers and marks, which hardly help to choose a route). All models are predicted by one matrix product, so
that a decision costs microseconds however many there are.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import EncoderFailed
from extproc.routing.lexical_features import Sparse, lexical
from extproc.routing.scorers import Matrix
from extproc.routing.trained_heads import Inputs, Standard
from extproc.vocabulary import Embedding, ModelName

LONGEST = 8192  # characters counted, from the start; the length itself is always of the whole text

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|\n")
_OPERATOR = re.compile(r"[-+*/^<>=%$\\]")
_NEGATION = re.compile(r"\b(?:not|no|none|never|nor|neither|without|except|incorrect|false)\b|n't\b", re.I)
_PROPORTION = re.compile(
    r"%|\b(?:percent|half|third|quarter|twice|double|triple|times|fraction|ratio|average)\b", re.I
)
_CONDITION = re.compile(
    r"\b(?:if|then|each|every|per|than|remaining|rest|left|more|less|only|both|all)\b", re.I
)
_OTHER_SCRIPT = re.compile(r"[^\x00-\x7f]")
_CAPITAL = re.compile(r"[A-Z]")
_MARK = re.compile(r"[^\w\s]")

# Counts enter as logarithms, so that a text twice as long is a step away and not twice as far.
_COUNTED: dict[str, re.Pattern[str]] = {
    "sentences": _SENTENCE_END,
    "operators": _OPERATOR,
    "negations": _NEGATION,
    "proportions": _PROPORTION,
    "conditions": _CONDITION,
    "other scripts": _OTHER_SCRIPT,
    "capitals": _CAPITAL,
    "marks": _MARK,
}
_MARKS = {"lines": "\n", "blanks": "_", "commas": ",", "questions": "?", "brackets": "(", "quotes": '"'}
_Shape = Callable[[str, list[str], list[str]], float]
_SHAPES: dict[str, _Shape] = {
    "words": lambda text, words, numbers: math.log1p(len(words)),
    "letters a word": lambda text, words, numbers: sum(map(len, words)) / max(len(words), 1),
    "longest word": lambda text, words, numbers: math.log1p(max(map(len, words), default=0)),
    "repetition": lambda text, words, numbers: len(set(words)) / max(len(words), 1),
    "numbers": lambda text, words, numbers: math.log1p(len(numbers)),
    "digits": lambda text, words, numbers: math.log1p(sum(map(len, numbers))),
    "longest number": lambda text, words, numbers: math.log1p(max(map(len, numbers), default=0)),
    "decimals": lambda text, words, numbers: float(any("." in number for number in numbers)),
    "share of marks": lambda text, words, numbers: len(_MARK.findall(text)) / max(len(text), 1),
    "share of capitals": lambda text, words, numbers: len(_CAPITAL.findall(text)) / max(len(text), 1),
    "first line": lambda text, words, numbers: math.log1p(len(text.partition("\n")[0])),
    "longest line": lambda text, words, numbers: math.log1p(max(map(len, text.split("\n")))),
}
NAMES = ("characters", *_COUNTED, *_MARKS, *_SHAPES)


def surface(texts: Sequence[str]) -> NDArray[np.float32]:
    """The features of each text, shape (texts, len(NAMES)). It accepts any text."""
    return np.array([_row(text) for text in texts], np.float32).reshape(len(texts), len(NAMES))


def _row(text: str) -> list[float]:
    read = text[:LONGEST]
    words = [word.lower() for word in _WORD.findall(read)]
    numbers = _NUMBER.findall(read)
    return [
        math.log1p(len(text)),
        *(math.log1p(sum(1 for _ in pattern.finditer(read))) for pattern in _COUNTED.values()),
        *(math.log1p(read.count(mark)) for mark in _MARKS.values()),
        *(shape(read, words, numbers) for shape in _SHAPES.values()),
    ]


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


class Familiarity(msgspec.Struct, frozen=True):
    """How far the head is trusted, by the similarity of a text to the nearest training prompt.

    The rest is what prompt length alone predicts: the base rate, where training found no more in it.
    """

    prompts: Matrix  # (n, dimensions) embeddings of training prompts
    far: float  # similarity from which down the head has no weight
    near: float  # similarity from which up it has the most
    most: float  # weight, 0 to 1; 0: prompt length predicts no worse on kinds of prompts that were left out
    slope: Matrix  # (models,) of log-odds in the length of the prompt
    bias: Matrix  # (models,)

    def similarity(self, vectors: Matrix) -> Matrix:
        """The cosine of each vector to the nearest training prompt."""
        nearest: Matrix = (vectors @ self.prompts.T).max(axis=1)
        return nearest

    def trust(self, similarity: Matrix) -> Matrix:
        """The weight of the head, 0 to 1."""
        weight: Matrix = self.most * np.clip((similarity - self.far) / (self.near - self.far), 0, 1)
        return weight

    def blend(self, logits: Matrix, similarity: Matrix, length: Matrix) -> Matrix:
        """The head's log-odds, shape (n, models), drawn to those of prompt length."""
        plain = length[:, None] * self.slope + self.bias
        found: Matrix = plain + self.trust(similarity)[:, None] * (logits - plain)
        return found


class Prediction(msgspec.Struct, frozen=True):
    """The forecast of each model, and how similar the nearest training prompt is."""

    forecasts: dict[ModelName, Forecast]
    similarity: float | None = None  # cosine; None: the request was not embedded


class Quality(msgspec.Struct, frozen=True):
    """Calibrated P(good | text) of each model, and the length of its answer."""

    models: tuple[ModelName, ...]
    reading: QualityHead
    weights: Matrix  # (width, models)
    bias: Matrix  # (models,) both give log-odds, calibrated
    mean: Matrix  # (models,) mean quality in training: all that is known of a request without text
    length: Matrix  # (width,) log of an answer's tokens, what all models have in common
    tokens: Matrix  # (models,) log of its own; NaN where training had no lengths
    familiarity: Familiarity
    # The models whose quality a model did not exceed on held-out outcomes: it is not worth a higher price.
    matched_by: Mapping[ModelName, tuple[ModelName, ...]] = {}

    def predict(self, inputs: Inputs, looks: Matrix) -> Matrix:
        """P(good) of each text by each model, shape (n, models)."""
        rows = self.reading.apply(inputs, looks)
        return self._likely(rows, self.familiarity.similarity(inputs.vectors), looks)

    def _likely(self, rows: Matrix, similarity: Matrix, looks: Matrix) -> Matrix:
        length = length_of(looks, float(self.reading.centre[0]), float(self.reading.scale[0]))
        return sigmoid(self.familiarity.blend(rows @ self.weights + self.bias, similarity, length))

    def lengths(self, inputs: Inputs, looks: Matrix) -> Matrix:
        """Expected tokens of each answer, shape (n, models); NaN where training had no lengths."""
        lengths: Matrix = np.exp((self.reading.apply(inputs, looks) @ self.length)[:, None] + self.tokens)
        return lengths

    def forecasts(self, embedding: Embedding, text: str, models: Collection[ModelName]) -> Prediction:
        """The forecast of each of ``models`` that was trained. Raises ``EncoderFailed``."""
        inner = None if embedding.inner is None else embedding.inner[None, :]
        inputs = Inputs(embedding.vector[None, :], inner, lexical([text]))
        looks = surface([text])
        rows, similarity = self.reading.apply(inputs, looks), self.familiarity.similarity(inputs.vectors)
        likely = self._likely(rows, similarity, looks)[0]
        found = self._by_model(likely, float(rows[0] @ self.length), models)
        return Prediction(found, float(similarity[0]))

    def usual(self, models: Collection[ModelName]) -> Prediction:
        """The mean of each model in training, for a request that was not embedded."""
        return Prediction(self._by_model(self.mean, 0.0, models))

    def _by_model(
        self, likely: Matrix, length: float, models: Collection[ModelName]
    ) -> dict[ModelName, Forecast]:
        tokens = np.exp(self.tokens + np.float32(length)).tolist()
        return {
            model: Forecast(quality, None if np.isnan(expected) else expected)
            for model, quality, expected in zip(self.models, likely.tolist(), tokens, strict=True)
            if model in models
        }


def length_of(looks: Matrix, centre: float, scale: float) -> Matrix:
    """The logarithm of each text's length in deviations from the mean, at most `_SIGMAS`."""
    length: Matrix = np.clip((looks[:, 0] - centre) * scale, -_SIGMAS, _SIGMAS)
    return length


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
