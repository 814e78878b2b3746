from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from extproc.errors import OperatorError
from extproc.lab.store.record_store import Store, open_store, quoted
from extproc.lab.store.segment_loading import ImportedSegment, load, prepare, segments_in
from extproc.lab.store.store_schema import statements, view_name
from extproc.telemetry.rows import KINDS, AnyRow, ExchangeRow
from tests.lab.store.conftest import ATTEMPT, BARE, FULL, NOON, OPINION, ROWS, SHADOW

Write = Callable[[Sequence[AnyRow]], Path]


def requests(store: Store) -> list[str]:
    return [row["request_id"] for row in store.rows("SELECT request_id FROM exchanges ORDER BY request_id")]


def test_loading_the_same_segment_again_adds_nothing(store: Store, segment: Write) -> None:
    path = segment(ROWS)
    assert load(store, path) == ImportedSegment(files=1, lines=7, rows=7, known=0, bad=0)
    assert load(store, path) == ImportedSegment(files=1, lines=7, rows=0, known=7, bad=0)


def test_segments_that_overlap_add_what_is_new(store: Store, segment: Write) -> None:
    load(store, segment([FULL, OPINION]))
    assert load(store, segment([FULL, BARE, OPINION, BARE])) == ImportedSegment(1, 4, rows=1, known=3, bad=0)
    assert requests(store) == ["r1", "r2"]


def test_an_exchange_that_a_collector_has_brought_already_is_not_doubled(
    store: Store, segment: Write
) -> None:
    attributes = "{'router.record': 'exchange', 'router.request_id': 'r1'}"
    store.run(
        "INSERT INTO otel_traces (Timestamp, SpanId, SpanAttributes) "
        f"VALUES ('2026-11-25 12:00:00.250000000', 'of-the-collector', {attributes})"
    )
    assert load(store, segment([FULL, BARE])).rows == 1
    assert requests(store) == ["r1", "r2"]


def test_attempts_and_shadows_of_one_request_are_rows_of_their_own(store: Store, segment: Write) -> None:
    second = msgspec.structs.replace(ATTEMPT, attempt=2)
    other = msgspec.structs.replace(SHADOW, model="larger")
    assert load(store, segment([FULL, ATTEMPT, second, SHADOW, other, second, other])).rows == 5


def test_an_opinion_sent_again_days_later_is_one_opinion(store: Store, segment: Write) -> None:
    again = msgspec.structs.replace(OPINION, time=OPINION.time + timedelta(days=30), score=1.0)
    load(store, segment([FULL, OPINION]))
    assert load(store, segment([again])).rows == 0
    assert store.rows("SELECT score FROM evaluations") == [{"score": 0.0}]


def test_lines_cut_short_and_of_unknown_kinds_are_counted_and_spoil_no_other(
    store: Store, segment: Write, tmp_path: Path
) -> None:
    path = tmp_path / "torn.jsonl"
    whole = segment([FULL]).read_bytes()
    path.write_bytes(whole[:80] + b"\n" + b'{"kind":"prophecy"}\n' + b"\xff\n" + whole + whole[:200])
    assert load(store, path) == ImportedSegment(files=1, lines=5, rows=1, known=0, bad=4)


def test_a_row_of_many_days_ago_and_one_of_today_lie_in_one_segment(store: Store, segment: Write) -> None:
    rows = [
        ExchangeRow(time=NOON - timedelta(days=day), request_id=str(day), bypassed=True, refused=False)
        for day in range(150)
    ]
    assert load(store, segment(rows)).rows == 150


def test_an_empty_segment_is_nothing(store: Store, segment: Write) -> None:
    assert load(store, segment([])) == ImportedSegment(files=1)


def test_a_name_with_a_quote_and_a_backslash_is_read(store: Store, segment: Write, tmp_path: Path) -> None:
    path = tmp_path / "it's \\ odd.jsonl"
    path.write_bytes(segment([FULL]).read_bytes())
    assert load(store, path).rows == 1


def test_a_name_that_chdb_would_take_for_a_pattern_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "records-*.jsonl"
    path.touch()
    with pytest.raises(OperatorError, match="is a pattern to chDB"):
        load(store, path)


def test_directories_stand_for_their_segments_in_order(segment: Write, tmp_path: Path) -> None:
    first, second = segment([FULL]), segment([BARE])
    (tmp_path / "notes.txt").touch()
    assert segments_in([tmp_path]) == [first, second]
    assert segments_in([second]) == [second]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(OperatorError, match=f"{path}: no records there"):
            segments_in([path])


def test_without_attributes_the_views_say_the_same(store: Store, segment: Write) -> None:
    path, views = segment(ROWS), [view_name(kind) for kind in KINDS]
    load(store, path)
    expected = {view: store.rows(f"SELECT * FROM {view} ORDER BY ALL") for view in views}
    store.run("TRUNCATE TABLE otel_traces")
    load(store, path, attributes=False)
    assert {view: store.rows(f"SELECT * FROM {view} ORDER BY ALL") for view in views} == expected
    assert store.rows("SELECT sum(length(SpanAttributes)) AS n FROM otel_traces") == [{"n": 0}]
    assert load(store, path).rows == 0


def test_a_table_of_the_exporters_own_gets_the_columns_and_says_what_was_in_it(segment: Write) -> None:
    with open_store(None) as whole:
        prepare(whole)
        load(whole, segment(ROWS))
        expected = whole.rows("SELECT * FROM exchanges ORDER BY request_id")
        spans = whole.rows("SELECT Timestamp, TraceId, Duration, StatusCode, SpanAttributes FROM otel_traces")
    with open_store(None) as older:
        older.run(statements()[0])
        for span in spans:
            attributes = ", ".join(f"{quoted(k)}, {quoted(v)}" for k, v in span["SpanAttributes"].items())
            older.run(
                "INSERT INTO otel_traces (Timestamp, TraceId, Duration, StatusCode, SpanAttributes) VALUES "
                f"('{span['Timestamp']}', '{span['TraceId']}', {span['Duration']}, '{span['StatusCode']}', "
                f"map({attributes}))"
            )
        prepare(older)
        assert older.rows("SELECT * FROM exchanges ORDER BY request_id") == expected
