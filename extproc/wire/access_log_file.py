"""Lines of Envoy's JSON access log -> ``Exchange``: equal to that of its gRPC stream, but from a file.

The stream is not acknowledged: entries that Envoy sends while no sidecar reads are lost. A file keeps
them, so they can be imported later, and must then be equal in every field. ``FORMAT`` is what
Envoy writes; both sides of it are here.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.struct_pb2 import Struct

from extproc._pb.access_log_pb2 import RequestMethod
from extproc.exchanges import Envelope, Exchange
from extproc.vocabulary import ClusterName, ModelName
from extproc.wire import access_log, envelope, observed_metadata

KIND = "envoy"  # distinguishes these lines from records

# Of each member of a line, Envoy's command. Times are as exact as those of the stream.
FORMAT: Mapping[str, str] = {
    "kind": KIND,
    "request_id": "%REQ(X-REQUEST-ID)%",
    "start_time": "%START_TIME(%s.%9f)%",  # seconds since the epoch, nine digits behind the point
    "duration": "%TYPED_CEL(request.duration)%",  # until Envoy was done with it, as 0.123456789s
    "last_byte_ns": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)%",
    "first_byte_ns": "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:ns)%",
    "first_body_byte_us": observed_metadata.FIRST_BODY_BYTE,
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "method": "%REQ(:METHOD)%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_address": "%UPSTREAM_REMOTE_ADDRESS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "traceparent": observed_metadata.TRACEPARENT,
    "request": f"%DYNAMIC_METADATA({observed_metadata.REQUEST_NAMESPACE})%",
    "usage": f"%DYNAMIC_METADATA({observed_metadata.USAGE_NAMESPACE})%",
    "decision": f"%DYNAMIC_METADATA({envelope.NAMESPACE})%",
}

_Fields = dict[str, Any]

_INTERNAL = "envoy://"  # before the name of an internal listener
_NO_FLAGS = "-"


class BadLine(ValueError):
    """Not a line of this log; the message says why."""


class _Line(msgspec.Struct, frozen=True, tag_field="kind", tag=KIND):
    """One line. What Envoy has no value for is null."""

    request_id: str
    start_time: str
    status: int
    request_bytes: int
    response_bytes: int
    duration: str | None = None
    last_byte_ns: int | None = None
    first_byte_ns: int | None = None
    first_body_byte_us: int | None = None
    flags: str | None = None
    method: str | None = None
    cluster: str | None = None
    upstream_host: str | None = None
    upstream_address: str | None = None
    attempts: int | None = None
    traceparent: str | None = None
    request: _Fields | None = None
    usage: _Fields | None = None
    decision: _Fields | None = None


_decode = msgspec.json.Decoder(_Line).decode


def exchange(line: bytes) -> Exchange:
    """The finished exchange that one line reports. Raises ``BadLine``."""
    try:
        read = _decode(line)
        metadata = _metadata(read)
        api, path = observed_metadata.request(metadata)
        return Exchange(
            request_id=read.request_id,
            started_at=_decimal(read.start_time),
            duration=_duration(read),
            first_byte=_nanoseconds(read.first_byte_ns),
            first_body_byte=None if read.first_body_byte_us is None else read.first_body_byte_us / 1e6,
            status=read.status,
            flags=_flags(read.flags or _NO_FLAGS),
            method=read.method if read.method in RequestMethod.keys() else "",  # noqa: SIM118 - no mapping
            path=path,
            # Envoy names the cluster that a refused request would have gone to as well.
            cluster=ClusterName(access_log.without_content(read.cluster or "") if read.upstream_host else ""),
            request_bytes=read.request_bytes,
            response_bytes=read.response_bytes,
            envelope=_envelope(metadata),
            traceparent=read.traceparent or "",
            api=api,
            usage=observed_metadata.usage(metadata),
            attempts=read.attempts or 0,
            served_by=ModelName(_hop(read.upstream_address or "")),
        )
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise BadLine(str(error)) from error


def _metadata(line: _Line) -> dict[str, Struct]:
    """The dynamic metadata, by namespace, as the stream has it."""
    namespaces = {
        observed_metadata.REQUEST_NAMESPACE: line.request,
        observed_metadata.USAGE_NAMESPACE: line.usage,
        envelope.NAMESPACE: line.decision,
    }
    return {name: _struct(fields) for name, fields in namespaces.items() if fields is not None}


def _struct(members: _Fields) -> Struct:
    """Flat, as we write it: what is deeper is not read from the stream either."""
    struct = Struct()
    fields = struct.fields
    for name, value in members.items():
        if isinstance(value, str):
            fields[name].string_value = value
        elif isinstance(value, bool):
            fields[name].bool_value = value
        elif isinstance(value, int | float):
            fields[name].number_value = value
        elif isinstance(value, list):
            fields[name].list_value.extend(item for item in value if isinstance(item, str))
    return struct


def _envelope(metadata: Mapping[str, Struct]) -> Envelope | None:
    return envelope.read(metadata[envelope.NAMESPACE]) if envelope.NAMESPACE in metadata else None


def _duration(line: _Line) -> float | None:
    """See ``access_log``: to the last byte or, when none was sent, to the end."""
    if line.last_byte_ns is not None:
        return _nanoseconds(line.last_byte_ns)
    return None if line.duration is None else _decimal(line.duration.removesuffix("s"))


def _decimal(text: str) -> float:
    """Seconds with a decimal point, by the arithmetic that protobuf's own parts would have."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) + int(fraction.ljust(9, "0")[:9]) / 1e9


def _nanoseconds(count: int | None) -> float | None:
    return None if count is None else count // 1_000_000_000 + count % 1_000_000_000 / 1e9


def _flags(text: str) -> tuple[str, ...]:
    """In the order of the stream; flags that it has no field for come last."""
    flags = () if text == _NO_FLAGS else text.split(",")
    return tuple(sorted(flags, key=lambda flag: _ORDER.get(flag, len(_ORDER))))


_ORDER = {flag: number for number, flag in enumerate(access_log.FLAGS.values())}


def _hop(address: str) -> str:
    """The model of the hop that answered; see ``access_log``."""
    if not address.startswith(_INTERNAL):
        return ""
    return access_log.hop_model(address.removeprefix(_INTERNAL).partition("/")[0])
