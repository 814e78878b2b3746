import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from extproc import __version__
from extproc.errors import OperatorError
from extproc.telemetry.rows import EvaluationRow
from extproc.telemetry.sinks import Outcome
from extproc.telemetry.span_export import SpanSink, sink_from_environment
from tests.collector import Collector, attributes

Make = Callable[..., Outcome]


class Stuck(SpanExporter):
    """A collector that answers no call until it is shut down."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._end = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self._end.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._end.set()


@pytest.fixture(autouse=True)
def _no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint)
    yield server
    server.stop()


def sink() -> SpanSink:
    made = sink_from_environment("minilm")
    assert made is not None
    return made


def export_one(collector: Collector, outcome: Outcome) -> Span:
    out = sink()
    out.accept(outcome)
    out.close(timeout_s=30)
    (span,) = collector.spans
    assert out.dropped == 0
    return span


def seconds_to_close(out: SpanSink) -> float:
    started = time.monotonic()
    out.close(timeout_s=0.1)
    return time.monotonic() - started


def test_the_exchange_has_one_span_and_a_kept_trace_has_those_below_it(
    outcome: Make, collector: Collector
) -> None:
    out = sink()
    out.accept(outcome(share=0.0))
    out.accept(outcome(share=1.0))
    out.close(timeout_s=30)
    names = [span.name for span in collector.spans]
    assert names == ["route", "route", "rules", "embeddings minilm", "score", "chat qwen3-coder"]
    assert out.dropped == 0


def test_the_service_is_ours_unless_the_operator_names_it(
    outcome: Make, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_one(collector, outcome())
    ours = attributes(collector.received.pop().resource.attributes)
    assert (ours["service.name"], ours["service.version"]) == ("envoy-semantic-router", __version__)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge-router")
    export_one(collector, outcome())
    assert attributes(collector.received.pop().resource.attributes)["service.name"] == "edge-router"


def test_a_collector_that_stands_still_delays_nothing_and_every_lost_span_is_counted(outcome: Make) -> None:
    exporter = Stuck()
    out = SpanSink(exporter, "minilm", queue_spans=8)
    for _ in range(8):
        out.accept(outcome())
    assert exporter.entered.wait(30)  # the first batch is being sent, and will be for ever
    for _ in range(100):
        out.accept(outcome())  # returns, or this test does not
    assert out.dropped == 100
    out.close(timeout_s=0.05)
    assert out.dropped == 108
    out.accept(outcome())
    assert out.dropped == 109


def test_an_opinion_is_a_span_of_its_own_and_one_without_room_is_counted(collector: Collector) -> None:
    opinion = EvaluationRow(
        time=datetime(2026, 11, 25, tzinfo=UTC), request_id="r", evaluation_id="e", name="feedback", score=0.5
    )
    out = sink()
    assert out.evaluated(opinion)
    out.close(timeout_s=30)
    (span,) = collector.spans
    assert span.name == "evaluate feedback"
    assert attributes(span.attributes)["gen_ai.evaluation.score.value"] == 0.5
    assert not out.evaluated(opinion)
    assert out.dropped == 1


def test_a_trace_that_does_not_fit_whole_is_lost_whole(outcome: Make) -> None:
    exporter = Stuck()
    out = SpanSink(exporter, "minilm", queue_spans=8)
    for _ in range(2):
        out.accept(outcome(share=1.0))  # five spans each
    assert out.dropped == 5
    out.close(timeout_s=0.05)


def test_spans_that_the_collector_refuses_are_counted(outcome: Make, collector: Collector) -> None:
    collector.refusal = grpc.StatusCode.INVALID_ARGUMENT
    out = sink()
    for _ in range(3):
        out.accept(outcome())
    out.close(timeout_s=30)
    assert (out.dropped, collector.spans) == (3, [])


def test_a_collector_that_is_gone_does_not_hold_up_the_end(
    outcome: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        out = sink()
        for _ in range(1000):
            out.accept(outcome())
        threads = threading.active_count()
        took = seconds_to_close(out)
    assert took < 9  # the SDK alone would retry for 10
    assert out.dropped == 1000
    assert threading.active_count() < threads


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    outcome: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        out = sink()
        for _ in range(1000):
            out.accept(outcome())
        took = seconds_to_close(out)
    assert took < 9  # the SDK alone would wait for 10
    assert out.dropped == 1000


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "  "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_exported_and_no_thread_runs_unless_a_collector_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    threads = threading.active_count()
    assert sink_from_environment("minilm") is None
    assert threading.active_count() == threads


def test_the_endpoint_of_traces_wins_over_the_common_one(
    outcome: Make, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.endpoint)
    export_one(collector, outcome())


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "exported by gRPC only"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "could not convert string to float"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "invalid literal"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "zip"),
    ],
)
def test_what_the_environment_asks_for_in_vain_is_an_operators_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(OperatorError, match=message):
        sink_from_environment("minilm")
