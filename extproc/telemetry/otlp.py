"""OpenTelemetry as the standard ``OTEL_*`` variables configure it: the resource and the exports."""

import os
from collections.abc import Sequence
from typing import Literal

from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from extproc import __version__
from extproc.errors import OperatorError
from extproc.telemetry import otel_names

Signal = Literal["TRACES", "METRICS"]

_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
# `true` is what instrumentations took before the convention named where the text goes.
_CAPTURING = frozenset({"true", "span_only", "span_and_event"})


def service_resource() -> Resource:
    """Our name and version, under what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say."""
    ours = {otel_names.SERVICE_NAME: otel_names.DEFAULT_SERVICE_NAME, otel_names.SERVICE_VERSION: __version__}
    # Resource.create prefers its argument to the environment; the operator's setting must win.
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def exports(signal: Signal) -> bool:
    """Whether the environment names a collector for ``signal``.

    Raises ``OperatorError`` when it asks for an unsupported protocol.
    """
    if not _variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return False
    if _variable(f"OTEL_{signal}_EXPORTER").lower() == "none":
        return False
    protocol = _variable(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in ("", "grpc"):
        raise OperatorError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, but {signal.lower()} are exported by gRPC only: "
            "set it to grpc and the endpoint to the collector's gRPC port (usually 4317)"
        )
    return True


def metric_reader() -> MetricReader | None:
    """A reader that sends metrics every ``OTEL_METRIC_EXPORT_INTERVAL`` ms; None without a collector.

    Raises ``OperatorError`` when the exporter cannot be built from the environment.
    """
    if not exports("METRICS"):
        return None
    # Here, not above: a sidecar without a collector need not spend the time to load it.
    from extproc.telemetry.metric_exporter import MetricExporter

    try:
        return PeriodicExportingMetricReader(MetricExporter())
    except Exception as error:
        raise OperatorError(f"metrics cannot be exported as the OTEL_* variables say: {error}") from error


def captures_text() -> bool:
    """Whether the operator opted in to the text of prompts on records and spans."""
    return _variable(_CAPTURE).lower() in _CAPTURING


def _variable(*names: str) -> str:
    values: Sequence[str] = [os.environ.get(name, "").strip() for name in names]
    return next((value for value in values if value), "")
