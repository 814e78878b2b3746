"""Data files are read as they are meant, and every mistake says where it is and what was expected."""

import gzip
from pathlib import Path

import pytest

from extproc.errors import DataError
from extproc.lab.datasets import OutcomeRow, labels_of, printable, read_outcomes, read_routes
from extproc.registry.labelled_rows import RouteRow

ROUTES = ("code", "greeting")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def problem_of(file: Path, content: bytes | str) -> str:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read_routes(file, ROUTES)
    told = str(caught.value)
    assert told.startswith(f"{file}:")
    return told.removeprefix(f"{file}:")


def test_rows_keep_their_order_null_means_abstain_and_other_keys_are_left_alone(file: Path) -> None:
    file.write_text(
        '{"text": "fix it", "route": "code", "id": 7}\n\n{"text": "rain?", "route": null, "group": "g"}\n'
    )
    rows = read_routes(file, ROUTES)
    assert rows == [RouteRow("fix it", "code"), RouteRow("rain?", None, "g")]
    assert labels_of(rows, ROUTES).tolist() == [0, -1]


def test_gzip_is_told_by_its_content_not_its_name(file: Path) -> None:
    file.write_bytes(gzip.compress(b'{"text": "h\xc3\xa9", "route": null}\r\n'))
    assert read_routes(file, ROUTES) == [RouteRow("hé", None)]


def test_outcomes_are_scores_by_model(file: Path) -> None:
    file.write_text('{"text": "2+2?", "outcomes": {"small": 1, "large": 0.5}, "tokens": {"small": 12}}')
    assert read_outcomes(file, ["small", "large"]) == [
        OutcomeRow("2+2?", {"small": 1.0, "large": 0.5}, {"small": 12})
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "1: there are no rows (expected one JSON object a line)"),
        ('{"text": "a", "route": null}\n{"text": ', "2: not JSON: Input data was truncated (expected one object a line)"),
        ("[]", "1: must be a mapping with `text` and `route`; got a list"),
        ('{"text": "a"}', "1: missing key `route` (expected a route's name or null; `extproc holdout label` asks for missing ones)"),
        ('{"text": 5, "route": null}', "1: text: must be text; got a whole number"),
        ('{"text": "", "route": null}', "1: text: must not be empty"),
        ('\n{"text": "a", "route": "cod"}', "2: there is no route `cod` in the registry (did you mean `code`? expected one of: code, greeting), or null"),
        (b'{"text": "a", "route": null}\n{"text": "\xff"}', "2: not UTF-8: invalid start byte"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], "1: cannot read it: Compressed file ended before the end-of-stream marker was reached"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_line_and_expectation(file: Path, content: bytes | str, problem: str) -> None:
    assert problem_of(file, content) == problem


def test_a_file_that_is_absent_is_told(file: Path) -> None:
    with pytest.raises(DataError, match="cannot read it: No such file"):
        read_routes(file, ROUTES)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "a", "outcomes": {}}', "outcomes: must not be empty"),
        ('{"text": "a", "outcomes": {"small": 1.5}}', r"outcomes\[...\]: must be a number <= 1.0"),
        ('{"text": "a", "outcomes": {"smal": 1}}', r"there is no model `smal` in the registry \(did you mean `small`\?"),
        ('{"text": "a", "outcomes": {"small": 1}, "tokens": {"big": 1}}', "there is no model `big`"),
    ],
)  # fmt: skip
def test_a_mistake_in_outcomes_is_told(file: Path, content: str, problem: str) -> None:
    file.write_text(content)
    with pytest.raises(DataError, match=f":1: {problem}"):
        read_outcomes(file, ["small"])


def test_printable_keeps_lines_and_indents_and_shows_what_would_steer_a_terminal() -> None:
    assert printable("def f():\r\n\treturn 'é…'\n") == "def f():\n\treturn 'é…'\n"
    assert printable("\x1b[31m\x07\r\u202e") == "\ufffd[31m\ufffd\ufffd\ufffd"
