"""The lexical fast path: decides by word and character n-grams alone where they are enough.

For most texts, a linear head on hashed n-grams is as good as the encoder at a hundredth of its cost.
Training learns the least margin that the fast path needs, by comparing it with the whole head on rows that
neither was trained on. Every text below this margin goes to the encoder.
A sample of the others goes to the encoder too, and `AgreementMonitor` turns the fast path off when the two
no longer agree.
"""

import logging
import math
import zlib
from collections import deque

import msgspec
import numpy as np

from extproc.routing.lexical_features import Sparse, lexical
from extproc.routing.scope import SHOWN
from extproc.routing.scorers import Matrix, softmax
from extproc.routing.trained_heads import Lexicon
from extproc.vocabulary import Candidate, Scores

log = logging.getLogger(__name__)

WINDOW = 1000  # comparisons that count
# Standard errors by which agreement must be below the least before the fast path ends. It is asked
# after every comparison, so that chance gets many tries.
_SURE = 4.0
LEAST = 50  # comparisons before which nothing is concluded


class Words(msgspec.Struct, frozen=True):
    """A calibrated linear head on lexical features alone, with the least margin at which it decides."""

    routes: tuple[str, ...]
    lexicon: Lexicon
    bias: Matrix  # (routes,)
    temperature: float
    lead: float  # least margin at which it agrees with the whole head often enough; above 1: never

    def probabilities(self, words: Sparse) -> Matrix:
        """Shape (n, routes)."""
        return softmax((self.lexicon.logits(words) + self.bias) / np.float32(self.temperature))

    def read(self, text: str) -> Scores | None:
        """Scores by the words alone; None if they are not clear enough. The scores have no similarities."""
        if self.lead > 1:  # no margin is greater than 1
            return None
        words = lexical([text])
        if not len(words.columns):
            return None
        chances = self.probabilities(words)[0]
        best = np.argsort(-chances, kind="stable")[:SHOWN].tolist()
        margin = float(chances[best[0]]) - (float(chances[best[1]]) if len(best) > 1 else 0.0)
        if margin < self.lead:
            return None
        candidates = tuple(Candidate(self.routes[route], float(chances[route]), None) for route in best)
        return Scores(candidates=candidates, margin=margin, similarity=None, nearest="")


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
    sample: float  # share of requests that goes to the encoder all the same, (0, 1]
    watch: AgreementMonitor

    def samples(self, request_id: str) -> bool:
        """Whether the encoder decides this request too. Every process decides the same by the request's id.

        A request without an id is always part of the sample.
        """
        return not request_id or zlib.crc32(request_id.encode()) < self.sample * 2**32
