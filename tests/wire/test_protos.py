"""Our definitions against Envoy's own, as envoy-data-plane has them: same numbers, same bytes."""

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.data.accesslog import v3 as data
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc_filter
from envoy_data_plane.envoy.service.accesslog import v3 as accesslog_service
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc_service
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google.protobuf import Struct
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from extproc._pb import access_log_pb2, ext_proc_pb2

FILES = (ext_proc_pb2.DESCRIPTOR, access_log_pb2.DESCRIPTOR)

# Envoy's message or messages (where one of ours stands for several) by the name of ours.
MESSAGES: dict[str, tuple[Any, ...]] = {
    "ProcessingRequest": (ext_proc_service.ProcessingRequest,),
    "HttpHeaders": (ext_proc_service.HttpHeaders,),
    "HeaderMap": (core.HeaderMap,),
    "HeaderValue": (core.HeaderValue,),
    "HttpBody": (ext_proc_service.HttpBody,),
    "ProtocolConfiguration": (ext_proc_service.ProtocolConfiguration,),
    "ProcessingResponse": (ext_proc_service.ProcessingResponse,),
    "MessageResponse": (ext_proc_service.HeadersResponse, ext_proc_service.BodyResponse),
    "CommonResponse": (ext_proc_service.CommonResponse,),
    "HeaderMutation": (ext_proc_service.HeaderMutation,),
    "HeaderValueOption": (core.HeaderValueOption,),
    "BodyMutation": (ext_proc_service.BodyMutation,),
    "ImmediateResponse": (ext_proc_service.ImmediateResponse,),
    "HttpStatus": (envoy_type.HttpStatus,),
    "StreamAccessLogsMessage": (accesslog_service.StreamAccessLogsMessage,),
    "StreamAccessLogsMessage.HTTPAccessLogEntries": (
        accesslog_service.StreamAccessLogsMessageHttpAccessLogEntries,
    ),
    "HTTPAccessLogEntry": (data.HttpAccessLogEntry,),
    "AccessLogCommon": (data.AccessLogCommon,),
    "Metadata": (core.Metadata,),
    "Address": (core.Address,),
    "Address.EnvoyInternalAddress": (core.EnvoyInternalAddress,),
    "HTTPRequestProperties": (data.HttpRequestProperties,),
    "HTTPResponseProperties": (data.HttpResponseProperties,),
    "ResponseFlags": (data.ResponseFlags,),
    "ResponseFlags.Unauthorized": (data.ResponseFlagsUnauthorized,),
}
# These have no fields, so there is nothing to compare.
EMPTY = {"Unread", "StreamAccessLogsResponse"}

ENUMS: dict[str, Any] = {
    "BodySendMode": ext_proc_filter.ProcessingModeBodySendMode,
    "HeaderAppendAction": core.HeaderValueOptionHeaderAppendAction,
    "AccessLogType": data.AccessLogType,
    "RequestMethod": core.RequestMethod,
    "ResponseFlags.Unauthorized.Reason": data.ResponseFlagsUnauthorizedReason,
}

WIRE_NAMES = {
    FieldDescriptor.TYPE_MESSAGE: "message",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_INT32: "enum",  # an open set of values, the same on the wire
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def our_messages() -> Iterator[Descriptor]:
    waiting = [message for file in FILES for message in file.message_types_by_name.values()]
    while waiting:
        message = waiting.pop()
        if not message.GetOptions().map_entry:
            yield message
        waiting += message.nested_types


def our_enums() -> Iterator[EnumDescriptor]:
    for file in FILES:
        yield from file.enum_types_by_name.values()
    for message in our_messages():
        yield from message.enum_types


def short(name: str) -> str:
    return name.removeprefix("extproc.pb.")


def ours_and_theirs() -> list[Any]:
    return [
        pytest.param(message, theirs, id=f"{short(message.full_name)}={theirs.__name__}")
        for message in our_messages()
        for theirs in MESSAGES.get(short(message.full_name), ())
    ]


def test_every_message_and_enum_is_compared() -> None:
    assert {short(message.full_name) for message in our_messages()} == MESSAGES.keys() | EMPTY
    assert {short(enum.full_name) for enum in our_enums()} == ENUMS.keys()
    assert all(not message.fields for message in our_messages() if short(message.full_name) in EMPTY)


def test_nothing_is_registered_under_a_name_of_envoy() -> None:
    assert {file.package for file in FILES} == {"extproc.pb"}
    assert {file.name for file in FILES} == {"extproc/_pb/ext_proc.proto", "extproc/_pb/access_log.proto"}


@pytest.mark.parametrize(("ours", "theirs"), ours_and_theirs())
def test_fields_have_the_numbers_and_types_of_envoy(ours: Descriptor, theirs: Any) -> None:
    known = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(theirs)}
    for field in ours.fields:
        expected = known[field.name]
        assert field.number == expected.number, field.full_name
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        kind = "map" if is_map else WIRE_NAMES[field.type]
        # Bytes are read where a text is not to be believed: the same on the wire.
        assert (kind == expected.proto_type) or (kind, expected.proto_type) == ("bytes", "string"), (
            field.full_name
        )
        assert field.is_repeated == (expected.repeated or is_map), field.full_name


@pytest.mark.parametrize("ours", list(our_enums()), ids=lambda enum: short(enum.full_name))
def test_enums_have_the_numbers_of_envoy(ours: EnumDescriptor) -> None:
    theirs = ENUMS[short(ours.full_name)]
    assert {value.name: value.number for value in ours.values} == {
        value.name: value.value for value in theirs
    }


# --- The same bytes -----------------------------------------------------------------------------

HEADER = core.HeaderValue(key="x-a", value="b", raw_value=b"\xff")
MUTATION = ext_proc_service.HeaderMutation(
    set_headers=[
        core.HeaderValueOption(
            header=HEADER, append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
        )
    ]
)
COMMON = ext_proc_service.CommonResponse(
    header_mutation=MUTATION, body_mutation=ext_proc_service.BodyMutation(body=b"{}"), clear_route_cache=True
)
METADATA = Struct.from_dict({"router": {"route": "code", "margin": 0.5, "stream": True}})
PROTOCOL = ext_proc_service.ProtocolConfiguration(
    request_body_mode=ext_proc_filter.ProcessingModeBodySendMode.BUFFERED
)
HEADERS = ext_proc_service.HttpHeaders(headers=core.HeaderMap(headers=[HEADER, HEADER]), end_of_stream=True)
ENTRY = data.HttpAccessLogEntry(
    common_properties=data.AccessLogCommon(
        start_time=datetime.datetime(2026, 11, 23, 12, 0, 0, 250_000, datetime.UTC),
        time_to_last_rx_byte=datetime.timedelta(milliseconds=1),
        time_to_first_upstream_tx_byte=datetime.timedelta(milliseconds=2),
        time_to_last_upstream_tx_byte=datetime.timedelta(milliseconds=3),
        time_to_first_upstream_rx_byte=datetime.timedelta(milliseconds=4),
        time_to_last_upstream_rx_byte=datetime.timedelta(milliseconds=5),
        time_to_first_downstream_tx_byte=datetime.timedelta(milliseconds=6),
        time_to_last_downstream_tx_byte=datetime.timedelta(seconds=7, milliseconds=8),
        upstream_remote_address=core.Address(
            envoy_internal_address=core.EnvoyInternalAddress(server_listener_name="hop-code")
        ),
        upstream_cluster="model-code",
        response_flags=data.ResponseFlags(
            unauthorized_details=data.ResponseFlagsUnauthorized(
                reason=data.ResponseFlagsUnauthorizedReason.EXTERNAL_SERVICE
            ),
            **{
                field.name: True
                for field in dataclasses.fields(data.ResponseFlags)
                if field.name != "unauthorized_details"
            },
        ),
        metadata=core.Metadata(filter_metadata={"router": METADATA}),
        custom_tags={"first_body_byte": "203000"},
        duration=datetime.timedelta(seconds=9),
        upstream_request_attempt_count=2,
        stream_id="s",
        access_log_type=data.AccessLogType.DownstreamEnd,
    ),
    request=data.HttpRequestProperties(
        request_method=core.RequestMethod.POST,
        path="/v1/chat/completions?a=b",
        request_id="r",
        original_path="/o",
        request_body_bytes=1 << 40,
    ),
    response=data.HttpResponseProperties(
        response_code=200, response_body_bytes=1 << 41, response_code_details="via_upstream"
    ),
)
WAIT = datetime.timedelta(seconds=1.5)

SAMPLES: dict[str, tuple[Any, Any]] = {
    "request head": (
        ext_proc_pb2.ProcessingRequest,
        ext_proc_service.ProcessingRequest(request_headers=HEADERS, protocol_config=PROTOCOL),
    ),
    "request body": (
        ext_proc_pb2.ProcessingRequest,
        ext_proc_service.ProcessingRequest(
            request_body=ext_proc_service.HttpBody(body=b"{}", end_of_stream=True), protocol_config=PROTOCOL
        ),
    ),
    "head proceeds": (
        ext_proc_pb2.ProcessingResponse,
        ext_proc_service.ProcessingResponse(
            request_headers=ext_proc_service.HeadersResponse(response=COMMON),
            dynamic_metadata=METADATA,
            override_message_timeout=WAIT,
        ),
    ),
    "body is routed": (
        ext_proc_pb2.ProcessingResponse,
        ext_proc_service.ProcessingResponse(
            request_body=ext_proc_service.BodyResponse(response=COMMON),
            dynamic_metadata=METADATA,
            override_message_timeout=WAIT,
        ),
    ),
    "refused": (
        ext_proc_pb2.ProcessingResponse,
        ext_proc_service.ProcessingResponse(
            immediate_response=ext_proc_service.ImmediateResponse(
                status=envoy_type.HttpStatus(code=envoy_type.StatusCode.BadRequest),
                headers=MUTATION,
                body=b"{}",
                details="router_bad_request",
            ),
            dynamic_metadata=METADATA,
            override_message_timeout=WAIT,
        ),
    ),
    "access log": (
        access_log_pb2.StreamAccessLogsMessage,
        accesslog_service.StreamAccessLogsMessage(
            http_logs=accesslog_service.StreamAccessLogsMessageHttpAccessLogEntries(log_entry=[ENTRY, ENTRY])
        ),
    ),
}


def unset(message: Message) -> set[str]:
    """The fields, at any depth, of our messages that are not set, but for unused arms of a oneof."""
    if not message.DESCRIPTOR.full_name.startswith("extproc.pb."):
        return set()
    found = {field.name: value for field, value in message.ListFields()}
    missing = {
        field.full_name
        for field in message.DESCRIPTOR.fields
        if field.name not in found and field.containing_oneof is None
    }
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else [value]:
                missing |= unset(inner)
    return missing


@pytest.mark.parametrize("sample", SAMPLES)
def test_what_envoy_writes_we_read_and_what_we_write_envoy_reads(sample: str) -> None:
    our_type, theirs = SAMPLES[sample]
    ours = our_type.FromString(bytes(theirs))
    assert not UnknownFieldSet(ours)
    assert not unset(ours), "the sample must have every field that we declare"
    assert type(theirs).parse(ours.SerializeToString()) == theirs


def test_what_we_do_not_declare_is_skipped() -> None:
    theirs = ext_proc_service.ProcessingRequest(
        response_headers=HEADERS,
        attributes={"envoy.filters.http.ext_proc": METADATA},
        observability_mode=True,
    )
    assert (
        ext_proc_pb2.ProcessingRequest.FromString(bytes(theirs)).WhichOneof("request") == "response_headers"
    )
