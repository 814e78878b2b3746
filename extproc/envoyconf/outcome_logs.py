"""The access logs that tell what became of each LLM exchange: to the sidecar and, if wanted, to a file.

The sidecar is told of each hop that an exchange met as well, by the very same configuration, since Envoy
then sends both on one stream: whoever hears of an exchange has heard of its attempts. What tells
them apart is in their dynamic metadata.
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
from extproc.envoyconf.site import Site
from extproc.registry.schema import Registry
from extproc.wire import access_log, access_log_file, observed_metadata

# Records are wanted soon, but in batches.
_FLUSH = timedelta(milliseconds=200)

# What the script notes: which API was asked, in the outer listener; which model is asked, in a hop.
_CALL = (observed_metadata.REQUEST_NAMESPACE, "api")
_ATTEMPT = (observed_metadata.HOP_NAMESPACE, "model")


def outcome_logs(registry: Registry, site: Site) -> list[AccessLog]:
    """One entry per LLM exchange, after the answer, in each of them."""
    logs = [_log("envoy.access_loggers.http_grpc", _to_the_sidecar(), _CALL)]
    if registry.envoy.access_log:
        path = site.registry / registry.envoy.access_log
        logs.append(_log("envoy.access_loggers.file", _to_a_file(str(path)), _CALL))
    return logs


def attempt_log() -> AccessLog:
    """One entry per request that a hop was sent, to the sidecar alone."""
    return _log("envoy.access_loggers.http_grpc", _to_the_sidecar(), _ATTEMPT)


def _to_the_sidecar() -> HttpGrpcAccessLogConfig:
    """Soon, and not acknowledged."""
    return HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name="outcome",
            grpc_service=sidecar_service(),
            transport_api_version=ApiVersion.V3,
            buffer_flush_interval=_FLUSH,
            # Kept while no sidecar is there; Envoy's default of 16 KiB is some thirty exchanges.
            buffer_size_bytes=access_log.BUFFER_BYTES,
            custom_tags=[
                CustomTag(tag=observed_metadata.FIRST_BODY_BYTE_TAG, value=observed_metadata.FIRST_BODY_BYTE),
                # For exchanges that the sidecar took no part in: it would have known of their trace.
                CustomTag(tag=observed_metadata.TRACEPARENT_TAG, value=observed_metadata.TRACEPARENT),
                CustomTag(tag=observed_metadata.PLACE_TAG, value=observed_metadata.PLACE),
            ],
        )
    )


def _to_a_file(path: str) -> FileAccessLog:
    """The same, kept by Envoy itself."""
    fields = Struct.from_dict(dict(access_log_file.FORMAT))
    return FileAccessLog(path=path, log_format=SubstitutionFormatString(json_format=fields))


def _log(name: str, config: betterproto2.Message, noted: tuple[str, str]) -> AccessLog:
    """Of exchanges whose observing script has noted this, namespace and key."""
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
