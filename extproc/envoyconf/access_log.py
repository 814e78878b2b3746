"""What the sidecar is told when an exchange is over: one entry of it, and one of each hop that it met.

All by one configuration, since Envoy then sends them on one stream: whoever hears of an exchange has
heard of its attempts. What tells them apart is in their dynamic metadata.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, MetadataFilter
from envoy_data_plane.envoy.config.core.v3 import ApiVersion
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    ValueMatcher,
)
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.filters import sidecar_service
from extproc.wire.observed import (
    FIRST_BODY_BYTE_TAG,
    HOP_NAMESPACE,
    PLACE_TAG,
    REQUEST_NAMESPACE,
    TRACEPARENT_TAG,
)

# Records are wanted soon, but in batches.
_FLUSH = timedelta(milliseconds=200)
_FIRST_BODY_BYTE = "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%"
_TRACEPARENT = "%REQ(TRACEPARENT):128%"
_PLACE = "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%"


def outcomes() -> AccessLog:
    """One entry per LLM exchange, after the answer; lost while the sidecar is down."""
    return _to_the_sidecar(REQUEST_NAMESPACE, "api")


def attempts() -> AccessLog:
    """One entry per request that a hop was sent."""
    return _to_the_sidecar(HOP_NAMESPACE, "model")


def _to_the_sidecar(namespace: str, key: str) -> AccessLog:
    """Of exchanges whose observing script has noted ``key``."""
    config = HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name="outcome",
            grpc_service=sidecar_service(),
            transport_api_version=ApiVersion.V3,
            buffer_flush_interval=_FLUSH,
            custom_tags=[
                # Envoy's own time to the first upstream byte is that of the head, which may come early.
                CustomTag(tag=FIRST_BODY_BYTE_TAG, value=_FIRST_BODY_BYTE),
                # For exchanges that the sidecar took no part in: it would have known of their trace.
                CustomTag(tag=TRACEPARENT_TAG, value=_TRACEPARENT),
                CustomTag(tag=PLACE_TAG, value=_PLACE),
            ],
        )
    )
    noted = MetadataFilter(
        matcher=MetadataMatcher(
            filter=namespace,
            path=[MetadataMatcherPathSegment(key=key)],
            value=ValueMatcher(present_match=True),
        ),
        match_if_key_not_found=False,
    )
    return AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=AccessLogFilter(metadata_filter=noted),
        typed_config=Any.pack(config),
    )
