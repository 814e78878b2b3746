"""Envoy's ext_proc messages <-> the events and replies of the exchange."""

from collections.abc import Iterable

import msgspec
from google.protobuf.message import DecodeError

from extproc._pb.ext_proc_pb2 import (
    BUFFERED,
    OVERWRITE_IF_EXISTS_OR_ADD,
    CommonResponse,
    HeaderMutation,
    HttpHeaders,
    ImmediateResponse,
    MessageResponse,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.errors import ProtocolError
from extproc.exchanges import Envelope
from extproc.vocabulary import RequestHead, Version
from extproc.wire import envelope as metadata
from extproc.wire.decide_exchange import (
    JSON,
    BodyReceived,
    HeadReceived,
    Proceed,
    Refuse,
    Reply,
    RouteRequest,
)
from extproc.wire.feedback_exchange import FeedbackResponse

CLUSTER_HEADER = "x-router-cluster"  # Envoy's route sends a request to the cluster that it names
ROUTE_HEADER = "x-router-route"  # and by the policies of the route that it names
CLEARANCE_HEADER = "x-router-clearance"  # only models of this clearance may be asked
SPAN_HEADER = "x-router-span"  # where the body names the model: FROM-TO, in bytes
CHECKED_HEADER = "x-router-checked"  # 1: the API's default may answer, even with `without_sidecar: refuse`

# In the stream's gRPC metadata:
VERSION_KEY = "x-router-config"  # the registry that this Envoy holds
ROLE_KEY = "x-router-role"  # what the filter is for that opened it; absent: decisions
GATE_KEY = "x-router-gate"  # of a gate: CASCADE/TIER
PATIENCE_KEY = "x-router-patience"  # of a gate: seconds for which it may ask Envoy to wait

_HEAD_PROCEEDS = ProcessingResponse(request_headers=MessageResponse()).SerializeToString()


class StreamMetadata(msgspec.Struct, frozen=True):
    """Facts from a stream's gRPC metadata, which hold for every message on it."""

    traceparent: str = ""  # of Envoy's own span: it goes before the one among the request's headers
    config_version: Version = Version("")
    role: str = ""  # empty: to decide, or to judge
    tier: str = ""  # of a gate, CASCADE/TIER; empty: it judges nothing
    patience_s: float = 0.0  # of a gate: for how long it may ask Envoy to wait; 0: it may not ask


def stream_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> StreamMetadata:
    """The metadata that counts; of a key that comes twice, the last."""
    found = {
        name: value if isinstance(value, str) else value.decode(errors="replace") for name, value in pairs
    }
    return StreamMetadata(
        traceparent=found.get("traceparent", ""),
        config_version=Version(found.get(VERSION_KEY, "")),
        role=found.get(ROLE_KEY, ""),
        tier=found.get(GATE_KEY, ""),
        patience_s=_seconds(found.get(PATIENCE_KEY, "")),
    )


def _seconds(text: str) -> float:
    return int(text) if text.isdecimal() else 0.0


def request_of(data: bytes) -> ProcessingRequest:
    """One message of Envoy's. Raises ``ProtocolError`` when it is none."""
    try:
        return ProcessingRequest.FromString(data)
    except DecodeError as error:
        raise ProtocolError("a message cannot be decoded") from error


def decode(data: bytes, stream: StreamMetadata) -> HeadReceived | BodyReceived:
    """The event of one message from Envoy, on a stream with the metadata ``stream``.

    Raises:
        ProtocolError: it is not a message, or not one that the exchange expects.
    """
    request = request_of(data)
    match request.WhichOneof("request"):
        case "request_headers":
            return HeadReceived(request_head(request.request_headers, stream), buffered=_buffered(request))
        case "request_body":
            return BodyReceived(request.request_body.body)
        case other:
            raise ProtocolError(
                f"{other or 'an unknown message'} came; ext_proc's processing_mode must skip it"
            )


def encode(event: HeadReceived | BodyReceived, reply: Reply | FeedbackResponse) -> bytes:
    """Envoy's message for ``reply``, which answers ``event``."""
    match reply:
        case Proceed(envelope=None) if isinstance(event, HeadReceived):
            return _HEAD_PROCEEDS
        case Proceed():
            response = _proceed(event, reply)
        case RouteRequest():
            response = ProcessingResponse(request_body=MessageResponse(response=_common(reply)))
        case Refuse():
            details = f"router_{reply.envelope.error}"
            # The x-router-* headers of this answer too are made by Envoy, of the metadata.
            response = ProcessingResponse(
                immediate_response=_immediate(reply.status, reply.body, details, reply.content_type)
            )
        case FeedbackResponse():
            answer = _immediate(reply.status, reply.body, reply.details)
            for name, value in reply.headers:
                set_header(answer.headers, name, value)
            return ProcessingResponse(immediate_response=answer).SerializeToString()
    if reply.envelope is not None:
        _attach(response, reply.envelope)
    return response.SerializeToString()


def more_time(seconds: float) -> bytes:
    """Asks Envoy to wait so long for the reply to its last message, instead of its ``message_timeout``.

    Envoy accepts one such request per message, up to its ``max_message_timeout``.
    """
    response = ProcessingResponse()
    response.override_message_timeout.FromMilliseconds(round(seconds * 1000))
    return response.SerializeToString()


def headers_of(message: HttpHeaders) -> tuple[dict[str, str], dict[str, str]]:
    """The pseudo headers and the others, by names in lower case."""
    pseudo: dict[str, str] = {}
    headers: dict[str, str] = {}
    for header in message.headers.headers:
        name = header.key
        # Envoy sends raw_value, or `value` if a runtime flag says so.
        value = header.raw_value.decode(errors="replace") or header.value
        found = pseudo if name.startswith(":") else headers
        # A name that comes twice is one list: RFC 9110, section 5.3.
        found[name] = f"{found[name]}, {value}" if name in found else value
    return pseudo, headers


def request_head(message: HttpHeaders, stream: StreamMetadata) -> RequestHead:
    """The head of a request."""
    pseudo, headers = headers_of(message)
    return RequestHead(
        method=pseudo.get(":method", ""),
        path=pseudo.get(":path", ""),
        headers=headers,
        has_body=not message.end_of_stream,
        traceparent=stream.traceparent or headers.get("traceparent", ""),
        config_version=stream.config_version,
    )


def _buffered(request: ProcessingRequest) -> bool:
    # An Envoy that does not send its configuration is trusted to buffer.
    return not request.HasField("protocol_config") or request.protocol_config.request_body_mode == BUFFERED


def _proceed(event: HeadReceived | BodyReceived, reply: Proceed) -> ProcessingResponse:
    message = MessageResponse()
    if reply.checked:
        message.response.clear_route_cache = True
        set_header(message.response.header_mutation, CHECKED_HEADER, "1")
    if isinstance(event, HeadReceived):
        return ProcessingResponse(request_headers=message)
    return ProcessingResponse(request_body=message)


def _common(route: RouteRequest) -> CommonResponse:
    common = CommonResponse(clear_route_cache=True)
    set_header(common.header_mutation, CLUSTER_HEADER, route.cluster)
    if route.envelope.route:
        set_header(common.header_mutation, ROUTE_HEADER, route.envelope.route)
    if route.model_span is not None:
        set_header(common.header_mutation, SPAN_HEADER, "{}-{}".format(*route.model_span))
    if route.clearance:
        set_header(common.header_mutation, CLEARANCE_HEADER, route.clearance)
    if route.body is not None:
        common.body_mutation.body = route.body
        # Without it Envoy answers 500, whatever failure_mode_allow says.
        set_header(common.header_mutation, "content-length", str(len(route.body)))
    return common


def _immediate(status: int, body: bytes, details: str, content_type: str = JSON) -> ImmediateResponse:
    response = ImmediateResponse(body=body, details=details)
    response.status.code = status
    set_header(response.headers, "content-type", content_type)
    return response


def set_header(mutation: HeaderMutation, name: str, value: str) -> None:
    """Have ``mutation`` set a header, in place of one that is there."""
    option = mutation.set_headers.add(append_action=OVERWRITE_IF_EXISTS_OR_ADD)
    option.header.key = name
    option.header.raw_value = value.encode()


def _attach(response: ProcessingResponse, envelope: Envelope) -> None:
    metadata.write(envelope, response.dynamic_metadata.fields[metadata.NAMESPACE].struct_value)
