"""What the standard variables ask for, and metrics that are pushed."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from extproc.errors import OperatorError
from extproc.exchanges import Usage
from extproc.telemetry import otlp
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.sinks import Outcome
from tests.collector import Collector, attributes

Make = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.stop()


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"])
def test_metrics_are_pushed_to_the_collector_that_is_named(
    collector: Collector, outcome: Make, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, collector.endpoint)
    metrics = Metrics(otlp.metric_reader())
    metrics.accept(outcome(usage=Usage(input=100, output=5)))
    metrics.close()  # what was counted last is sent
    points = collector.metrics["gen_ai.client.token.usage"].histogram.data_points
    sums = {attributes(point.attributes)["gen_ai.token.type"]: point.sum for point in points}
    assert sums == {"input": 100, "output": 5}
    assert "router.exchanges" in collector.metrics


def test_the_page_shows_the_same_beside_it(
    collector: Collector, outcome: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    metrics = Metrics(otlp.metric_reader())
    metrics.accept(outcome())
    assert b"router_exchanges_total" in metrics.render()
    metrics.close()


def test_they_are_pushed_at_the_interval_that_is_asked_for(
    collector: Collector, outcome: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    metrics = Metrics(otlp.metric_reader())
    metrics.accept(outcome())
    until = time.monotonic() + 30
    while "router.exchanges" not in collector.metrics:
        assert time.monotonic() < until
        time.sleep(0.01)
    metrics.close()


def test_a_collector_that_never_answers_delays_no_call_and_not_the_end(
    outcome: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
        metrics = Metrics(otlp.metric_reader())
        silent.settimeout(60)
        connection, _ = silent.accept()  # one export is under way, and will be for ten seconds
        started = time.monotonic()
        for _ in range(1000):
            metrics.accept(outcome())
        assert b"router_exchanges_total" in metrics.render()
        assert time.monotonic() - started < 9  # the export alone would wait for ten
        started = time.monotonic()
        metrics.close(timeout_s=0.1)
        assert time.monotonic() - started < 20  # the SDK alone would wait for 30
        connection.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
    assert not [record for record in caplog.messages if "already shutdown" in record]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"},
    ],
)
def test_nothing_is_pushed_and_no_thread_runs_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    threads = threading.active_count()
    assert otlp.metric_reader() is None
    assert threading.active_count() == threads


def test_each_signal_may_have_a_collector_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:1")
    assert otlp.exports("METRICS")
    assert not otlp.exports("TRACES")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf", "metrics are exported by gRPC only"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "could not convert string to float"),
    ],
)
def test_what_the_environment_asks_for_in_vain_is_an_operators_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(OperatorError, match=message):
        otlp.metric_reader()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, False), ("", False), ("false", False), ("no_content", False), ("event_only", False),
        ("true", True), ("SPAN_ONLY", True), ("span_and_event", True),
    ],
)  # fmt: skip
def test_text_is_wanted_only_by_the_standard_opt_in(
    monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool
) -> None:
    if value is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", value)
    assert otlp.captures_text() is wanted
