"""Spans: one OpenTelemetry span per exchange, made when it is over, sent to an OTLP collector.

An LLM call is a CLIENT span named and attributed as the GenAI conventions say, with the start
and end that Envoy saw, under the trace that Envoy or the client began. A refused request called
no model: it is an INTERNAL span named ``refuse``. Sampling is the SDK's own (``OTEL_TRACES_SAMPLER``,
by default the parent's choice).

Export is the SDK's: a bounded queue and a thread. A collector that is slow or gone costs spans,
which are counted, and never a request.
"""

import os
import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

from extproc import __version__
from extproc.errors import OperatorError
from extproc.telemetry import names
from extproc.telemetry.attributes import attributes_of
from extproc.telemetry.resource import service_resource
from extproc.telemetry.rows import ExchangeRow, parent_context, row_of
from extproc.vocabulary import Exchange

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_QUEUE_SPANS = 2048  # the default that the OpenTelemetry specification gives


class SpanSink:
    """An ``ExchangeSink`` that makes and exports one span per exchange. Safe from any thread."""

    def __init__(self, exporter: SpanExporter, *, queue_spans: int = _QUEUE_SPANS) -> None:
        """``queue_spans`` bounds what waits for the collector, the batch being sent included."""
        self._export = _CountedExport(exporter, queue_spans)
        self._provider = TracerProvider(resource=service_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._export, max_queue_size=queue_spans, max_export_batch_size=min(512, queue_spans)
            )
        )
        self._tracer = self._provider.get_tracer("extproc", __version__)

    @property
    def dropped(self) -> int:
        """Sampled spans lost so far: to a full queue, or to a collector that did not take them."""
        return self._export.dropped

    def accept(self, exchange: Exchange) -> None:
        """Make the exchange's span and enqueue it; never waits for the collector."""
        row = row_of(exchange)
        start = round(exchange.started_at * 1e6) * 1000  # a float of seconds holds no nanoseconds
        span = self._tracer.start_span(
            _name(row),
            context=parent_context(exchange.envelope.traceparent if exchange.envelope else ""),
            kind=SpanKind.INTERNAL if row.refused else SpanKind.CLIENT,
            attributes=attributes_of(row),
            start_time=start,
        )
        if row.failed:
            span.set_status(Status(StatusCode.ERROR))
        if span.get_span_context().trace_flags.sampled and self._export.admit():
            span.end(start + round((exchange.duration or 0.0) * 1e9))

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued and stop; after ``timeout_s`` the rest is dropped and counted."""
        # The SDK would wait 30 s for a collector that does not answer. Shutting its exporter
        # down makes the call in flight and all later ones fail at once.
        deadline = threading.Timer(timeout_s, self._export.shutdown)
        deadline.start()
        self._provider.shutdown()
        deadline.cancel()
        deadline.join()


def sink_from_environment() -> SpanSink | None:
    """The sink that the standard ``OTEL_*`` variables ask for; None when they name no collector.

    Raises ``OperatorError`` when they ask for what cannot be done.
    """
    if not _first_set(_ENDPOINT_VARIABLES) or _switched_off():
        return None
    protocol = _first_set(_PROTOCOL_VARIABLES)
    if protocol not in ("", "grpc"):
        raise OperatorError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, but spans are exported by gRPC only: "
            "set it to grpc and the endpoint to the collector's gRPC port (usually 4317)"
        )
    # Here, not above: it costs 60 ms that a sidecar without a collector need not spend to start.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    try:
        return SpanSink(OTLPSpanExporter(), queue_spans=_queue_spans())
    except Exception as error:
        raise OperatorError(f"spans cannot be exported as the OTEL_* variables say: {error}") from error


class _CountedExport(SpanExporter):
    """An exporter that admits no more than it can hold and counts what is lost.

    The SDK's queue drops its oldest span in silence when it is full. Asking here first keeps it
    from ever being full, so every lost span is one that this class has counted.
    """

    def __init__(self, exporter: SpanExporter, limit: int) -> None:
        self._exporter = exporter
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting = 0
        self._lost = 0
        self._is_shut_down = False

    @property
    def dropped(self) -> int:
        with self._lock:
            # After the end nobody will take what still waits.
            return self._lost + (self._waiting if self._is_shut_down else 0)

    def admit(self) -> bool:
        """Take a place for one span, if there is one."""
        with self._lock:
            if self._is_shut_down or self._waiting >= self._limit:
                self._lost += 1
                return False
            self._waiting += 1
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            if not self._is_shut_down:
                result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._waiting -= len(spans)
                self._lost += len(spans) if result is not SpanExportResult.SUCCESS else 0
        return result

    def shutdown(self) -> None:
        with self._lock:
            already, self._is_shut_down = self._is_shut_down, True
        if not already:
            self._exporter.shutdown()


def _name(row: ExchangeRow) -> str:
    if row.refused:
        return names.REFUSE_SPAN
    # What is no LLM call is named as the HTTP conventions name a request without a template.
    operation, _ = names.OPERATIONS.get(row.api, (row.method or "HTTP", ""))
    return f"{operation} {row.upstream_model}".rstrip()


def _first_set(variables: Sequence[str]) -> str:
    return next((value for variable in variables if (value := os.environ.get(variable, "").strip())), "")


def _switched_off() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _queue_spans() -> int:
    return int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SPANS))
