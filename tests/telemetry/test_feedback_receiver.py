"""The desk: who is admitted, what is kept, and how each is counted."""

from datetime import UTC, datetime

import msgspec
import pytest

from extproc.errors import BadRequest, ClientError, TooLarge, Unauthorized, Unavailable
from extproc.telemetry.feedback_receiver import MAX_BYTES, FeedbackReceiver
from extproc.telemetry.feedback_rows import Feedback
from extproc.telemetry.rows import EvaluationRow

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class World:
    def __init__(self, *keeps: bool) -> None:
        self.counts: list[str] = []
        self.rows: list[EvaluationRow] = []
        self.desk = FeedbackReceiver(
            self.admit, [self.keeper(k) for k in keeps], self.counts.append, lambda: NOW
        )

    def admit(self, authorization: str) -> None:
        if authorization != "good":
            raise Unauthorized("no")

    def keeper(self, answer: bool):  # type: ignore[no-untyped-def]
        def keep(row: EvaluationRow) -> bool:
            self.rows.append(row)
            return answer

        return keep


def test_an_opinion_goes_to_everybody_who_keeps_and_counts_once() -> None:
    world = World(True, True)
    world.desk.admit("good")
    key = world.desk.take(b'{"request_id": "r", "label": "bad", "source": "ann"}')
    assert [row.evaluation_id for row in world.rows] == [key, key]
    assert (world.rows[0].score, world.rows[0].time) == (0.0, NOW)
    assert world.counts == ["accepted"]


@pytest.mark.parametrize("keeps", [(False, True), (True, False)])
def test_one_who_keeps_it_is_enough_and_all_are_asked(keeps: tuple[bool, bool]) -> None:
    world = World(*keeps)
    world.desk.take(b'{"request_id": "r", "score": 0.5}')
    assert len(world.rows) == 2
    assert world.counts == ["accepted"]


def test_what_nobody_keeps_is_not_accepted() -> None:
    world = World(False, False)
    with pytest.raises(Unavailable):
        world.desk.take(b'{"request_id": "r", "score": 1}')
    assert world.counts == ["unavailable"]


def test_who_is_not_admitted_is_counted() -> None:
    world = World(True)
    with pytest.raises(Unauthorized):
        world.desk.admit("bad")
    assert world.counts == ["unauthorized"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", BadRequest),
        (b"nonsense", BadRequest),
        (b'{"request_id": "r"}', BadRequest),
        (b'{"request_id": "r", "score": "1"}', BadRequest),
        (b'{"request_id": ' + b"[" * 60_000, BadRequest),
        (b'{"request_id": "r", "time": "yesterday", "score": 1}', BadRequest),
        (b" " * (MAX_BYTES + 1), TooLarge),
    ],
)
def test_what_is_no_opinion_is_counted_and_kept_nowhere(body: bytes, error: type[ClientError]) -> None:
    world = World(True)
    with pytest.raises(error):
        world.desk.take(body)
    assert (world.rows, world.counts) == ([], [error.label])


def test_the_longest_opinion_fits_however_it_is_written() -> None:
    widest = Feedback(
        request_id="😀" * 256, trace_id="😀" * 256, label="😀" * 256, source="😀" * 256, id="😀" * 256,
        name="😀" * 64, explanation="😀" * 4096, score=0.123456789012345678,
    )  # fmt: skip
    text = msgspec.json.encode(widest).decode()
    escaped = "".join(c if ord(c) < 128 else "\\ud83d\\ude00" for c in text).encode()
    world = World(True)
    world.desk.take(escaped)
    assert world.rows[0].explanation == widest.explanation
