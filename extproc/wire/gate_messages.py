"""Envoy's ext_proc messages <-> the events and effects of a gate's exchange."""

from extproc._pb.ext_proc_pb2 import (
    HttpHeaders,
    ImmediateResponse,
    MessageResponse,
    ProcessingResponse,
)
from extproc.errors import ProtocolError
from extproc.exchanges import Ruling
from extproc.wire import decide_messages, observed_metadata
from extproc.wire.decide_exchange import BodyReceived, HeadReceived
from extproc.wire.gate_exchange import (
    AnswerHead,
    AnswerPart,
    Consult,
    Effect,
    Event,
    PassRequest,
    Reject,
    ReleaseAnswer,
    Wait,
)

ESCALATE_HEADER = "x-router-escalate"  # 1 on a hop's answer: Envoy asks the next tier
BEGAN_HEADER = "x-router-began"  # on a request: when the exchange began, milliseconds since the epoch

_REJECTED = 503  # to the outer router, which asks the next tier; no client sees it


def decode(data: bytes, stream: decide_messages.StreamMetadata) -> Event:
    """The event in one message of Envoy.

    Raises:
        ProtocolError: it is not a message, or not one for a gate.
    """
    request = decide_messages.request_of(data)
    match request.WhichOneof("request"):
        case "request_headers":
            return HeadReceived(decide_messages.request_head(request.request_headers, stream))
        case "request_body":
            return BodyReceived(request.request_body.body)
        case "response_headers":
            return _answer_head(request.response_headers)
        case "response_body":
            return AnswerPart(request.response_body.body, request.response_body.end_of_stream)
        case "response_trailers":
            return AnswerPart(b"", ended=True)
        case other:
            raise ProtocolError(f"{other or 'an unknown message'} came on a gate's stream")


def encode(event: Event, effect: Effect) -> bytes | None:
    """The reply to ``event`` that carries out ``effect``; None: no reply yet."""
    match effect:
        case Wait() | Consult():
            return None
        case PassRequest() if isinstance(event, HeadReceived):
            return _PROCEED_HEAD
        case PassRequest():
            return _PROCEED_BODY
        case ReleaseAnswer(ruling):
            return _release(ruling)
        case Reject(ruling):
            return _reject(ruling)


_PROCEED_HEAD = ProcessingResponse(request_headers=MessageResponse()).SerializeToString()
_PROCEED_BODY = ProcessingResponse(request_body=MessageResponse()).SerializeToString()


def _answer_head(message: HttpHeaders) -> AnswerHead:
    pseudo, headers = decide_messages.headers_of(message)
    status = pseudo.get(":status", "")
    return AnswerHead(int(status) if status.isdecimal() else 0, headers, message.end_of_stream)


def _release(ruling: Ruling | None) -> bytes:
    response = ProcessingResponse(response_headers=MessageResponse())
    if ruling is not None:
        _attach(response, ruling)
    return response.SerializeToString()


def _reject(ruling: Ruling) -> bytes:
    immediate = ImmediateResponse(details="router_escalated")
    immediate.status.code = _REJECTED
    decide_messages.set_header(immediate.headers, ESCALATE_HEADER, "1")
    response = ProcessingResponse(immediate_response=immediate)
    _attach(response, ruling)
    return response.SerializeToString()


def _attach(response: ProcessingResponse, ruling: Ruling) -> None:
    observed_metadata.write_ruling(
        ruling, response.dynamic_metadata.fields[observed_metadata.GATE_NAMESPACE].struct_value
    )
