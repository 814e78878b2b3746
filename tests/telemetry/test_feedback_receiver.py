"""The desk: who is admitted, what is kept, and how each is counted."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from extproc.errors import BadRequest, ClientError, TooLarge, Unauthorized, Unavailable
from extproc.telemetry.feedback_receiver import MAX_BYTES, Feedback, FeedbackReceiver, row_of
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


def test_an_opinion_is_an_evaluation_of_the_clients_answer() -> None:
    row = row_of(
        Feedback(request_id="r1", score=0.25, label="meh", source="ann", explanation="too long"), NOW
    )
    assert row == EvaluationRow(
        time=NOW, request_id="r1", evaluation_id=row.evaluation_id, name="feedback", score=0.25, label="meh",
        source="ann", explanation="too long", subject="exchange",
    )  # fmt: skip


@pytest.mark.parametrize(("label", "score"), [("good", 1.0), ("Thumbs_Down", 0.0), ("pass", 1.0)])
def test_a_known_label_tells_its_score(label: str, score: float) -> None:
    assert row_of(Feedback(trace_id="t1", label=label), NOW).score == score
    assert row_of(Feedback(trace_id="t1", label=label, score=0.5), NOW).score == 0.5


def test_the_same_opinion_has_the_same_key_whenever_it_comes() -> None:
    opinion = Feedback(request_id="r1", score=1.0, source="ann")
    key = row_of(opinion, NOW).evaluation_id
    assert row_of(opinion, NOW.replace(year=2027)).evaluation_id == key
    others = [
        Feedback(request_id="r2", score=1.0, source="ann"),
        Feedback(request_id="r1", score=0.0, source="ann"),
        Feedback(request_id="r1", score=1.0, source="bob"),
        Feedback(request_id="r1", score=1.0, source="ann", name="tone"),
        Feedback(trace_id="r1", score=1.0, source="ann"),
    ]
    assert len({row_of(other, NOW).evaluation_id for other in others} | {key}) == 6
    assert row_of(msgspec.structs.replace(opinion, id="mine"), NOW).evaluation_id == "mine"


def test_a_time_without_a_zone_is_utc_and_one_with_a_zone_stays() -> None:
    naive = datetime(2026, 11, 25, 11)
    assert row_of(Feedback(request_id="r", score=1.0, time=naive), NOW).time == naive.replace(tzinfo=UTC)
    zoned = naive.replace(tzinfo=timezone(timedelta(hours=2)))
    assert row_of(Feedback(request_id="r", score=1.0, time=zoned), NOW).time == zoned


@pytest.mark.parametrize("field", ["request_id", "trace_id", "label", "source", "explanation", "id", "name"])
def test_every_text_has_an_end(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="length <="):
        msgspec.convert({"score": 1.0, field: "x" * 4097}, Feedback)


def test_a_trace_id_is_the_same_in_capitals() -> None:
    small, large = (row_of(Feedback(trace_id=trace, score=1.0), NOW) for trace in ("ab12", "AB12"))
    assert small == large
    assert small.trace_id == "ab12"
