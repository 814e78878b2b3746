import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from extproc.errors import OperatorError
from extproc.lab.store.file_imports import feedback_in

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_a_file_is_read_line_by_line_and_empty_lines_are_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"request_id": "r1", "score": 1}',
        "",
        '{"trace_id": "t", "label": "bad", "time": "2026-01-01T00:00:00Z"}',
    )
    first, second = feedback_in(path, NOW)
    assert (first.request_id, first.time) == ("r1", NOW)
    assert (second.trace_id, second.score, second.time.year) == ("t", 0.0, 2026)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "truncated"),
        ('{"score": 1}', "add `request_id` or `trace_id`"),
        ('{"request_id": "r"}', "add `score` (0-1) or `label`"),
        ('{"request_id": "r", "label": "fine"}', "add `score` (0-1) or `label`"),
        ('{"request_id": "r", "score": 5}', "<= 1.0"),
        ('{"request_id": "r", "score": 1, "prompt": "secret"}', "unknown field `prompt`"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_its_number(tmp_path: Path, line: str, told: str) -> None:
    path = written(tmp_path, '{"request_id": "r", "score": 1}', line)
    with pytest.raises(OperatorError, match=rf"feedback\.jsonl:2: .*{re.escape(told)}"):
        list(feedback_in(path, NOW))


def test_a_file_that_is_not_there_is_an_operators_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot read .*absent: No such file"):
        list(feedback_in(tmp_path / "absent", NOW))
