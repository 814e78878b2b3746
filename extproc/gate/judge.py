"""A gate at work: whether a tier's answer may be kept."""

from collections.abc import Callable, Sequence
from typing import Protocol

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.agreement import agreement
from extproc.gate.gate_vocabulary import Asked, Verdict

Check = Callable[[Asked, ModelAnswer], str]
"""Gives the reason for a rejection; empty: no objection. Never raises."""

_SCORE = "score"


class AnswerScorer(Protocol):
    """What knows how probably an answer is good: the calibrated artefact."""

    def probability(self, asked: Asked, answer: ModelAnswer, second: ModelAnswer | None) -> float:
        """P(the answer is good), also by how ``second``, another answer to the same, agrees with it."""


class Judge:
    """The checks of one gate, in order, and then the score."""

    def __init__(
        self,
        checks: Sequence[tuple[str, Check]],
        scorer: AnswerScorer | None = None,
        threshold: float = 0.0,
        threshold_paired: float | None = None,
        min_agreement: float | None = None,
    ) -> None:
        """``checks`` are the names of gates with what they do; an answer below ``threshold`` is rejected.

        ``threshold_paired`` is for an answer that has a second one beside it; None: the scorer uses none.
        ``min_agreement`` is what such an answer is held against where no scorer does; None: nothing.
        """
        self._checks = tuple(checks)
        self._scorer = scorer
        self._threshold = threshold
        self._threshold_paired = threshold_paired
        self._min_agreement = min_agreement

    def judge(self, asked: Asked, answer: ModelAnswer, second: ModelAnswer | None = None) -> Verdict:
        """The first rejection; of an answer that is not complete, nothing else can be said.

        An answer that failed, or that ended before it was whole, is rejected whatever the checks are.
        """
        if answer.failed:
            return Verdict(False, gate="finish", reason="failed")
        for gate, check in self._checks:
            if reason := check(asked, answer):
                return Verdict(False, gate=gate, reason=reason)
        if not answer.complete:
            return Verdict(None)
        if second is not None and self._disagree(answer, second):
            return Verdict(False, gate="agreement", reason="disagrees")
        if self._scorer is None:
            return Verdict(True)
        least = self._threshold
        if self._threshold_paired is None:
            second = None
        elif second is not None:
            least = self._threshold_paired
        score = self._scorer.probability(asked, answer, second)
        if score < least:
            return Verdict(False, score, _SCORE, "low_score")
        return Verdict(True, score)

    def needs_second_answer(self, verdict: Verdict) -> bool:
        """Whether a second answer could change ``verdict``, which was found without one."""
        if verdict.keep:
            return self._min_agreement is not None or self._threshold_paired is not None
        return verdict.gate == _SCORE and self._threshold_paired is not None

    def _disagree(self, answer: ModelAnswer, second: ModelAnswer) -> bool:
        least = self._min_agreement
        return least is not None and agreement(text_of(answer), text_of(second)) < least


def text_of(answer: ModelAnswer) -> str:
    """The text of an answer or, of one that only calls tools, those calls."""
    return answer.text or "\n".join(f"{call.name} {call.arguments}" for call in answer.tool_calls)
