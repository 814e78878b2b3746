"""Opinions on answers, such as users' feedback, into rows: one definition for all ways they come.

An opinion names the answer by ``request_id`` or ``trace_id``, says how good it was (``score``: 0 is
bad, 1 is good; or a ``label`` that tells one) and who says so (``source``). Saying the same again is
no second opinion: its row has the same ``evaluation_id``, by which the store keeps one.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from extproc.telemetry.rows import EvaluationRow

# Labels that tell a score by themselves.
_SCORES = {
    **dict.fromkeys(("good", "up", "positive", "pass", "correct", "yes", "thumbs_up"), 1.0),
    **dict.fromkeys(("bad", "down", "negative", "fail", "incorrect", "no", "thumbs_down"), 0.0),
}

# Texts end up on records and spans, so each has an end.
_Name = Annotated[str, Meta(max_length=256)]
_Text = Annotated[str, Meta(max_length=4096)]


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says of one answer."""

    request_id: _Name = ""
    trace_id: _Name = ""
    score: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    label: _Name = ""
    source: _Name = ""
    name: Annotated[str, Meta(min_length=1, max_length=64)] = "feedback"
    explanation: _Text = ""
    time: datetime | None = None  # of the opinion; UTC where it does not say; when absent, of its arrival
    id: _Name = ""  # its idempotency key; made from the rest when absent


def row_of(opinion: Feedback, now: datetime) -> EvaluationRow:
    """The row of one opinion.

    Raises:
        ValueError: it does not say on what, or not how good.
    """
    if not (opinion.request_id or opinion.trace_id):
        raise ValueError("it names no answer (expected request_id or trace_id)")
    score = opinion.score if opinion.score is not None else _SCORES.get(opinion.label.lower())
    if score is None:
        raise ValueError(f"it tells no score (expected score, 0 to 1, or label, one of {', '.join(_SCORES)})")
    # As W3C and the rows have it; some clients print it in capitals.
    opinion = msgspec.structs.replace(opinion, trace_id=opinion.trace_id.lower())
    time = opinion.time or now
    return EvaluationRow(
        time=time if time.tzinfo else time.replace(tzinfo=UTC),
        request_id=opinion.request_id,
        trace_id=opinion.trace_id,
        evaluation_id=opinion.id or _identity(opinion),
        name=opinion.name,
        score=score,
        label=opinion.label,
        explanation=opinion.explanation,
        source=opinion.source,
    )


def _identity(opinion: Feedback) -> str:
    """Who says what of which answer: saying it again is no second opinion, saying otherwise is."""
    said = msgspec.json.encode(
        [opinion.request_id, opinion.trace_id, opinion.name, opinion.source, opinion.score, opinion.label]
    )
    return hashlib.sha256(said).hexdigest()[:32]
