"""Receives feedback while serving: from a request's body to the record."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from extproc.errors import BadRequest, ClientError, TooLarge, Unavailable
from extproc.telemetry.feedback_rows import Feedback, row_of
from extproc.telemetry.rows import EvaluationRow

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
