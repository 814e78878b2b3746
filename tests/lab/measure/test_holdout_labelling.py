"""Keys become labels, undo takes them back, and the file is all that a later sitting needs."""

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.errors import DataError, OperatorError
from extproc.lab.datasets import read_routes
from extproc.lab.measure.holdout_labelling import Effect, Label, Session, keys_of, read_rows, write_rows

ROUTES = ["code", "greeting"]


def rows_of(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text} for text in texts]


def test_each_key_labels_the_row_that_is_shown() -> None:
    rows = rows_of("fix it", "hello", "rain?")
    session = Session(rows, keys_of(ROUTES))
    for key, text in zip("120", ["fix it", "hello", "rain?"], strict=True):
        assert session.current == text
        assert session.press(key) is Effect.LABELLED
    assert session.current is None
    assert [row["route"] for row in rows] == ["code", "greeting", None]


def test_undo_goes_back_through_labels_and_skips_to_the_start() -> None:
    rows = rows_of("a", "b", "c")
    session = Session(rows, keys_of(ROUTES))
    for key in "1s2":
        session.press(key)
    assert session.labelled == 2
    assert [session.press("u") for _ in range(4)] == [Effect.UNDONE] * 3 + [Effect.NOTHING_TO_UNDO]
    assert rows == rows_of("a", "b", "c")
    assert session.current == "a"
    assert not session.can_undo


def test_a_skipped_row_waits_for_the_next_sitting() -> None:
    rows = rows_of("a", "b")
    first = Session(rows, keys_of(ROUTES))
    first.press("s")
    assert first.current == "b"
    first.press("1")
    assert Session(rows, keys_of(ROUTES)).current == "a"


def test_other_keys_change_nothing() -> None:
    rows = rows_of("a")
    session = Session(rows, keys_of(ROUTES))
    assert session.press("9") is Effect.UNKNOWN
    assert session.press("q") is Effect.QUIT
    assert rows == rows_of("a")
    session.press("1")
    assert session.press("2") is Effect.UNKNOWN  # nothing is left to label
    assert rows[0]["route"] == "code"


def test_no_route_has_the_key_of_a_command() -> None:
    keys = keys_of([f"r{i}" for i in range(32)])
    assert len(set(keys)) == 33
    assert not {"u", "s", "q"} & set(keys)
    with pytest.raises(OperatorError, match="33 routes and keys for 32"):
        keys_of([f"r{i}" for i in range(33)])


def test_a_file_keeps_its_other_keys_and_then_feeds_eval(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fix it", "weight": 3.5, "decided": "code"}\n{"text": "hé", "route": null}\n')
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    rows = read_rows(link, ROUTES)
    Session(rows, keys_of(ROUTES)).press("2")
    write_rows(link, rows)
    assert link.is_symlink()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"text": "fix it", "weight": 3.5, "decided": "code", "route": "greeting"},
        {"text": "hé", "route": None},
    ]
    assert [row.route for row in read_routes(path, ROUTES)] == ["greeting", None]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "a"}\n{"txt": "b"}', "2: text: expected words to label"),
        ('{"text": ""}', "1: text: expected words to label"),
        ('["a"]', "1: must be a mapping; got a list"),
        ('{"text": "a", "route": "coding"}', r"1: there is no route 'coding' \(expected one of: code, greeting\)"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_labelled_are_told(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=problem):
        read_rows(path, ROUTES)


def test_a_gzipped_file_is_refused_since_labels_are_written_into_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not gzipped"):
        read_rows(tmp_path / "rows.jsonl.gz", ROUTES)


def test_one_key_takes_over_a_suggestion_as_the_label() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "fix it", "suggested": "code", "why": "it names a bug"},
        {"text": "rain?", "suggested": None},
        {"text": "hello", "suggested": "code"},
    ]
    session = Session(rows, keys_of(ROUTES))
    assert session.suggestion == Label("code", "it names a bug")
    for key, route in (".", "code"), (".", None), ("2", "greeting"):
        meant = session.label_of(key)
        assert meant is not None
        assert meant.route == route
        assert session.press(key) is Effect.LABELLED
    assert [row["route"] for row in rows] == ["code", None, "greeting"]
    assert session.press(".") is Effect.UNKNOWN
    session.press("u")
    assert "route" not in rows[2]
    assert rows[2]["suggested"] == "code"


@pytest.mark.parametrize(
    "row", [{"text": "a"}, {"text": "a", "suggested": "gone"}, {"text": "a", "suggested": 7}]
)
def test_without_a_suggestion_that_the_registry_knows_there_is_nothing_to_confirm(
    row: dict[str, Any],
) -> None:
    session = Session([row], keys_of(ROUTES))
    assert session.suggestion is None
    assert session.press(".") is Effect.UNKNOWN
    assert "route" not in row


def test_a_suggestion_that_nobody_confirmed_trains_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fix it", "suggested": "code", "why": ""}\n')
    with pytest.raises(DataError, match="`extproc holdout label` asks for missing ones"):
        read_routes(path, ROUTES)
