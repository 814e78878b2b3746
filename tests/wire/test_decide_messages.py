"""Envoy's messages to events, replies to Envoy's messages."""

import contextlib
from collections.abc import Sequence

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from extproc._pb.ext_proc_pb2 import (
    BUFFERED,
    NONE,
    OVERWRITE_IF_EXISTS_OR_ADD,
    STREAMED,
    BodySendMode,
    HeaderMap,
    HeaderValue,
    HttpBody,
    HttpHeaders,
    MessageResponse,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)
from extproc.errors import ProtocolError
from extproc.exchanges import Envelope
from extproc.vocabulary import RequestHead
from extproc.wire import decide_messages
from extproc.wire.decide_exchange import BodyReceived, HeadReceived, Proceed, Refuse, RouteRequest
from extproc.wire.decide_messages import StreamMetadata
from extproc.wire.feedback_exchange import FeedbackResponse

HEAD = HeadReceived(RequestHead(method="POST", path="/", headers={}))
BODY = BodyReceived(b"{}")
NO_METADATA = StreamMetadata()
ENVELOPE = Envelope(api="openai.chat", route="code", version="v1", margin=0.5)


def head_message(
    *headers: tuple[str, bytes], end_of_stream: bool = False, mode: BodySendMode | None = BUFFERED
) -> ProcessingRequest:
    values = [HeaderValue(key=name, raw_value=value) for name, value in headers]
    return ProcessingRequest(
        request_headers=HttpHeaders(headers=HeaderMap(headers=values), end_of_stream=end_of_stream),
        protocol_config=None if mode is None else ProtocolConfiguration(request_body_mode=mode),
    )


def decoded_head(message: ProcessingRequest, traceparent: str = "") -> HeadReceived:
    event = decide_messages.decode(message.SerializeToString(), StreamMetadata(traceparent))
    assert isinstance(event, HeadReceived)
    return event


def answered(
    event: HeadReceived | BodyReceived, reply: Proceed | RouteRequest | Refuse
) -> ProcessingResponse:
    return ProcessingResponse.FromString(decide_messages.encode(event, reply))


def set_headers(options: Sequence[object]) -> dict[str, bytes]:
    return {option.header.key: option.header.raw_value for option in options}  # type: ignore[attr-defined]


def test_a_head_is_method_path_and_headers() -> None:
    message = head_message(
        (":method", b"POST"),
        (":path", b"/v1/chat/completions?a=b"),
        (":authority", b"example.org"),
        ("content-type", b"application/json"),
        ("traceparent", b"00-client"),
    )
    assert decoded_head(message) == HeadReceived(
        RequestHead(
            method="POST",
            path="/v1/chat/completions?a=b",
            headers={"content-type": "application/json", "traceparent": "00-client"},
            has_body=True,
            traceparent="00-client",
        ),
        buffered=True,
    )


def test_a_head_that_ends_the_stream_has_no_body() -> None:
    assert not decoded_head(head_message(end_of_stream=True)).head.has_body


def test_the_trace_of_the_stream_goes_before_that_of_the_client() -> None:
    message = head_message(("traceparent", b"00-client"))
    assert decoded_head(message, "00-envoy").head.traceparent == "00-envoy"


def test_a_header_that_comes_twice_is_one_list() -> None:
    message = head_message(("x-team", b"a"), ("x-other", b"o"), ("x-team", b"b"))
    assert decoded_head(message).head.headers == {"x-team": "a, b", "x-other": "o"}


def test_a_header_that_is_not_utf8_spoils_nothing() -> None:
    assert decoded_head(head_message(("x-a", b"\xff!"))).head.headers == {"x-a": "\ufffd!"}


def test_an_envoy_that_sends_values_as_text_is_understood() -> None:
    message = ProcessingRequest(
        request_headers=HttpHeaders(headers=HeaderMap(headers=[HeaderValue(key=":method", value="GET")]))
    )
    assert decoded_head(message).head.method == "GET"


@pytest.mark.parametrize(
    ("mode", "buffered"), [(BUFFERED, True), (None, True), (STREAMED, False), (NONE, False)]
)
def test_whether_the_body_comes_whole_is_what_envoy_says_if_it_says_it(
    mode: BodySendMode | None, buffered: bool
) -> None:
    assert decoded_head(head_message(mode=mode)).buffered is buffered


def test_a_body_is_its_bytes() -> None:
    message = ProcessingRequest(request_body=HttpBody(body=b'{"a":1}', end_of_stream=True))
    assert decide_messages.decode(message.SerializeToString(), NO_METADATA) == BodyReceived(b'{"a":1}')


@pytest.mark.parametrize(
    "phase", ["response_headers", "response_body", "request_trailers", "response_trailers"]
)
def test_another_phase_is_named_in_the_error(phase: str) -> None:
    message = ProcessingRequest()
    getattr(message, phase).SetInParent()
    with pytest.raises(ProtocolError, match=phase):
        decide_messages.decode(message.SerializeToString(), NO_METADATA)


def test_an_empty_message_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="unknown"):
        decide_messages.decode(b"", NO_METADATA)


@given(st.binary(max_size=60))
def test_any_bytes_give_an_event_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(decide_messages.decode(data, NO_METADATA), HeadReceived | BodyReceived)


@pytest.mark.parametrize(("event", "phase"), [(HEAD, "request_headers"), (BODY, "request_body")])
def test_what_proceeds_is_answered_in_its_own_phase_and_empty(
    event: HeadReceived | BodyReceived, phase: str
) -> None:
    assert answered(event, Proceed()) == ProcessingResponse(**{phase: MessageResponse()})  # type: ignore[arg-type]


@pytest.mark.parametrize(("event", "phase"), [(HEAD, "request_headers"), (BODY, "request_body")])
def test_what_proceeds_may_say_why(event: HeadReceived | BodyReceived, phase: str) -> None:
    response = answered(event, Proceed(ENVELOPE))
    assert response.WhichOneof("response") == phase
    assert MessageToDict(response.dynamic_metadata)["router"]["route"] == "code"


@pytest.mark.parametrize(("event", "phase"), [(HEAD, "request_headers"), (BODY, "request_body")])
def test_what_is_checked_is_marked_and_its_route_chosen_anew(
    event: HeadReceived | BodyReceived, phase: str
) -> None:
    common = getattr(answered(event, Proceed(ENVELOPE, checked=True)), phase).response
    assert common.clear_route_cache
    assert set_headers(common.header_mutation.set_headers) == {"x-router-checked": b"1"}


def test_a_route_sets_the_cluster_and_clears_the_route_cache() -> None:
    response = answered(BODY, RouteRequest("model-coder", None, ENVELOPE))
    common = response.request_body.response
    assert common.clear_route_cache
    assert set_headers(common.header_mutation.set_headers) == {
        "x-router-cluster": b"model-coder",
        "x-router-route": b"code",
    }
    assert not common.HasField("body_mutation")


def test_without_a_route_no_policies_of_one_hold() -> None:
    common = answered(BODY, RouteRequest("model-coder", None, Envelope())).request_body.response
    assert "x-router-route" not in set_headers(common.header_mutation.set_headers)


def test_where_the_model_is_named_is_told_for_those_asked_in_its_place() -> None:
    common = answered(BODY, RouteRequest("model-coder", None, ENVELOPE, (9, 16))).request_body.response
    assert set_headers(common.header_mutation.set_headers)["x-router-span"] == b"9-16"


def test_a_changed_body_comes_with_its_length() -> None:
    common = answered(BODY, RouteRequest("model-coder", '{"ä":1}'.encode(), ENVELOPE)).request_body.response
    assert common.body_mutation.body == '{"ä":1}'.encode()
    assert set_headers(common.header_mutation.set_headers)["content-length"] == b"8"


def test_headers_replace_what_is_there() -> None:
    common = answered(BODY, RouteRequest("model-coder", b"{}", ENVELOPE)).request_body.response
    actions = {option.append_action for option in common.header_mutation.set_headers}
    assert actions == {OVERWRITE_IF_EXISTS_OR_ADD}


def test_a_refusal_is_an_immediate_response_in_json() -> None:
    envelope = Envelope(error="bad_request", reason="bad_request")
    response = answered(BODY, Refuse(400, b'{"error":{}}', envelope)).immediate_response
    assert response.status.code == 400
    assert response.body == b'{"error":{}}'
    assert response.details == "router_bad_request"
    assert set_headers(response.headers.set_headers) == {"content-type": b"application/json"}


def test_an_answer_to_feedback_is_an_immediate_response_with_its_headers_and_no_metadata() -> None:
    reply = FeedbackResponse(401, b"{}", "router_feedback_unauthorized", (("www-authenticate", "Bearer"),))
    response = ProcessingResponse.FromString(decide_messages.encode(BODY, reply))
    immediate = response.immediate_response
    assert (immediate.status.code, immediate.body, immediate.details) == (401, b"{}", reply.details)
    assert set_headers(immediate.headers.set_headers) == {
        "content-type": b"application/json",
        "www-authenticate": b"Bearer",
    }
    assert not response.HasField("dynamic_metadata")


@pytest.mark.parametrize(
    "reply", [RouteRequest("c", None, ENVELOPE), Refuse(400, b"", ENVELOPE), Proceed(ENVELOPE)]
)
def test_the_envelope_travels_in_the_namespace_router(reply: Proceed | RouteRequest | Refuse) -> None:
    assert MessageToDict(answered(BODY, reply).dynamic_metadata) == {
        "router": {
            "schema": 1, "mode": "active", "api": "openai.chat", "route": "code", "version": "v1",
            "margin": 0.5,
        }
    }  # fmt: skip


def test_the_stream_says_which_registry_its_envoy_holds() -> None:
    stream = decide_messages.stream_metadata(
        [("user-agent", "envoy"), ("x-router-config", "v7"), ("traceparent", b"00-envoy")]
    )
    assert stream == StreamMetadata("00-envoy", "v7")
    event = decide_messages.decode(head_message((":method", b"POST")).SerializeToString(), stream)
    assert isinstance(event, HeadReceived)
    assert event.head.config_version == "v7"


def test_the_stream_says_what_its_filter_is_for() -> None:
    assert decide_messages.stream_metadata([("x-router-role", "feedback")]).role == "feedback"
    assert decide_messages.stream_metadata([]).role == ""


def test_a_client_cannot_say_which_registry_envoy_holds() -> None:
    head = decoded_head(head_message((":method", b"POST"), ("x-router-config", b"v7"))).head
    assert head.config_version == ""
