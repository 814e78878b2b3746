"""P(the answer is good): logistic regression on ``features``, fitted by `extproc gate fit`."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.answer_features import features, paired
from extproc.gate.gate_vocabulary import Asked

Vector = NDArray[np.float64]

# Features further out than any that was fitted on say nothing more, whatever a provider sends.
_FARTHEST = 6.0  # deviations


class Logit(msgspec.Struct, frozen=True):
    """Standardised features to log-odds. Arrays of one length."""

    centre: Vector
    scale: Vector  # the deviation's inverse
    weights: Vector
    bias: float

    def log_odds(self, values: Vector) -> Vector:
        """Of rows of features, shape (n, features), or of one."""
        standard = np.clip((values - self.centre) * self.scale, -_FARTHEST, _FARTHEST)
        found: Vector = standard @ self.weights + self.bias
        return found


class Goodness(msgspec.Struct, frozen=True):
    """What is known of one model's answers, each alone and beside a second one."""

    alone: Logit
    paired: Logit | None = None  # None: it was fitted on no second answers

    def probability(self, asked: Asked, answer: ModelAnswer, second: ModelAnswer | None) -> float:
        """See ``judge.AnswerScorer``."""
        if second is not None and self.paired is not None:
            odds = self.paired.log_odds(paired(asked, answer, second))
        else:
            odds = self.alone.log_odds(features(asked, answer))
        return 0.5 * (1.0 + math.tanh(0.5 * float(odds)))
