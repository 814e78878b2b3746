"""The access logs that report the outcome of each LLM exchange: to the sidecar and, if configured, to a file.

Hops report their attempts to the sidecar with an identical configuration. Envoy then sends both on one
stream, and the sidecar gets all attempts of an exchange before the exchange itself. Dynamic metadata
distinguishes attempts from exchanges.
"""

from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, MetadataFilter
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import MetadataMatcher, MetadataMatcherPathSegment, ValueMatcher
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag
from envoy_data_plane.google.protobuf import Any, Struct

from extproc.envoyconf.http_filters import sidecar_service
from extproc.envoyconf.typed_config import Site
from extproc.registry.schema import Registry
from extproc.wire import access_log, access_log_file, observed_metadata

# Short enough for prompt records, long enough for batches.
_FLUSH = timedelta(milliseconds=200)

# What the observing filter writes: in the outer listener the requested API, in a hop the model.
_CALL = (observed_metadata.REQUEST_NAMESPACE, "api")
_ATTEMPT = (observed_metadata.HOP_NAMESPACE, "model")


def outcome_logs(registry: Registry, site: Site) -> list[AccessLog]:
    """The logs of the client listener. Each gets one entry per LLM exchange, after the answer."""
    logs = [_log("envoy.access_loggers.http_grpc", _to_the_sidecar(), _CALL)]
    if registry.envoy.access_log:
        path = site.registry / registry.envoy.access_log
        logs.append(_log("envoy.access_loggers.file", _to_a_file(str(path)), _CALL))
    return logs


def attempt_log() -> AccessLog:
    """The log of a hop: one entry per request, only to the sidecar."""
    return _log("envoy.access_loggers.http_grpc", _to_the_sidecar(), _ATTEMPT)


def _to_the_sidecar() -> HttpGrpcAccessLogConfig:
    """Sends entries in batches. The sidecar does not acknowledge them."""
    return HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name="outcome",
            grpc_service=sidecar_service(),
            transport_api_version=ApiVersion.V3,
            buffer_flush_interval=_FLUSH,
            # Entries wait here while no sidecar answers. Envoy's default of 16 KiB holds about 30 exchanges.
            buffer_size_bytes=access_log.BUFFER_BYTES,
            custom_tags=[
                CustomTag(tag=observed_metadata.FIRST_BODY_BYTE_TAG, value=observed_metadata.FIRST_BODY_BYTE),
                # For exchanges that no sidecar saw. Of the others, the sidecar knows the trace.
                CustomTag(tag=observed_metadata.TRACEPARENT_TAG, value=observed_metadata.TRACEPARENT),
                CustomTag(tag=observed_metadata.PLACE_TAG, value=observed_metadata.PLACE),
            ],
        )
    )


def _to_a_file(path: str) -> FileAccessLog:
    """Writes the same entries to a file."""
    fields = Struct.from_dict(dict(access_log_file.FORMAT))
    return FileAccessLog(path=path, log_format=SubstitutionFormatString(json_format=fields))


def _log(name: str, config: betterproto2.Message, noted: tuple[str, str]) -> AccessLog:
    """A log of the exchanges that have ``noted`` (namespace and key) in their dynamic metadata."""
    namespace, key = noted
    only = MetadataFilter(
        matcher=MetadataMatcher(
            filter=namespace,
            path=[MetadataMatcherPathSegment(key=key)],
            value=ValueMatcher(present_match=True),
        ),
        match_if_key_not_found=False,
    )
    return AccessLog(name=name, filter=AccessLogFilter(metadata_filter=only), typed_config=Any.pack(config))
