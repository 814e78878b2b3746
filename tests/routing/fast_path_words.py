"""A small fast path for tests: words that tell for a route, and a static encoder that says nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from extproc.routing.fastpath import Agreement, AgreementMonitor, FastPath, Words
from extproc.routing.lexical_features import WIDTH, lexical
from extproc.routing.scorers import Prototypes
from extproc.routing.trained_heads import Lexicon, Linear, Standard, Trained


class SameVector:
    """A static encoder that has one vector for all texts."""

    documents = np.array([[0, 1]], np.float32)
    words: Mapping[str, int] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0]], np.float32).repeat(len(texts), axis=0)


def words_of(
    routes: tuple[str, str],
    weights_of: Mapping[str, Sequence[float]],
    *,
    least: float,
    temperature: float = 1.0,
) -> Words:
    """Each word of ``weights_of`` has a weight for each of two routes; other words say nothing.

    The probability of agreement is above one half where the margin is above one half.
    """
    slots = np.full(WIDTH, len(weights_of), np.int32)
    for row, word in enumerate(weights_of):
        slots[lexical([word]).columns] = row
    weights = np.array([*weights_of.values(), [0, 0]], np.float32)
    return Words(
        routes,
        Trained(
            Standard(np.zeros(2, np.float32), np.ones(2, np.float32), 1),
            linear=Linear(np.zeros((2, 2), np.float32), np.zeros(2, np.float32)),
            lexicon=Lexicon(slots, np.ones(WIDTH, np.float32), weights, 0.6),
        ),
        temperature,
        Prototypes(np.array([[1, 0], [1, 0]], np.float32), np.array([0, 1])),
        Agreement(np.array([np.log(0.5), 0, 0]), np.ones(3), np.array([-2.0, 0, 0]), np.zeros(2)),
        least,
    )


def fast_path_of(words: Words, sample: float, at_least: float = 0.98) -> FastPath:
    return FastPath(words, SameVector(), sample, AgreementMonitor(at_least))
