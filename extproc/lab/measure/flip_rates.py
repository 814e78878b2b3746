"""How often does a decision change when a text is written in another way that means the same?

Each row is decided once more for each kind of change, as the registry's `holdout: {max_flips: ...}` does.
"""

from collections.abc import Mapping, Sequence

from extproc.lab.measure.classification_metrics import Labels, Truths
from extproc.lab.measure.intervals import Figure, share
from extproc.lab.measure.replay import CandidateRegistry, decide_all
from extproc.routing.text_changes import TextChange, variants

CHANGES: Mapping[str, str] = {
    TextChange.TYPO: "a typing mistake in one word",
    TextChange.TWO_TYPOS: "a typing mistake in each of two words",
    TextChange.CASE: "upper case, lower case or title case",
    TextChange.PUNCTUATION: "other punctuation",
    TextChange.COURTESY: "a greeting or thanks around it",
}


def flips_of(
    candidate: CandidateRegistry, texts: Sequence[str], decided: Labels, routes: tuple[str, ...]
) -> dict[str, Truths]:
    """For each kind of change, the rows whose route it changes; ``decided`` has the routes of ``texts``.

    Raises ``EncoderFailed``, ``OperatorError``.
    """
    return {
        change: decide_all(candidate.snapshot, candidate.encoder, changed, routes).route != decided
        for change, changed in variants(texts).items()
    }


def flip_rates(flips: Mapping[str, Truths]) -> dict[str, Figure]:
    """The share of each kind with its interval."""
    return {change: share(rows) for change, rows in flips.items()}
