"""Scores one embedding against every route, and against the examples of the most probable ones."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from extproc.errors import EncoderFailed
from extproc.routing.calibration import Calibration, fit_temperature
from extproc.routing.lexical_features import lexical
from extproc.routing.scorers import Fit, Labels, Matrix
from extproc.routing.trained_heads import Head, Inputs, OnEmbedding, reads_inner, reads_words
from extproc.vocabulary import Candidate, Embedding, Encoder, Scores

SHOWN = 5  # candidates kept on a decision, and compared by their examples


class Meaning(msgspec.Struct, frozen=True):
    """A fitted head with its calibration, and the examples it was fitted from."""

    routes: tuple[str, ...]
    head: Head
    calibration: Calibration
    examples: Matrix  # (examples, dimensions), unit rows grouped by route
    texts: tuple[str, ...]  # (examples,)
    starts: Labels  # (routes,) where each route's examples begin

    def score(self, embedding: Embedding, text: str) -> Scores:
        """Scores of one text and its embedding. Raises ``EncoderFailed`` where inner layers are missing.

        A small margin finds requests between two routes. A small similarity finds requests unlike every
        example. Only examples of the most probable routes are compared, so the cost of a decision does
        not grow with the number of routes.
        """
        logits = self.head.logits(self._inputs(embedding, text))
        probabilities = self.calibration.probabilities(logits)[0]
        best = np.argsort(-probabilities, kind="stable")[:SHOWN].tolist()
        nearest = [self._nearest(route, embedding.vector) for route in best]
        candidates = tuple(
            Candidate(self.routes[route], float(probabilities[route]), similarity)
            for route, (_, similarity) in zip(best, nearest, strict=True)
        )
        second = candidates[1].probability if len(candidates) > 1 else 0.0
        example, similarity = max(nearest, key=lambda found: found[1])
        return Scores(
            candidates=candidates,
            margin=candidates[0].probability - second,
            similarity=similarity,
            nearest=self.texts[example],
        )

    def _inputs(self, embedding: Embedding, text: str) -> Inputs:
        inner = None
        if reads_inner(self.head):
            if embedding.inner is None:
                raise EncoderFailed("the encoder returns no inner layers, but the trained head needs them")
            inner = embedding.inner[None, :]
        words = lexical([text]) if reads_words(self.head) else None
        return Inputs(embedding.vector[None, :], inner, words)

    def _nearest(self, route: int, vector: Matrix) -> tuple[int, float]:
        """The number of the route's nearest example, and its cosine."""
        start = int(self.starts[route])
        end = int(self.starts[route + 1]) if route + 1 < len(self.starts) else len(self.examples)
        similarities = self.examples[start:end] @ vector
        nearest = int(np.argmax(similarities))
        return start + nearest, float(similarities[nearest])


def fit_meaning(examples: Mapping[str, Sequence[str]], encoder: Encoder, fit: Fit) -> Meaning:
    """Embed every route's examples and fit the scorer and its temperature on them.

    ``examples`` has at least one route, and every route at least one example. Raises
    ``errors.EncoderFailed``.
    """
    routes = tuple(examples)
    texts = tuple(text for route in routes for text in examples[route])
    sizes = [len(examples[route]) for route in routes]
    labels = np.repeat(np.arange(len(routes), dtype=np.intp), sizes)
    vectors = encoder.encode(texts)
    return Meaning(
        routes=routes,
        head=OnEmbedding(fit(vectors, labels, len(routes))),
        calibration=Calibration(fit_temperature(fit, vectors, labels, len(routes))),
        examples=vectors,
        texts=texts,
        starts=np.cumsum([0, *sizes[:-1]]).astype(np.intp),
    )
