"""Rows come back from the store as they went in, whichever way they went."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from extproc.exchanges import Envelope, Exchange
from extproc.lab.store.record_store import Store, quoted
from extproc.lab.store.segment_loading import load
from extproc.lab.store.store_schema import statements, view_name
from extproc.registry.schema import Telemetry
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.row_building import row_of
from extproc.telemetry.rows import KINDS, AnyRow, EvaluationRow, ExchangeRow
from extproc.telemetry.sinks import outcome_of
from extproc.telemetry.span_export import SpanSink
from tests.lab.store.conftest import BARE, FULL, OPINION, ROWS, as_row

EXCHANGE = Exchange(
    request_id="7f2c", started_at=1_795_000_000.25, duration=1.5, first_byte=0.125, status=503,
    flags=("UF", "URX"), method="POST", path="/v1/chat/completions", cluster="model-code", request_bytes=120,
    response_bytes=4096,
    envelope=Envelope(
        api="openai.chat", route="code", model="code", upstream_model="qwen3", original_model="auto",
        stage="embedding", reason="matched", probability=0.91, margin=0.30000000000000004, similarity=0.0,
        candidates=("code:0.91", "chat:0.09"), predicted_quality=0.87, offers=("code:0.87",), version="v1", tokens=16, stream=True, rules_us=20, queue_us=0,
        embed_us=2400, total_us=2600,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_segments_come_back_as_they_were(filled: Store, kind: type[AnyRow]) -> None:
    found = filled.rows(f"SELECT * FROM {view_name(kind)} ORDER BY request_id")
    assert [as_row(row, kind) for row in found] == [row for row in ROWS if isinstance(row, kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_has_the_fields_of_its_kind_and_no_others(store: Store, kind: type[AnyRow]) -> None:
    columns = [row["name"] for row in store.rows(f"DESCRIBE TABLE {view_name(kind)}")]
    assert columns == list(kind.__struct_fields__)


def test_what_is_not_known_is_null_and_never_zero(filled: Store) -> None:
    (found,) = filled.rows("SELECT * FROM exchanges WHERE request_id = 'r2'")
    unknown = {name for name, value in found.items() if value is None}
    assert unknown == {name for name in ExchangeRow.__struct_fields__ if getattr(BARE, name) is None}
    (row,) = filled.rows("SELECT output_tokens, queue_us FROM exchanges WHERE request_id = 'r1'")
    assert row == {"output_tokens": 0, "queue_us": 0}  # known, and nothing


@pytest.mark.parametrize(
    "changes", [{}, {"status": 200, "flags": ()}, {"duration": None, "first_byte": None}]
)
def test_a_span_from_a_collector_and_a_record_from_a_segment_are_the_same_row(
    store: Store, segment: Callable[[Sequence[AnyRow]], Path], changes: dict[str, Any]
) -> None:
    exchange = msgspec.structs.replace(EXCHANGE, **changes)
    span = _spans(exchange)[0]
    store.run(_as_the_exporter_inserts(span))
    (by_span,) = store.rows("SELECT * FROM exchanges")
    (span_itself,) = store.rows(_OF_THE_SPAN)
    store.run("TRUNCATE TABLE otel_traces")
    load(store, segment([row_of(exchange)]))
    (by_record,) = store.rows("SELECT * FROM exchanges")
    (record_itself,) = store.rows(_OF_THE_SPAN)
    assert by_span == by_record
    assert span_itself == record_itself
    assert as_row(by_record, ExchangeRow) == row_of(exchange)


def test_a_refused_exchange_is_the_same_row_both_ways_too(
    store: Store, segment: Callable[[Sequence[AnyRow]], Path]
) -> None:
    envelope = msgspec.structs.replace(EXCHANGE.envelope or Envelope(), error="denied", upstream_model="")
    test_a_span_from_a_collector_and_a_record_from_a_segment_are_the_same_row(
        store, segment, {"envelope": envelope, "status": 400, "flags": ()}
    )


def test_an_opinion_told_as_an_event_of_a_span_is_an_evaluation_once(
    store: Store, segment: Callable[[Sequence[AnyRow]], Path]
) -> None:
    load(store, segment([FULL, OPINION]))
    event = {"gen_ai.evaluation.name": "judge", "router.evaluation.id": "e1", "router.request_id": "r1"}
    foreign = {"gen_ai.evaluation.name": "toxicity", "gen_ai.evaluation.score.value": "0.5"}
    names = "['gen_ai.evaluation.result', 'gen_ai.evaluation.result', 'exception']"
    times = "['2026-11-28 00:00:00', '2026-11-28 00:00:01', '2026-11-28 00:00:02']"
    store.run(
        "INSERT INTO otel_traces (Timestamp, TraceId, SpanId, SpanAttributes, Events.Timestamp, Events.Name, "
        f"Events.Attributes) VALUES ('2026-11-28 00:00:00', 't9', 's9', {{'router.request_id': 'r9'}}, {times}, "
        f"{names}, [{_map(event)}, {_map(foreign)}, {{}}])"
    )
    found = store.rows("SELECT request_id, name, score FROM evaluations ORDER BY name")
    assert found == [
        {"request_id": "r1", "name": "judge", "score": 0.0},
        {"request_id": "r9", "name": "toxicity", "score": 0.5},
    ]


def test_a_whole_trace_is_one_row(store: Store) -> None:
    spans = _spans(EXCHANGE)
    assert len(spans) > 2
    for span in spans:
        store.run(_as_the_exporter_inserts(span))
    assert store.rows("SELECT request_id FROM exchanges") == [{"request_id": "7f2c"}]
    for kind in KINDS[1:]:
        assert store.rows(f"SELECT count() AS n FROM {view_name(kind)}") == [{"n": 0}]


def test_making_the_store_again_changes_nothing(filled: Store) -> None:
    for statement in statements():
        filled.run(statement)
    assert filled.rows("SELECT count() AS n FROM otel_traces") == [{"n": len(ROWS)}]


def test_the_table_has_the_columns_that_the_collectors_exporter_inserts(store: Store) -> None:
    columns = [row["name"] for row in store.rows("DESCRIBE TABLE otel_traces")]
    assert [column for column in columns if "." not in column and not column.startswith("router_")] == [
        *(
            "Timestamp",
            "TraceId",
            "SpanId",
            "ParentSpanId",
            "TraceState",
            "SpanName",
            "SpanKind",
            "ServiceName",
        ),
        *("ResourceAttributes", "ScopeName", "ScopeVersion", "SpanAttributes", "Duration", "StatusCode"),
        "StatusMessage",
    ]
    assert [column for column in columns if "." in column] == [
        *("Events.Timestamp", "Events.Name", "Events.Attributes"),
        *("Links.TraceId", "Links.SpanId", "Links.TraceState", "Links.Attributes"),
    ]


def test_an_evaluation_view_prefers_the_first_of_two_with_one_key(
    store: Store, segment: Callable[[Sequence[AnyRow]], Path]
) -> None:
    later = msgspec.structs.replace(OPINION, score=1.0, time=OPINION.time.replace(hour=23))
    store.run(_insert_evaluation(later))
    load(store, segment([FULL]))
    store.run(_insert_evaluation(OPINION))
    assert store.rows("SELECT score FROM evaluations") == [{"score": 0.0}]


_OF_THE_SPAN = (
    "SELECT Timestamp, TraceId, SpanName, SpanKind, Duration, StatusCode, ScopeName, "
    "ResourceAttributes['service.name'] AS service, mapSort(SpanAttributes) AS attributes FROM otel_traces"
)


def _spans(exchange: Exchange) -> list[Any]:
    exporter = InMemorySpanExporter()
    sink = SpanSink(exporter, "minilm")
    sink.accept(
        outcome_of(exchange, lambda version: PriceList({}), lambda version: Telemetry(trace_share=1.0))
    )
    sink.close()
    return list(exporter.get_finished_spans())


def _as_the_exporter_inserts(span: Any) -> str:
    """The collector's ClickHouse exporter writes every attribute as a string: JSON, but for texts."""
    attributes = {name: _string(value) for name, value in span.attributes.items()}
    kind = span.kind.name.capitalize()
    status = span.status.status_code.name.capitalize()
    return (
        "INSERT INTO otel_traces (Timestamp, TraceId, SpanId, SpanName, SpanKind, ServiceName, ResourceAttributes, "
        "ScopeName, SpanAttributes, Duration, StatusCode) VALUES ("
        f"fromUnixTimestamp64Nano({span.start_time}, 'UTC'), '{span.context.trace_id:032x}', "
        f"'{span.context.span_id:016x}', {quoted(span.name)}, '{kind}', 'envoy-semantic-router', "
        f"{{'service.name': 'envoy-semantic-router'}}, 'extproc', {_map(attributes)}, "
        f"{span.end_time - span.start_time}, '{status}')"
    )


def _insert_evaluation(row: EvaluationRow) -> str:
    told = {"router.record": "evaluation", "router.evaluation.id": row.evaluation_id}
    told["gen_ai.evaluation.score.value"] = str(row.score)
    when = re.sub("[TZ]", " ", row.time.isoformat())[:19]
    return f"INSERT INTO otel_traces (Timestamp, SpanAttributes) VALUES ('{when}', {_map(told)})"


def _map(values: dict[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(name)}: {quoted(value)}" for name, value in values.items()) + "}"


def _string(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().removesuffix(".0")
