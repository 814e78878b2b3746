"""Envoy's access log messages -> ``Exchange`` and ``Attempt``. The entries of hops are attempts."""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from msgspec.structs import replace

from extproc._pb.access_log_pb2 import (
    AccessLogCommon,
    AccessLogType,
    HTTPAccessLogEntry,
    HTTPRequestProperties,
    Metadata,
    RequestMethod,
    ResponseFlags,
    StreamAccessLogsMessage,
)
from extproc.exchanges import Attempt, Envelope, Exchange
from extproc.vocabulary import ClusterName, ModelName, UpstreamName, Version
from extproc.wire import envelope, observed_metadata

# How much Envoy may keep for sidecars that are not there, for each of its threads: thousands of exchanges.
BUFFER_BYTES = 4 * 1024 * 1024

# Entries about exchanges that go on, for access logs that ask for them.
_UNFINISHED = frozenset(
    {
        AccessLogType.DownstreamStart,
        AccessLogType.DownstreamPeriodic,
        AccessLogType.DownstreamTunnelSuccessfullyEstablished,
        AccessLogType.UpstreamPoolReady,
        AccessLogType.UpstreamPeriodic,
    }
)

# What %RESPONSE_FLAGS% prints for each.
FLAGS = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}


def finished(data: bytes) -> Iterator[HTTPAccessLogEntry]:
    """The entries of one message of Envoy's access log stream that report a finished exchange or attempt.

    Raises:
        google.protobuf.message.DecodeError: it is not such a message.
    """
    entries = StreamAccessLogsMessage.FromString(data).http_logs.log_entry
    return (each for each in entries if each.common_properties.access_log_type not in _UNFINISHED)


def observed_in(entry: HTTPAccessLogEntry) -> Exchange | Attempt:
    """The exchange or the attempt that one entry reports."""
    return _attempt(entry) or _exchange(entry)


def _attempt(entry: HTTPAccessLogEntry) -> Attempt | None:
    common = entry.common_properties
    hop = observed_metadata.hop(common.metadata.filter_metadata)
    if hop is None:
        return None
    call = _exchange(entry)
    return Attempt(
        # To the outer router an answer that its gate refused is a failure; its provider's it was not.
        call=replace(call, status=hop.status or call.status),
        number=observed_metadata.number_of(_tag(common, observed_metadata.PLACE_TAG)),
        model=ModelName(hop.model),
        upstream_model=UpstreamName(hop.sent),
        provider=hop.provider,
        version=Version(hop.version),
        cascade=hop.cascade,
        tier=hop.tier,
        ruling=observed_metadata.ruling(common.metadata.filter_metadata),
    )


def _exchange(entry: HTTPAccessLogEntry) -> Exchange:
    common, request, response = entry.common_properties, entry.request, entry.response
    api, path = observed_metadata.request(common.metadata.filter_metadata)
    return Exchange(
        request_id=request.request_id or common.stream_id,
        started_at=common.start_time.seconds + common.start_time.nanos / 1e9,
        duration=_duration(common),
        first_byte=_elapsed(common, "time_to_first_upstream_rx_byte"),
        first_body_byte=observed_metadata.seconds(_tag(common, observed_metadata.FIRST_BODY_BYTE_TAG)),
        status=response.response_code.value,
        flags=_flags(common.response_flags),
        method=_method(request),
        path=path or _path(request),
        cluster=ClusterName(without_content(common.upstream_cluster)),
        request_bytes=request.request_body_bytes,
        response_bytes=response.response_body_bytes,
        envelope=_envelope(common.metadata),
        traceparent=_tag(common, observed_metadata.TRACEPARENT_TAG),
        api=api,
        usage=observed_metadata.usage(common.metadata.filter_metadata),
        attempts=common.upstream_request_attempt_count,
        served_by=ModelName(_hop(common)),
    )


def _tag(common: AccessLogCommon, name: str) -> str:
    return common.custom_tags.get(name, b"").decode(errors="replace")


def _hop(common: AccessLogCommon) -> str:
    """The model of the hop that answered; empty when the exchange went to no hop."""
    listener: str = common.upstream_remote_address.envoy_internal_address.server_listener_name
    return hop_model(listener)


def hop_model(listener: str) -> str:
    """The model of the hop that listens under this name."""
    return without_content(listener).removeprefix(observed_metadata.HOP_PREFIX)


def without_content(name: str) -> str:
    """Our name of a cluster or hop: no name in a registry has the mark."""
    return name.partition(observed_metadata.CONTENT_MARK)[0]


def _duration(common: AccessLogCommon) -> float | None:
    """Until the last byte went to the client or, when none did, until Envoy was done with the request."""
    sent = _elapsed(common, "time_to_last_downstream_tx_byte")
    return sent if sent is not None else _elapsed(common, "duration")


def _elapsed(common: AccessLogCommon, field: str) -> float | None:
    if not common.HasField(field):
        return None
    duration: Duration = getattr(common, field)
    return duration.seconds + duration.nanos / 1e9


def _flags(flags: ResponseFlags) -> tuple[str, ...]:
    return tuple(FLAGS[field.name] for field, _ in flags.ListFields())


def _method(request: HTTPRequestProperties) -> str:
    # Envoy has a name for the common methods only; the rest are unspecified.
    number = request.request_method
    return RequestMethod.Name(number) if number in RequestMethod.values() and number else ""


def _path(request: HTTPRequestProperties) -> str:
    """What the client asked for: a route may have rewritten it for the provider."""
    return (request.original_path or request.path).partition(b"?")[0].decode(errors="replace")


def _envelope(metadata: Metadata) -> Envelope | None:
    if envelope.NAMESPACE not in metadata.filter_metadata:
        return None
    return envelope.read(metadata.filter_metadata[envelope.NAMESPACE])
