"""A real OTLP receiver in the test's process."""

from collections.abc import Iterable
from concurrent import futures
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span


class _MetricsService(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps the latest of each metric: they are cumulative."""

    def __init__(self) -> None:
        self.latest: dict[str, Metric] = {}

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        scopes = [scope for by in request.resource_metrics for scope in by.scope_metrics]
        self.latest |= {metric.name: metric for scope in scopes for metric in scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps what it is sent, or refuses spans."""

    def __init__(self) -> None:
        self.received: list[ResourceSpans] = []
        self.refusal: grpc.StatusCode | None = None
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self._metrics = _MetricsService()
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self._metrics, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if self.refusal is not None:
            context.abort(self.refusal, "refused")
        self.received.extend(request.resource_spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        return [span for by in self.received for scope in by.scope_spans for span in scope.spans]

    @property
    def metrics(self) -> dict[str, Metric]:
        return dict(self._metrics.latest)

    def stop(self) -> None:
        self._server.stop(grace=None).wait()


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """A span's or a resource's attributes as plain values."""
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    return getattr(value, str(kind))
