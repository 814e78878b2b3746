"""A gate at work: whether a tier's answer may be kept."""

from collections.abc import Callable, Sequence
from typing import Protocol

from extproc.cascade.vocabulary import Answer, Asked, Verdict

Check = Callable[[Asked, Answer], str]
"""Gives the reason for a rejection; empty: no objection. Never raises."""


class Scorer(Protocol):
    """What knows how probably an answer is good: the calibrated artefact."""

    def probability(self, asked: Asked, answer: Answer, second: Answer | None) -> float:
        """P(the answer is good), also by how ``second``, another answer to the same, agrees with it."""


class Judge:
    """The checks of one gate, in order, and then the score."""

    def __init__(
        self,
        checks: Sequence[tuple[str, Check]],
        scorer: Scorer | None = None,
        threshold: float = 0.0,
        threshold_paired: float | None = None,
    ) -> None:
        """``checks`` are the names of gates with what they do; an answer below ``threshold`` is rejected.

        ``threshold_paired`` is for an answer that has a second one beside it; None: the scorer uses none.
        """
        self._checks = tuple(checks)
        self._scorer = scorer
        self._threshold = threshold
        self._threshold_paired = threshold_paired

    def judge(self, asked: Asked, answer: Answer, second: Answer | None = None) -> Verdict:
        """The first rejection; of an answer that is not complete, nothing else can be said."""
        for gate, check in self._checks:
            if reason := check(asked, answer):
                return Verdict(False, gate=gate, reason=reason)
        if not answer.complete:
            return Verdict(None)
        if self._scorer is None:
            return Verdict(True)
        least = self._threshold
        if self._threshold_paired is None:
            second = None
        elif second is not None:
            least = self._threshold_paired
        score = self._scorer.probability(asked, answer, second)
        if score < least:
            return Verdict(False, score, "score", "low_score")
        return Verdict(True, score)
