"""The OTLP exporter of metrics, without warnings at shutdown. Loaded only with a collector configured."""

from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData


class MetricExporter(OTLPMetricExporter):
    """After shutdown it drops batches without a warning.

    A reader that shuts down during a hanging export shuts its exporter down first. Its thread then
    exports one last batch, which always fails and needs no warning.
    """

    _is_shut_down = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """See ``OTLPMetricExporter``."""
        if self._is_shut_down:
            return MetricExportResult.FAILURE
        return super().export(metrics_data, timeout_millis, **kwargs)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """See ``OTLPMetricExporter``."""
        self._is_shut_down = True
        super().shutdown(timeout_millis, **kwargs)
