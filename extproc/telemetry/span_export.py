"""Spans: the trace of each exchange, made when it is over (see ``span_trees``), sent to an OTLP collector.

The exchange's own span is sent always, so that spans and records hold the same rows; which of
them have the spans below it, the registry's ``telemetry`` decides. Nothing is left to a sampler of
the SDK, which would have to choose before the outcome is known.

Export is the SDK's: a bounded queue and a thread. A collector that is slow or gone costs spans,
which are counted, and never a request.
"""

import os
import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from extproc import __version__
from extproc.errors import OperatorError
from extproc.telemetry import otlp
from extproc.telemetry.rows import AttemptRow, EvaluationRow
from extproc.telemetry.sinks import Outcome
from extproc.telemetry.span_trees import Origin, span_of_attempt, span_of_evaluation, spans_of

_QUEUE_SPANS = 2048  # the default that the OpenTelemetry specification gives


class SpanSink:
    """An ``OutcomeSink`` that makes and exports the spans of each exchange. Safe from any thread."""

    def __init__(self, exporter: SpanExporter, encoder: str, *, queue_spans: int = _QUEUE_SPANS) -> None:
        """``encoder`` names the model that embeds.

        ``queue_spans`` bounds what waits for the collector, the batch being sent included.
        """
        self._origin = Origin(otlp.service_resource(), InstrumentationScope("extproc", __version__), encoder)
        self._export = _CountedExport(exporter, queue_spans)
        self._processor = BatchSpanProcessor(
            self._export, max_queue_size=queue_spans, max_export_batch_size=min(512, queue_spans)
        )

    @property
    def dropped(self) -> int:
        """Spans lost so far: to a full queue, or to a collector that did not take them."""
        return self._export.dropped

    def accept(self, outcome: Outcome) -> None:
        """Make the exchange's spans and enqueue them; never waits for the collector."""
        self._send(spans_of(outcome, self._origin))

    def attempted(self, row: AttemptRow, verdict: EvaluationRow | None) -> None:
        """Make the span of one attempt and enqueue it; never waits for the collector."""
        self._send([span_of_attempt(row, verdict, self._origin)])

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if self._export.admit(len(spans)):
            for span in spans:
                self._processor.on_end(span)

    def evaluated(self, row: EvaluationRow) -> bool:
        """Enqueue the span of one evaluation without waiting. Returns whether there was room."""
        admitted = self._export.admit(1)
        if admitted:
            self._processor.on_end(span_of_evaluation(row, self._origin))
        return admitted

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued and stop; after ``timeout_s`` the rest is dropped and counted."""
        # The SDK would wait 30 s for a collector that does not answer. Shutting its exporter
        # down makes the call in flight and all later ones fail at once.
        deadline = threading.Timer(timeout_s, self._export.shutdown)
        deadline.start()
        self._processor.shutdown()  # type: ignore[no-untyped-call]
        deadline.cancel()
        deadline.join()


def sink_from_environment(encoder: str) -> SpanSink | None:
    """The sink that the standard ``OTEL_*`` variables ask for; None when they name no collector.

    Raises ``OperatorError`` when they ask for what cannot be done.
    """
    if not otlp.exports("TRACES"):
        return None
    # Here, not above: it costs 60 ms that a sidecar without a collector need not spend to start.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    try:
        return SpanSink(OTLPSpanExporter(), encoder, queue_spans=_queue_spans())
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
            # After the end nothing takes what still waits.
            return self._lost + (self._waiting if self._is_shut_down else 0)

    def admit(self, spans: int) -> bool:
        """Take places for the spans of one trace, if there are as many: half a trace misleads."""
        with self._lock:
            if self._is_shut_down or self._waiting + spans > self._limit:
                self._lost += spans
                return False
            self._waiting += spans
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


def _queue_spans() -> int:
    return int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SPANS))
