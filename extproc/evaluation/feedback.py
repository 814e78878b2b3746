"""Opinions from outside, such as users' feedback, into rows: what `extproc feedback import` reads.

A line is a JSON object: ``request_id`` or ``trace_id``, ``score`` (0 is bad, 1 is good) or a
``label`` that tells one, and who says so (``source``). The same line twice is one opinion.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from extproc.errors import OperatorError
from extproc.telemetry.rows import EvaluationRow

# Labels that tell a score by themselves.
_SCORES = {
    **dict.fromkeys(("good", "up", "positive", "pass", "correct", "yes", "thumbs_up"), 1.0),
    **dict.fromkeys(("bad", "down", "negative", "fail", "incorrect", "no", "thumbs_down"), 0.0),
}


class Opinion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line."""

    request_id: str = ""
    trace_id: str = ""
    score: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    label: str = ""
    source: str = ""
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "feedback"
    explanation: str = ""
    time: datetime | None = None  # of the opinion; of the import when absent
    id: str = ""  # its idempotency key; made from the rest when absent


def row_of(opinion: Opinion, now: datetime) -> EvaluationRow:
    """The row of one opinion.

    Raises:
        ValueError: it does not say on what, or not how good.
    """
    if not (opinion.request_id or opinion.trace_id):
        raise ValueError("it names no answer (expected request_id or trace_id)")
    score = opinion.score if opinion.score is not None else _SCORES.get(opinion.label.lower())
    if score is None:
        raise ValueError(f"it tells no score (expected score, 0 to 1, or label, one of {', '.join(_SCORES)})")
    return EvaluationRow(
        time=opinion.time or now,
        request_id=opinion.request_id,
        trace_id=opinion.trace_id,
        evaluation_id=opinion.id or _identity(opinion),
        name=opinion.name,
        score=score,
        label=opinion.label,
        explanation=opinion.explanation,
        source=opinion.source,
    )


def read(path: Path, now: datetime) -> Iterator[EvaluationRow]:
    """The rows of a file of JSON lines.

    Raises:
        OperatorError: a line cannot be used: ``file:line: what is wrong``.
    """
    decode = msgspec.json.Decoder(Opinion).decode
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield row_of(decode(line), now)
                    except (ValueError, msgspec.MsgspecError) as error:
                        raise OperatorError(f"{path}:{number}: {error}") from error
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error


def _identity(opinion: Opinion) -> str:
    """Who says what of which answer: saying it again is no second opinion, saying otherwise is."""
    said = msgspec.json.encode(
        [opinion.request_id, opinion.trace_id, opinion.name, opinion.source, opinion.score, opinion.label]
    )
    return hashlib.sha256(said).hexdigest()[:32]
