from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from extproc.telemetry.feedback_rows import Feedback, row_of
from extproc.telemetry.rows import EvaluationRow

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


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
