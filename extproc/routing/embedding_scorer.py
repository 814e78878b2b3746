"""Scores one embedding against every route, and against the examples of the most probable ones."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from extproc.errors import EncoderFailed
from extproc.routing.calibration import Calibration, cross_fitted, fit_temperature
from extproc.routing.lexical_features import lexical
from extproc.routing.scope import (
    SHOWN,
    SOFTENED,
    ScopeScore,
    fit_scope,
    likeness_of,
    likeness_of_one,
    measures,
    to_centroids_without_self,
    without_own_route,
)
from extproc.routing.scorers import Fit, Labels, Matrix, fit_centroids
from extproc.routing.trained_heads import Head, Inputs, OnEmbedding, reads_inner, reads_words
from extproc.vocabulary import Candidate, Embedding, Encoder, Scores


class Meaning(msgspec.Struct, frozen=True):
    """A fitted head with its calibration, and the examples it was fitted from."""

    routes: tuple[str, ...]
    head: Head
    calibration: Calibration
    examples: Matrix  # (examples, dimensions), unit rows grouped by route
    texts: tuple[str, ...]  # (examples,)
    starts: Labels  # (routes,) where each route's examples begin
    scope: ScopeScore | None = None  # None: too few examples to fit it

    @property
    def of_example(self) -> Labels:
        """The number of each example's route, shape (examples,)."""
        sizes = np.diff(np.append(self.starts, len(self.texts)))
        return np.repeat(np.arange(len(sizes)), sizes)

    def score(self, embedding: Embedding, text: str) -> Scores:
        """Scores of one text and its embedding. Raises ``EncoderFailed`` where inner layers are missing.

        A small margin finds requests between two routes. A small P(in scope) finds requests of no route. Only
        examples of the most probable routes are compared, so the cost of a decision does not grow with the
        number of examples of all routes.
        """
        logits = self.head.logits(self._inputs(embedding, text))
        probabilities = self.calibration.probabilities(logits)[0]
        # By logits, because probabilities of far routes are equal once they are 0.
        best = np.argsort(-logits[0], kind="stable")[:SHOWN].tolist()
        compared = [self._similarities(route, embedding.vector) for route in best]
        candidates = tuple(
            Candidate(self.routes[route], float(probabilities[route]), float(similarities.max()))
            for route, similarities in zip(best, compared, strict=True)
        )
        second = candidates[1].probability if len(candidates) > 1 else 0.0
        like = max(range(len(best)), key=lambda place: float(compared[place].max()))
        example = int(self.starts[best[like]]) + int(compared[like].argmax())
        return Scores(
            candidates=candidates,
            margin=candidates[0].probability - second,
            similarity=float(compared[like].max()),
            nearest=self.texts[example],
            in_scope=self._in_scope(logits, compared, embedding.vector),
        )

    def _in_scope(self, logits: Matrix, compared: Sequence[Matrix], vector: Matrix) -> float | None:
        if self.scope is None:
            return None
        likeness = likeness_of_one(compared, self.scope.centroids @ vector)
        return float(self.scope.probability(logits, likeness)[0])

    def _inputs(self, embedding: Embedding, text: str) -> Inputs:
        inner = None
        if reads_inner(self.head):
            if embedding.inner is None:
                raise EncoderFailed("the encoder returns no inner layers, but the trained head needs them")
            inner = embedding.inner[None, :]
        words = lexical([text]) if reads_words(self.head) else None
        return Inputs(embedding.vector[None, :], inner, words)

    def _similarities(self, route: int, vector: Matrix) -> Matrix:
        """The cosines to the route's examples."""
        start = int(self.starts[route])
        end = int(self.starts[route + 1]) if route + 1 < len(self.starts) else len(self.examples)
        similarities: Matrix = self.examples[start:end] @ vector
        return similarities


def fit_meaning(examples: Mapping[str, Sequence[str]], encoder: Encoder, fit: Fit) -> Meaning:
    """Embed every route's examples and fit the scorer, its temperature and the scope score on them.

    ``examples`` has at least one route, and every route at least one example. Raises
    ``errors.EncoderFailed``.
    """
    routes = tuple(examples)
    texts = tuple(text for route in routes for text in examples[route])
    labels = np.repeat(np.arange(len(routes), dtype=np.intp), [len(examples[route]) for route in routes])
    return fit_vectors(routes, texts, encoder.encode(texts), labels, fit)


def fit_vectors(
    routes: tuple[str, ...], texts: tuple[str, ...], vectors: Matrix, labels: Labels, fit: Fit
) -> Meaning:
    """Fit the scorer, its temperature and the scope score on vectors of examples, grouped by route."""
    held_out = cross_fitted(fit, vectors, labels, len(routes))
    temperature = fit_temperature(held_out, labels)
    return Meaning(
        routes=routes,
        head=OnEmbedding(fit(vectors, labels, len(routes))),
        calibration=Calibration(temperature),
        examples=vectors,
        texts=texts,
        starts=np.searchsorted(labels, np.arange(len(routes))),
        scope=None if held_out is None else scope_of_examples(vectors, labels, held_out, temperature),
    )


def scope_of_examples(vectors: Matrix, labels: Labels, held_out: Matrix, temperature: float) -> ScopeScore:
    """The scope score of routes that have only their examples, each measured without itself.

    ``held_out`` has the logits of each example by a fit without it.
    """
    routes, softened = held_out.shape[1], SOFTENED * temperature
    to_centroids = to_centroids_without_self(vectors, labels, routes)
    own = np.arange(len(labels))
    inside, made = (
        measures(logits, likeness_of(vectors, logits, vectors, labels, to_centroids, own=own), softened)
        for logits in (held_out, without_own_route(held_out, labels))
    )
    centroids = fit_centroids(vectors, labels, routes).centroids
    return fit_scope(centroids, softened, inside, inside[:0], made)
