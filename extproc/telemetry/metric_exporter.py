"""The OTLP exporter of metrics, quiet at its end. Loaded only where a collector is named."""

from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData


class MetricExporter(OTLPMetricExporter):
    """Once shut down, it takes no more and does not say so.

    A reader that is shut down while an export hangs shuts its exporter down, and then its thread,
    which was told to end too, comes with a last batch: nothing to warn an operator of.
    """

    _over = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """See ``OTLPMetricExporter``."""
        if self._over:
            return MetricExportResult.FAILURE
        return super().export(metrics_data, timeout_millis, **kwargs)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """See ``OTLPMetricExporter``."""
        self._over = True
        super().shutdown(timeout_millis, **kwargs)
