"""Feedback on answers, from a request's body or an imported file to its row.

Feedback names the answer by ``request_id`` or ``trace_id``, rates it (``score``: 0 is bad, 1 is good;
or a ``label`` that implies a score) and names its ``source``. The same feedback sent twice gets the
same ``evaluation_id``, so the store keeps one row.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from extproc.errors import BadRequest, ClientError, TooLarge, Unavailable
from extproc.telemetry.rows import EvaluationRow

# Labels that imply a score.
_SCORES = {
    **dict.fromkeys(("good", "up", "positive", "pass", "correct", "yes", "thumbs_up"), 1.0),
    **dict.fromkeys(("bad", "down", "negative", "fail", "incorrect", "no", "thumbs_down"), 0.0),
}

# Texts are copied to records and spans, so their length is limited.
_Name = Annotated[str, Meta(max_length=256)]
_Text = Annotated[str, Meta(max_length=4096)]


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Feedback on one answer."""

    request_id: _Name = ""
    trace_id: _Name = ""
    score: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    label: _Name = ""
    source: _Name = ""
    name: Annotated[str, Meta(min_length=1, max_length=64)] = "feedback"
    explanation: _Text = ""
    time: datetime | None = None  # without a time zone: UTC; absent: the time of arrival
    id: _Name = ""  # idempotency key; absent: a hash of the rest


def row_of(feedback: Feedback, now: datetime) -> EvaluationRow:
    """The row of one feedback; ``now`` is its time of arrival.

    Raises:
        ValueError: it names no answer, or has no score.
    """
    if not (feedback.request_id or feedback.trace_id):
        raise ValueError("add `request_id` or `trace_id` of the answer")
    score = feedback.score if feedback.score is not None else _SCORES.get(feedback.label.lower())
    if score is None:
        raise ValueError(f"add `score` (0-1) or `label` (one of {', '.join(_SCORES)})")
    # W3C and the rows use lower case; some clients print it in capitals.
    feedback = msgspec.structs.replace(feedback, trace_id=feedback.trace_id.lower())
    time = feedback.time or now
    return EvaluationRow(
        time=time if time.tzinfo else time.replace(tzinfo=UTC),
        request_id=feedback.request_id,
        trace_id=feedback.trace_id,
        evaluation_id=feedback.id or _identity(feedback),
        name=feedback.name,
        score=score,
        label=feedback.label,
        explanation=feedback.explanation,
        source=feedback.source,
    )


def _identity(feedback: Feedback) -> str:
    """A key of answer, source and rating: the same feedback has the same key."""
    content = msgspec.json.encode(
        [
            feedback.request_id,
            feedback.trace_id,
            feedback.name,
            feedback.source,
            feedback.score,
            feedback.label,
        ]
    )
    return hashlib.sha256(content).hexdigest()[:32]


# Feedback whose texts are all at their limits fits, however JSON escapes them.
MAX_BYTES = 64 * 1024

ACCEPTED = "accepted"

Keep = Callable[[EvaluationRow], bool]  # whether it was kept; never raises, never waits


class FeedbackReceiver:
    """Accepts feedback from authorized clients; a ``wire.feedback_exchange.FeedbackHandler``."""

    def __init__(
        self,
        admit: Callable[[str], None],
        keep: Sequence[Keep],
        count: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``admit`` raises ``errors.ClientError`` for an invalid authorization header.

        ``keep`` are the sinks; feedback is accepted if at least one of them keeps it.

        ``count`` gets ``accepted`` or the label of the error.
        """
        self._admit = admit
        self._keep = tuple(keep)
        self._count = count
        self._now = now
        self._decode = msgspec.json.Decoder(Feedback).decode

    def admit(self, authorization: str) -> None:
        """See ``wire.feedback_exchange.FeedbackHandler``."""
        try:
            self._admit(authorization)
        except ClientError as error:
            self._count(error.label)
            raise

    def take(self, body: bytes) -> str:
        """See ``wire.feedback_exchange.FeedbackHandler``."""
        try:
            row = self._row(body)
            kept = [keep(row) for keep in self._keep]
            if not any(kept):
                raise Unavailable("The feedback was not stored; send it again later.")
        except ClientError as error:
            self._count(error.label)
            raise
        self._count(ACCEPTED)
        return row.evaluation_id

    def _row(self, body: bytes) -> EvaluationRow:
        if len(body) > MAX_BYTES:
            raise TooLarge(f"The request body is larger than {MAX_BYTES} bytes.")
        try:
            return row_of(self._decode(body), self._now())
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise BadRequest(f"Invalid feedback: {error}.") from error
