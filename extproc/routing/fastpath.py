"""The lexical fast path: decides by word and character n-grams and the static vector where they are enough.

For most texts, a linear head on hashed n-grams and on the static encoder's vector is as good as the encoder
at a hundredth of its cost. Training learns how probable it is that the whole head decides the same, and the
least probability that the fast path needs, on rows that neither was trained on. Every text below it goes to
the encoder.
A sample of the others goes to the encoder too, and `AgreementMonitor` turns the fast path off when the two
no longer agree.
"""

import logging
import math
import zlib
from collections import deque

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.routing.lexical_features import lexical
from extproc.routing.scope import SHOWN
from extproc.routing.scorers import Labels, Matrix, Prototypes, softmax
from extproc.routing.trained_heads import Inputs, Trained
from extproc.routing.turn_reading import StaticEncoder
from extproc.vocabulary import Candidate, Scores

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

NEVER = 2.0  # a least agreement that no text reaches
MEASURES = ("doubt", "log_probability", "similarity")  # what `Agreement` reads of a text
WINDOW = 1000  # comparisons that count
# Standard errors by which agreement must be below the least before the fast path ends. It is asked
# after every comparison, so that chance gets many tries.
_SURE = 4.0
LEAST = 50  # comparisons before which nothing is concluded
_SOFTENED = 3.0  # times the calibrated temperature, for the log-probability
_LEAST_DOUBT = 1e-6  # what the margin lacks of 1, at least
_BOUND = 8.0  # of a standardised measure


class Agreement(msgspec.Struct, frozen=True):
    """The probability that the whole head decides as the words do.

    It is a logistic function of three measures, each standardised: the logarithm of what the margin lacks of
    1, the log-probability at a high temperature, and the similarity to the route's nearest prototype. The
    bias depends on the route, because the whole head abstains more from some routes than from others.
    """

    centres: Floats  # (measures,)
    scales: Floats  # (measures,)
    weights: Floats  # (measures,)
    biases: Floats  # (routes,)

    def probability(self, found: Floats, best: Labels) -> Floats:
        """For measures of shape (n, 3) and the most probable routes, shape (n,)."""
        total = self.standard(found) @ self.weights + self.biases[best]
        chances: Floats = 1.0 / (1.0 + np.exp(-total))
        return chances

    def standard(self, found: Floats) -> Floats:
        """Standardised measures, bounded so that one cannot outweigh all others."""
        wide = (found - self.centres) / self.scales
        bounded: Floats = np.minimum(np.maximum(wide, -_BOUND), _BOUND)
        return bounded


class Words(msgspec.Struct, frozen=True):
    """A calibrated linear head on static vectors and lexical features, and when it decides."""

    routes: tuple[str, ...]
    head: Trained  # its inputs' ``vectors`` are the static encoder's
    temperature: float
    prototypes: Prototypes  # of the routes' rows, on static vectors
    agreement: Agreement
    least: float  # the least probability of agreement at which it decides; above 1: never

    def read(self, text: str, static: StaticEncoder) -> Scores | None:
        """Scores by the words alone; None if they are not clear enough. The scores have no similarities."""
        if self.least > 1:
            return None
        words = lexical([text])
        if not len(words.columns):
            return None
        inputs = Inputs(static.encode([text]), words=words)
        logits = self.head.logits(inputs)
        if self.agrees(logits, inputs.vectors)[0] < self.least:
            return None
        chances = softmax(logits[0] / np.float32(self.temperature))
        best = np.argsort(-chances, kind="stable")[:SHOWN].tolist()
        margin = float(chances[best[0]]) - (float(chances[best[1]]) if len(best) > 1 else 0.0)
        candidates = tuple(Candidate(self.routes[route], float(chances[route]), None) for route in best)
        return Scores(candidates=candidates, margin=margin, similarity=None, nearest="")

    def agrees(self, logits: Matrix, vectors: Matrix) -> Floats:
        """The probability that the whole head decides the same, for the head's logits, shape (n,)."""
        found = measures(logits, self.temperature, self.prototypes, vectors)
        return self.agreement.probability(found, logits.argmax(axis=1))


def measures(logits: Matrix, temperature: float, prototypes: Prototypes, vectors: Matrix) -> Floats:
    """What `Agreement` reads, shape (n, 3), of logits of shape (n, routes) and static vectors."""
    found = [
        _measures_of_one(row, temperature, prototypes, vector)
        for row, vector in zip(logits, vectors, strict=True)
    ]
    return np.array(found).reshape(len(logits), len(MEASURES))


def _measures_of_one(
    logits: Matrix, temperature: float, prototypes: Prototypes, vector: Matrix
) -> tuple[float, float, float]:
    """What `measures` gives of one text, in few steps: each costs a microsecond of a decision."""
    best = int(logits.argmax())
    lower = (logits - logits[best]) / np.float32(temperature)
    odds = np.exp(lower)  # of each route, to the best one
    total = float(odds.sum())
    odds[best] = 0.0
    doubt = 1.0 - (1.0 - float(odds.max())) / total
    log_probability = -math.log(float(np.exp(lower / np.float32(_SOFTENED)).sum()))
    end = (
        int(prototypes.starts[best + 1]) if best + 1 < len(prototypes.starts) else len(prototypes.prototypes)
    )
    nearest = float((prototypes.prototypes[int(prototypes.starts[best]) : end] @ vector).max())
    return math.log(max(doubt, _LEAST_DOUBT)), log_probability, nearest


class AgreementMonitor:
    """Turns off the fast path of one version when it agrees too rarely with the encoder, and logs that once.

    It uses the latest ``WINDOW`` comparisons of this process. The fast path ends when the upper end of
    Wilson's interval of the agreement is below ``at_least``. A new version starts with a new monitor.
    """

    def __init__(self, at_least: float) -> None:
        self._at_least = at_least
        self._latest: deque[bool] = deque(maxlen=WINDOW)
        self.ended = False

    def note(self, *, agreed: bool) -> None:
        """Record one comparison."""
        self._latest.append(agreed)
        if agreed or self.ended or len(self._latest) < LEAST:
            return
        if self._upper() < self._at_least:
            self.ended = True
            log.warning(
                "the lexical fast path agreed with the encoder on %d of %d requests (expected %.1f%%): "
                "it is off until the next version of the registry",
                sum(self._latest), len(self._latest), 100 * self._at_least,
            )  # fmt: skip

    def _upper(self) -> float:
        rows, share, square = len(self._latest), sum(self._latest) / len(self._latest), _SURE**2
        spread = _SURE * math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
        return (share + square / (2 * rows) + spread) / (1 + square / rows)


class FastPath(msgspec.Struct, frozen=True):
    """The head, the settings of the registry, and the agreement seen in this process."""

    words: Words
    static: StaticEncoder
    sample: float  # share of requests that goes to the encoder all the same, (0, 1]
    watch: AgreementMonitor

    def read(self, text: str) -> Scores | None:
        """Scores by the words alone; None if they are not clear enough."""
        return self.words.read(text, self.static)

    def samples(self, request_id: str) -> bool:
        """Whether the encoder decides this request too. Every process decides the same by the request's id.

        A request without an id is always part of the sample.
        """
        return not request_id or zlib.crc32(request_id.encode()) < self.sample * 2**32
