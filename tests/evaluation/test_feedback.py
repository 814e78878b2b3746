from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from extproc.errors import OperatorError
from extproc.evaluation.feedback import Opinion, read, row_of
from extproc.telemetry.rows import EvaluationRow

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_an_opinion_is_an_evaluation_of_the_clients_answer() -> None:
    row = row_of(Opinion(request_id="r1", score=0.25, label="meh", source="ann", explanation="too long"), NOW)
    assert row == EvaluationRow(
        time=NOW, request_id="r1", evaluation_id=row.evaluation_id, name="feedback", score=0.25, label="meh",
        source="ann", explanation="too long", subject="exchange",
    )  # fmt: skip


@pytest.mark.parametrize(("label", "score"), [("good", 1.0), ("Thumbs_Down", 0.0), ("pass", 1.0)])
def test_a_known_label_tells_its_score(label: str, score: float) -> None:
    assert row_of(Opinion(trace_id="t1", label=label), NOW).score == score
    assert row_of(Opinion(trace_id="t1", label=label, score=0.5), NOW).score == 0.5


def test_the_same_opinion_has_the_same_key_whenever_it_comes() -> None:
    opinion = Opinion(request_id="r1", score=1.0, source="ann")
    key = row_of(opinion, NOW).evaluation_id
    assert row_of(opinion, NOW.replace(year=2027)).evaluation_id == key
    others = [
        Opinion(request_id="r2", score=1.0, source="ann"),
        Opinion(request_id="r1", score=0.0, source="ann"),
        Opinion(request_id="r1", score=1.0, source="bob"),
        Opinion(request_id="r1", score=1.0, source="ann", name="tone"),
        Opinion(trace_id="r1", score=1.0, source="ann"),
    ]
    assert len({row_of(other, NOW).evaluation_id for other in others} | {key}) == 6
    assert row_of(msgspec.structs.replace(opinion, id="mine"), NOW).evaluation_id == "mine"


def test_a_file_is_read_line_by_line_and_empty_lines_are_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"request_id": "r1", "score": 1}',
        "",
        '{"trace_id": "t", "label": "bad", "time": "2026-01-01T00:00:00Z"}',
    )
    first, second = read(path, NOW)
    assert (first.request_id, first.time) == ("r1", NOW)
    assert (second.trace_id, second.score, second.time.year) == ("t", 0.0, 2026)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "truncated"),
        ('{"score": 1}', "expected request_id or trace_id"),
        ('{"request_id": "r"}', "it tells no score"),
        ('{"request_id": "r", "label": "fine"}', "it tells no score"),
        ('{"request_id": "r", "score": 5}', "<= 1.0"),
        ('{"request_id": "r", "score": 1, "prompt": "secret"}', "unknown field `prompt`"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_its_number(tmp_path: Path, line: str, told: str) -> None:
    path = written(tmp_path, '{"request_id": "r", "score": 1}', line)
    with pytest.raises(OperatorError, match=rf"feedback\.jsonl:2: .*{told}"):
        list(read(path, NOW))


def test_a_file_that_is_not_there_is_an_operators_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot read .*absent: No such file"):
        list(read(tmp_path / "absent", NOW))
