import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from extproc import __version__
from extproc.errors import OperatorError
from extproc.telemetry.spans import SpanSink, sink_from_environment
from extproc.vocabulary import Exchange
from tests.collector import Collector, attributes

Make = Callable[..., Exchange]

START_NS = 1_795_000_000_250_000_000
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"


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
    made = sink_from_environment()
    assert made is not None
    return made


def export_one(collector: Collector, exchange: Exchange) -> Span:
    out = sink()
    out.accept(exchange)
    out.close(timeout_s=30)
    (span,) = collector.spans
    assert out.dropped == 0
    return span


def seconds_to_close(out: SpanSink) -> float:
    started = time.monotonic()
    out.close(timeout_s=0.1)
    return time.monotonic() - started


def test_a_routed_exchange_is_a_client_span_under_its_parent_with_its_true_times(
    exchange: Make, collector: Collector
) -> None:
    span = export_one(collector, exchange())
    assert span.name == "chat qwen3-coder"
    assert span.kind == Span.SPAN_KIND_CLIENT
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert span.start_time_unix_nano == START_NS
    assert span.end_time_unix_nano == START_NS + 1_500_000_000
    assert span.status.code == Status.STATUS_CODE_UNSET


def test_its_attributes_tell_the_call_and_the_decision(exchange: Make, collector: Collector) -> None:
    assert attributes(export_one(collector, exchange()).attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "acme",
        "gen_ai.request.model": "qwen3-coder",
        "gen_ai.original.model": "auto",
        "gen_ai.request.stream": True,
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "http.request.body.size": 120,
        "http.response.body.size": 4096,
        "router.record": "exchange",
        "router.record.schema": 1,
        "router.request_id": "7f2c",
        "router.attempts": 1,
        "router.mode": "active",
        "router.usage_source": "unknown",
        "router.api": "openai.chat",
        "router.route": "code",
        "router.model": "code",
        "router.stage": "embedding",
        "router.reason": "matched",
        "router.probability": 0.91,
        "router.margin": 0.84,
        "router.similarity": 0.0,
        "router.config.version": "v1",
        "router.bypassed": False,
        "router.cluster": "model-code",
        "router.first_byte_ms": 125.0,
        "router.tokens": 16,
        "router.parse_us": 12,
        "router.queue_us": 0,
        "router.embed_us": 2400,
        "router.total_us": 2600,
    }


@pytest.mark.parametrize("traceparent", ["", "00-short-short-01"])
def test_without_a_parent_the_span_is_a_root(exchange: Make, collector: Collector, traceparent: str) -> None:
    span = export_one(collector, exchange(traceparent=traceparent))
    assert span.parent_span_id == b""
    assert len(span.trace_id) == 16


def test_a_parent_that_is_not_sampled_is_respected(exchange: Make, collector: Collector) -> None:
    out = sink()
    out.accept(exchange(traceparent=f"00-{TRACE_ID}-{PARENT_ID}-00"))
    out.close(timeout_s=30)
    assert collector.spans == []
    assert out.dropped == 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"status": 404}, "404"), ({"status": 500}, "500"), ({"status": 503, "flags": ("UF",)}, "UF")],
)
def test_a_failed_call_is_an_error_with_its_type(
    exchange: Make, collector: Collector, changes: dict[str, Any], error: str
) -> None:
    span = export_one(collector, exchange(**changes))
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span.attributes)["error.type"] == error


def test_a_client_that_left_is_no_error_but_its_flag_is_told(exchange: Make, collector: Collector) -> None:
    span = export_one(collector, exchange(status=0, flags=("DC",), duration=None, first_byte=None))
    told = attributes(span.attributes)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert told["router.response_flags"] == ["DC"]
    assert not {"error.type", "http.response.status_code", "router.first_byte_ms"} & told.keys()
    assert span.end_time_unix_nano == span.start_time_unix_nano


def test_a_refused_request_is_no_llm_call(exchange: Make, collector: Collector) -> None:
    span = export_one(
        collector, exchange(status=403, error="denied", rule="no-spam", upstream_model="", cluster="")
    )
    told = attributes(span.attributes)
    assert (span.name, span.kind) == ("refuse", Span.SPAN_KIND_INTERNAL)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert told["router.refused"] == "denied"
    assert told["router.rule"] == "no-spam"
    assert told["openinference.span.kind"] == "CHAIN"
    assert not {"gen_ai.operation.name", "gen_ai.request.model", "error.type"} & told.keys()


def test_a_bypassed_call_is_a_call_whose_model_is_not_claimed(exchange: Make, collector: Collector) -> None:
    span = export_one(collector, exchange(envelope=None))
    told = attributes(span.attributes)
    assert (span.name, span.kind) == ("chat", Span.SPAN_KIND_CLIENT)
    assert told["router.bypassed"] is True
    assert not {"gen_ai.request.model", "gen_ai.request.stream", "router.route"} & told.keys()


@pytest.mark.parametrize(("method", "name"), [("GET", "GET"), ("", "HTTP")])
def test_what_is_no_llm_call_is_named_by_its_method_and_claims_no_operation(
    exchange: Make, collector: Collector, method: str, name: str
) -> None:
    span = export_one(collector, exchange(envelope=None, method=method, path="/metrics"))
    assert span.name == name
    assert not [key for key in attributes(span.attributes) if key.startswith("gen_ai.")]


def test_the_service_is_ours_unless_the_operator_names_it(
    exchange: Make, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_one(collector, exchange())
    ours = attributes(collector.received.pop().resource.attributes)
    assert (ours["service.name"], ours["service.version"]) == ("envoy-semantic-router", __version__)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge-router")
    export_one(collector, exchange())
    assert attributes(collector.received.pop().resource.attributes)["service.name"] == "edge-router"


def test_a_collector_that_stands_still_delays_nothing_and_every_lost_span_is_counted(exchange: Make) -> None:
    exporter = Stuck()
    out = SpanSink(exporter, queue_spans=8)
    for _ in range(8):
        out.accept(exchange())
    assert exporter.entered.wait(30)  # the first batch is being sent, and will be for ever
    for _ in range(100):
        out.accept(exchange())  # returns, or this test does not
    assert out.dropped == 100
    out.close(timeout_s=0.05)
    assert out.dropped == 108
    out.accept(exchange())
    assert out.dropped == 109


def test_spans_that_the_collector_refuses_are_counted(exchange: Make, collector: Collector) -> None:
    collector.refusal = grpc.StatusCode.INVALID_ARGUMENT
    out = sink()
    for _ in range(3):
        out.accept(exchange())
    out.close(timeout_s=30)
    assert (out.dropped, collector.spans) == (3, [])


def test_a_collector_that_is_gone_does_not_hold_up_the_end(
    exchange: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        out = sink()
        for _ in range(1000):
            out.accept(exchange())
        threads = threading.active_count()
        took = seconds_to_close(out)
    assert took < 5  # the SDK alone would retry for 10
    assert out.dropped == 1000
    assert threading.active_count() < threads


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    exchange: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        out = sink()
        for _ in range(1000):
            out.accept(exchange())
        took = seconds_to_close(out)
    assert took < 5  # the SDK alone would wait for 10
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
    assert sink_from_environment() is None
    assert threading.active_count() == threads


def test_the_endpoint_of_traces_wins_over_the_common_one(
    exchange: Make, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.endpoint)
    export_one(collector, exchange())


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
        sink_from_environment()
