"""Who we are, to OpenTelemetry: the resource that spans and metrics share."""

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from extproc import __version__
from extproc.telemetry import otel_names


def service_resource() -> Resource:
    """Our name and version, under what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say."""
    ours = {otel_names.SERVICE_NAME: otel_names.DEFAULT_SERVICE_NAME, otel_names.SERVICE_VERSION: __version__}
    # Resource.create lets its argument win over the environment; an operator's word must win.
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})
