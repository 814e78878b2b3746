"""Finds the piece of a user's turn that asks, where people paste a document before or after the question.

A turn is split into sentences and lines. Each is compared, by a static encoder, with the routes' examples
and with sentences as documents have them. The piece that is most like an example and least like a document
is embedded and decides. A turn of one sentence is read whole, and costs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.routing.embedding_scorer import Meaning
from extproc.routing.scorers import Labels, Scorer, fit_centroids, fit_prototypes
from extproc.routing.spelling import Speller
from extproc.routing.turn_pieces import Piece, pieces
from extproc.vocabulary import TurnReading

PROTOTYPES = 6  # a route
DOCUMENT_WEIGHT = 0.8  # of the cosine to the nearest kind of document sentence, chosen as the gains are


class StaticEncoder(Protocol):
    """Turns texts into coarse embeddings in microseconds, from their tokens alone."""

    documents: NDArray[np.float32]  # unit rows, (kinds, components): sentences as documents have them

    @property
    def words(self) -> Mapping[str, int]:
        """The whole words that it knows with their rank; a frequent word has a low rank."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of shape (len(texts), components); zero for a text without known tokens."""
        ...


class TurnReader(msgspec.Struct, frozen=True):
    """Chooses the piece of a turn that decides, for the examples of one version."""

    static: StaticEncoder
    centroids: Scorer  # of the routes' examples, on the static encoder's vectors
    prototypes: Scorer
    speller: Speller

    def read(self, text: str) -> TurnReading:
        """The piece that decides, with its misspelt words corrected. The same text gives the same reading."""
        found = pieces(text)
        best = found[0] if len(found) == 1 else self._best(found)
        corrected, misspelt = self.speller.correct(best.text)
        return TurnReading(corrected, best.part, misspelt)

    def _best(self, found: Sequence[Piece]) -> Piece:
        vectors = self.static.encode([piece.text for piece in found])
        to_centroid, to_prototype = (
            scorer.logits(vectors).max(axis=1) for scorer in (self.centroids, self.prototypes)
        )
        to_document = (vectors @ self.static.documents.T).max(axis=1)
        scores = (to_centroid + to_prototype) / 2 - DOCUMENT_WEIGHT * to_document
        return found[int(np.argmax(scores + np.array([piece.gain for piece in found], np.float32)))]


def reader_of(meaning: Meaning, static: StaticEncoder) -> TurnReader:
    """The reader for the examples of a version's routes."""
    return fit_reader(static, meaning.texts, meaning.of_example, len(meaning.routes))


def fit_reader(static: StaticEncoder, texts: Sequence[str], labels: Labels, routes: int) -> TurnReader:
    """The reader for these examples; every route has at least one."""
    vectors = static.encode(texts)
    return TurnReader(
        static,
        fit_centroids(vectors, labels, routes),
        fit_prototypes(PROTOTYPES)(vectors, labels, routes),
        Speller(static.words, texts),
    )
