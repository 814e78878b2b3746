"""Access log entries to exchanges."""

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from extproc._pb.access_log_pb2 import (
    AccessLogCommon,
    AccessLogType,
    HTTPAccessLogEntry,
    HTTPRequestProperties,
    HTTPResponseProperties,
    Metadata,
    RequestMethod,
    ResponseFlags,
    StreamAccessLogsMessage,
)
from extproc.exchanges import Attempt, Envelope, Exchange, Usage
from extproc.wire import access_log

# Every flag of Envoy 1.40's %RESPONSE_FLAGS% that its gRPC access log has a field for, in the
# order of the fields.
SHORT = "LH UH UT LR UR UF UC UO NR DI FI RL UAEX RLSE DC URX SI IH DPE UMSDR RFCF NFCF DT UPE NC OM DF DR"


def message(entries: Iterable[HTTPAccessLogEntry]) -> bytes:
    logs = StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)
    return StreamAccessLogsMessage(http_logs=logs).SerializeToString()


def entries_of(data: bytes) -> list[Exchange | Attempt]:
    return [access_log.observed_in(entry) for entry in access_log.finished(data)]


def exchange(entry: HTTPAccessLogEntry) -> Exchange:
    (only,) = entries_of(message([entry]))
    assert isinstance(only, Exchange)
    return only


def metadata(namespace: str, fields: dict[str, Any]) -> Metadata:
    struct = Struct()
    struct.update(fields)
    return Metadata(filter_metadata={namespace: struct})


def test_an_entry_becomes_an_exchange() -> None:
    common = AccessLogCommon(
        upstream_cluster="model-coder",
        response_flags=ResponseFlags(upstream_request_timeout=True),
        metadata=metadata("router", {"schema": 1, "route": "code", "margin": 0.25, "tokens": 7}),
    )
    common.start_time.seconds, common.start_time.nanos = 1_795_475_173, 250_000_000
    common.time_to_first_upstream_rx_byte.nanos = 500_000_000
    common.time_to_last_downstream_tx_byte.seconds = 2
    common.duration.seconds = 3
    common.custom_tags["traceparent"] = b"00-aa-bb-01"
    entry = HTTPAccessLogEntry(
        common_properties=common,
        request=HTTPRequestProperties(
            request_method=RequestMethod.POST,
            path=b"/v1/chat/completions?key=secret",
            request_id="r-1",
            request_body_bytes=81,
        ),
        response=HTTPResponseProperties(response_body_bytes=9000),
    )
    entry.response.response_code.value = 504
    assert exchange(entry) == Exchange(
        request_id="r-1",
        started_at=1_795_475_173.25,
        duration=2.0,
        first_byte=0.5,
        status=504,
        flags=("UT",),
        method="POST",
        path="/v1/chat/completions",
        cluster="model-coder",
        request_bytes=81,
        response_bytes=9000,
        envelope=Envelope(route="code", margin=0.25, tokens=7),
        traceparent="00-aa-bb-01",
    )


def test_an_empty_entry_becomes_an_exchange_that_knows_nothing() -> None:
    assert exchange(HTTPAccessLogEntry()) == Exchange(
        request_id="",
        started_at=0.0,
        duration=None,
        first_byte=None,
        status=0,
        flags=(),
        method="",
        path="",
        cluster="",
        request_bytes=0,
        response_bytes=0,
        envelope=None,
    )


def test_a_client_that_left_before_the_answer_has_the_duration_until_then() -> None:
    entry = HTTPAccessLogEntry()
    entry.common_properties.duration.nanos = 250_000_000
    entry.common_properties.response_flags.downstream_connection_termination = True
    gone = exchange(entry)
    assert (gone.status, gone.flags, gone.duration, gone.first_byte) == (0, ("DC",), 0.25, None)


def test_every_flag_has_the_short_string_of_envoy() -> None:
    flags = ResponseFlags()
    for field in ResponseFlags.DESCRIPTOR.fields:
        if field.message_type is None:
            setattr(flags, field.name, True)
        else:
            getattr(flags, field.name).SetInParent()
    entry = HTTPAccessLogEntry(common_properties=AccessLogCommon(response_flags=flags))
    assert " ".join(exchange(entry).flags) == SHORT


def test_the_path_is_what_the_client_asked_for() -> None:
    request = HTTPRequestProperties(path=b"/openai/v1/chat", original_path=b"/v1/chat/completions?a")
    assert exchange(HTTPAccessLogEntry(request=request)).path == "/v1/chat/completions"


def test_what_a_client_sent_that_is_no_text_costs_nothing() -> None:
    common = AccessLogCommon(custom_tags={"traceparent": b"00-\xff"})
    told = exchange(
        HTTPAccessLogEntry(common_properties=common, request=HTTPRequestProperties(path=b"/\xff"))
    )
    assert (told.traceparent, told.path) == ("00-\ufffd", "/\ufffd")


def test_without_a_request_id_the_stream_has_one() -> None:
    entry = HTTPAccessLogEntry(common_properties=AccessLogCommon(stream_id="s-1"))
    assert exchange(entry).request_id == "s-1"


def test_a_method_that_envoy_has_no_name_for_is_empty() -> None:
    request = HTTPRequestProperties()
    request.MergeFromString(b"\x08\x63")  # request_method: 99
    assert exchange(HTTPAccessLogEntry(request=request)).method == ""


@pytest.mark.parametrize(
    ("tag", "seconds"), [("203000", 0.203), ("0", 0.0), ("", None), ("-", None), ("9" * 5000, None)]
)
def test_the_first_byte_of_the_body_comes_as_a_tag(tag: str, seconds: float | None) -> None:
    common = AccessLogCommon(custom_tags={"first_body_byte": tag.encode()})
    assert exchange(HTTPAccessLogEntry(common_properties=common)).first_body_byte == seconds
    assert exchange(HTTPAccessLogEntry()).first_body_byte is None


def test_the_hop_that_answered_and_the_attempts_are_told() -> None:
    common = AccessLogCommon(upstream_request_attempt_count=3)
    common.upstream_remote_address.envoy_internal_address.server_listener_name = "hop-large"
    told = exchange(HTTPAccessLogEntry(common_properties=common))
    assert (told.served_by, told.attempts) == ("large", 3)


def test_what_was_observed_of_request_and_answer_is_told() -> None:
    common = AccessLogCommon()
    for namespace, fields in (
        ("router.request", {"api": "openai.chat", "path": "/v1/chat/completions"}),
        ("router.usage", {"input": 3, "finish": "stop"}),
    ):
        common.metadata.MergeFrom(metadata(namespace, fields))
    told = exchange(
        HTTPAccessLogEntry(common_properties=common, request=HTTPRequestProperties(path=b"/api/v9/x?k"))
    )
    assert (told.api, told.path) == ("openai.chat", "/v1/chat/completions")
    assert told.usage == Usage(input=3, finish="stop")


def test_metadata_of_other_filters_is_no_envelope() -> None:
    common = AccessLogCommon(metadata=metadata("envoy.lb", {"route": "x"}))
    assert exchange(HTTPAccessLogEntry(common_properties=common)).envelope is None


@pytest.mark.parametrize(
    ("kind", "finished"),
    [
        (AccessLogType.NotSet, True),
        (AccessLogType.DownstreamEnd, True),
        (AccessLogType.UpstreamEnd, True),
        (AccessLogType.DownstreamStart, False),
        (AccessLogType.DownstreamPeriodic, False),
        (AccessLogType.DownstreamTunnelSuccessfullyEstablished, False),
        (AccessLogType.UpstreamPoolReady, False),
        (AccessLogType.UpstreamPeriodic, False),
    ],
)
def test_only_finished_exchanges_count(kind: AccessLogType, finished: bool) -> None:
    entry = HTTPAccessLogEntry(common_properties=AccessLogCommon(access_log_type=kind))
    assert len(entries_of(message([entry]))) == finished


def test_a_message_has_its_exchanges_in_order() -> None:
    entries = [HTTPAccessLogEntry(request=HTTPRequestProperties(request_id=name)) for name in "abc"]
    told = [each for each in entries_of(message(entries)) if isinstance(each, Exchange)]
    assert [each.request_id for each in told] == ["a", "b", "c"]


def test_an_entry_of_a_hop_becomes_an_attempt() -> None:
    hop = {"model": "coder", "sent": "qwen3-coder", "provider": "vllm", "version": "v1"}
    common = AccessLogCommon(metadata=metadata("router.hop", hop))
    common.custom_tags["place"] = b"2"
    entry = HTTPAccessLogEntry(common_properties=common, request=HTTPRequestProperties(request_id="r-1"))
    (attempt,) = entries_of(message([entry]))
    assert isinstance(attempt, Attempt)
    assert (attempt.number, attempt.model, attempt.upstream_model) == (2, "coder", "qwen3-coder")
    assert (attempt.provider, attempt.version, attempt.call.request_id) == ("vllm", "v1", "r-1")


@pytest.mark.parametrize("place", ["", "-", "x", "-1", "1.5", "²", "9" * 30])
def test_a_place_that_is_none_is_attempt_0(place: str) -> None:
    common = AccessLogCommon(metadata=metadata("router.hop", {}))
    common.custom_tags["place"] = place.encode()
    (attempt,) = entries_of(message([HTTPAccessLogEntry(common_properties=common)]))
    assert isinstance(attempt, Attempt)
    assert (attempt.number, attempt.model) == (0, "")


def test_a_message_without_entries_has_no_exchanges() -> None:
    assert entries_of(b"") == []


int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
uint64 = st.integers(0, 2**64 - 1)
durations = st.none() | st.builds(Duration, seconds=int64, nanos=int32)
values = (
    st.builds(Value, number_value=st.floats())
    | st.builds(Value, string_value=st.text(max_size=5))
    | st.builds(Value, bool_value=st.booleans())
    | st.just(Value())
)
structs = st.builds(Struct, fields=st.dictionaries(st.sampled_from(Envelope.__struct_fields__), values))
entries = st.builds(
    HTTPAccessLogEntry,
    common_properties=st.builds(
        AccessLogCommon,
        start_time=st.none() | st.builds(Timestamp, seconds=int64, nanos=int32),
        time_to_first_upstream_rx_byte=durations,
        time_to_last_downstream_tx_byte=durations,
        duration=durations,
        metadata=st.builds(
            Metadata, filter_metadata=st.dictionaries(st.sampled_from(["router", "router.hop", "x"]), structs)
        ),
    ),
    request=st.builds(HTTPRequestProperties, path=st.binary(max_size=5), request_body_bytes=uint64),
    response=st.builds(HTTPResponseProperties, response_body_bytes=uint64),
)


@given(entries)
def test_whatever_an_entry_says_gives_what_can_be_recorded(entry: HTTPAccessLogEntry) -> None:
    (told,) = entries_of(message([entry]))
    assert msgspec.json.encode(told)


@given(st.binary(max_size=80))
def test_any_bytes_give_exchanges_or_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert all(isinstance(each, Exchange | Attempt) for each in entries_of(data))
