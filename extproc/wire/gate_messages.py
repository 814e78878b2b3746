"""Envoy's ext_proc messages <-> the events and effects of a gate."""

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from extproc._pb.ext_proc_pb2 import (
    CommonResponse,
    HttpHeaders,
    ImmediateResponse,
    MessageResponse,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.errors import ProtocolError
from extproc.vocabulary import Ruling
from extproc.wire import gating, messages, observed
from extproc.wire.exchange import Body, Head
from extproc.wire.gates import ESCALATE_HEADER, GATE_NAMESPACE
from extproc.wire.gating import AnswerHead, AnswerPart, AnswerTrailers, Effect, Event

# What Envoy splits a body into is at most its buffer; what goes back is no larger than it can take.
_PIECE = 64 * 1024
_REJECTED = 503  # to the outer router; a client never sees it


def decode(data: bytes, stream: messages.StreamMetadata) -> Event:
    """What one message of Envoy tells a gate.

    Raises:
        ProtocolError: it is no message, or one that a gate has no use for.
    """
    try:
        request = ProcessingRequest.FromString(data)
    except DecodeError as error:
        raise ProtocolError("a message cannot be decoded") from error
    match request.WhichOneof("request"):
        case "request_headers":
            return Head(messages.request_head(request.request_headers, stream))
        case "request_body":
            return Body(request.request_body.body)
        case "response_headers":
            return _answer_head(request.response_headers)
        case "response_body":
            return AnswerPart(request.response_body.body, request.response_body.end_of_stream)
        case "response_trailers":
            return AnswerTrailers()
        case other:
            raise ProtocolError(f"{other or 'an unknown message'} came to a gate")


def encode(event: Event, effect: Effect) -> Iterator[bytes]:
    """Envoy's messages for ``effect``, which answers ``event``."""
    match effect:
        case gating.Wait():
            return
        case gating.Proceed() if isinstance(event, Head):
            yield _PROCEED_HEAD
        case gating.Proceed():
            yield _PROCEED_BODY
        case gating.LetPass():
            yield _PASS_HEAD
        case gating.Relay() if isinstance(event, AnswerPart):
            yield _part(event.data, ended=event.ended)
        case gating.Relay():
            yield _PASS_TRAILERS
        case gating.Release():
            yield from _release(effect)
        case gating.Reject():
            yield _reject(effect.ruling)


_PROCEED_HEAD = ProcessingResponse(request_headers=MessageResponse()).SerializeToString()
_PROCEED_BODY = ProcessingResponse(request_body=MessageResponse()).SerializeToString()
_PASS_HEAD = ProcessingResponse(response_headers=MessageResponse()).SerializeToString()
_PASS_TRAILERS = ProcessingResponse(response_trailers=MessageResponse()).SerializeToString()


def _answer_head(message: HttpHeaders) -> AnswerHead:
    pseudo, headers = messages.headers_of(message)
    status = pseudo.get(":status", "")
    return AnswerHead(int(status) if status.isdecimal() else 0, headers, message.end_of_stream)


def _release(release: gating.Release) -> Iterator[bytes]:
    head = ProcessingResponse(response_headers=MessageResponse())
    _attach(head, release.ruling)
    yield head.SerializeToString()
    body = release.body
    starts = range(0, len(body), _PIECE) if body else [0] if release.ended else []
    for start in starts:
        last = start + _PIECE >= len(body)
        yield _part(body[start : start + _PIECE], ended=release.ended and last)
    if release.trailers:
        yield _PASS_TRAILERS


def _part(data: bytes, *, ended: bool) -> bytes:
    common = CommonResponse()
    common.body_mutation.streamed_response.body = data
    common.body_mutation.streamed_response.end_of_stream = ended
    return ProcessingResponse(response_body=MessageResponse(response=common)).SerializeToString()


def _reject(ruling: Ruling) -> bytes:
    immediate = ImmediateResponse(details="router_escalated")
    immediate.status.code = _REJECTED
    messages.set_header(immediate.headers, ESCALATE_HEADER, "1")
    response = ProcessingResponse(immediate_response=immediate)
    _attach(response, ruling)
    return response.SerializeToString()


def _attach(response: ProcessingResponse, ruling: Ruling | None) -> None:
    if ruling is not None:
        observed.write_ruling(ruling, response.dynamic_metadata.fields[GATE_NAMESPACE].struct_value)
