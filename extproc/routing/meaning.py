"""Scoring by meaning: one embedding against every route and every example at once."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from extproc.routing.calibration import fit_temperature
from extproc.routing.scorers import Fit, Labels, Matrix, Scorer, softmax
from extproc.vocabulary import Candidate, Encoder, Scores

_SHOWN = 5  # candidates kept on a decision


class Meaning(msgspec.Struct, frozen=True):
    """A fitted scorer with its temperature, and the examples it was fitted from."""

    routes: tuple[str, ...]
    scorer: Scorer
    temperature: float
    examples: Matrix  # (examples, dimensions), grouped by route
    texts: tuple[str, ...]  # (examples,)
    starts: Labels  # (routes,) where each route's examples begin

    def score(self, vector: Matrix) -> Scores:
        """Scores of one unit vector of shape (dimensions,).

        Margin and similarity answer different questions, and a router needs both: the margin
        finds requests between two routes, the similarity those that are like no example.
        """
        logits = self.scorer.logits(vector[None, :])[0]
        probabilities = softmax(logits / np.float32(self.temperature))
        similarities = self.examples @ vector
        by_route = np.maximum.reduceat(similarities, self.starts)
        best = np.argsort(-probabilities, kind="stable")[:_SHOWN]
        candidates = tuple(
            Candidate(self.routes[i], float(probabilities[i]), float(by_route[i])) for i in best.tolist()
        )
        second = candidates[1].probability if len(candidates) > 1 else 0.0
        nearest = int(np.argmax(similarities))
        return Scores(
            candidates=candidates,
            margin=candidates[0].probability - second,
            similarity=float(similarities[nearest]),
            nearest=self.texts[nearest],
        )


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
        scorer=fit(vectors, labels, len(routes)),
        temperature=fit_temperature(fit, vectors, labels, len(routes)),
        examples=vectors,
        texts=texts,
        starts=np.cumsum([0, *sizes[:-1]]).astype(np.intp),
    )
