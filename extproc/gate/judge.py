"""The judge of a gate: whether a tier's answer may be kept."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.answer_checks import Check
from extproc.gate.answer_scoring import agreement
from extproc.gate.judged_request import JudgedRequest

_SCORE = "score"


class Verdict(msgspec.Struct, frozen=True):
    """What a gate finds of an answer."""

    keep: bool | None  # None: the answer is not complete, and its beginning gives no reason to reject it
    score: float | None = None  # P(the answer is good) by the calibrated artefact; None: there is none
    gate: str = ""  # the check that rejected; empty: none did
    reason: str = ""  # low cardinality: it labels metrics


class AnswerScorer(Protocol):
    """Scores an answer: the calibrated artefact."""

    def probability(self, request: JudgedRequest, answer: ModelAnswer, second: ModelAnswer | None) -> float:
        """P(the answer is good). ``second`` is another answer to the same request."""


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
        """``checks`` are the checks by name. An answer that scores below ``threshold`` is rejected.

        ``threshold_paired`` replaces ``threshold`` for an answer with a second one; None: the scorer does not
        use second answers. ``min_agreement`` is the least agreement with a second answer, for a gate whose
        scorer does not use it; None: there is no such bound.
        """
        self._checks = tuple(checks)
        self._scorer = scorer
        self._threshold = threshold
        self._threshold_paired = threshold_paired
        self._min_agreement = min_agreement

    def judge(
        self, request: JudgedRequest, answer: ModelAnswer, second: ModelAnswer | None = None
    ) -> Verdict:
        """The first rejection, else the score of a complete answer.

        An answer that failed, or that ended before it was complete, is rejected whatever the checks are.
        """
        if answer.failed:
            return Verdict(False, gate="finish", reason="failed")
        for gate, check in self._checks:
            if reason := check(request, answer):
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
        score = self._scorer.probability(request, answer, second)
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
    """The text of an answer, or its tool calls if it has no text."""
    return answer.text or "\n".join(f"{call.name} {call.arguments}" for call in answer.tool_calls)
