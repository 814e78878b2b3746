"""The feedback exchange over plain values: whatever comes is answered, or Envoy answers."""

import msgspec
import pytest

from extproc.errors import BadRequest, ClientError, NoFeedback, ProtocolError, Unauthorized
from extproc.vocabulary import RequestHead
from extproc.wire.decide_exchange import BodyReceived, HeadReceived, Proceed
from extproc.wire.feedback_exchange import FeedbackExchange, FeedbackResponse


class FakeHandler:
    """Admits who says good, takes what is an id; remembers what it was asked."""

    def __init__(self, error: ClientError | None = None) -> None:
        self.error = error
        self.taken: list[bytes] = []

    def admit(self, authorization: str) -> None:
        if authorization != "good":
            raise Unauthorized("no token")

    def take(self, body: bytes) -> str:
        self.taken.append(body)
        if self.error is not None:
            raise self.error
        return "e1"


def head(authorization: str = "good", has_body: bool = True) -> HeadReceived:
    headers = {"authorization": authorization} if authorization else {}
    return HeadReceived(RequestHead("POST", "/v1/router/feedback", headers, has_body=has_body))


def test_the_head_is_let_go_on_and_the_body_answered() -> None:
    handler = FakeHandler()
    exchange = FeedbackExchange(handler)
    assert exchange.receive(head()) == Proceed()
    assert not exchange.done
    answer = exchange.receive(BodyReceived(b"opinion"))
    assert answer == FeedbackResponse(202, b'{"id":"e1","accepted":true}', "router_feedback_accepted")
    assert exchange.done
    assert handler.taken == [b"opinion"]


@pytest.mark.parametrize("authorization", ["", "bad"])
def test_without_the_token_the_head_is_answered_and_no_body_is_read(authorization: str) -> None:
    handler = FakeHandler()
    exchange = FeedbackExchange(handler)
    answer = exchange.receive(head(authorization))
    assert isinstance(answer, FeedbackResponse)
    assert (answer.status, answer.headers) == (401, (("www-authenticate", "Bearer"),))
    assert msgspec.json.decode(answer.body)["error"]["message"] == "no token"
    assert exchange.done
    with pytest.raises(ProtocolError):
        exchange.receive(BodyReceived(b"opinion"))
    assert handler.taken == []


def test_a_request_without_a_body_is_answered_at_its_head() -> None:
    exchange = FeedbackExchange(FakeHandler(BadRequest("empty")))
    answer = exchange.receive(head(has_body=False))
    assert isinstance(answer, FeedbackResponse)
    assert (answer.status, answer.headers) == (400, ())
    assert exchange.done


@pytest.mark.parametrize("error", [BadRequest("x"), NoFeedback("x")])
def test_a_refusal_of_the_handler_has_its_status_and_label(error: ClientError) -> None:
    exchange = FeedbackExchange(FakeHandler(error))
    exchange.receive(head())
    answer = exchange.receive(BodyReceived(b""))
    assert isinstance(answer, FeedbackResponse)
    assert (answer.status, answer.details) == (error.status, f"router_feedback_{error.label}")


def test_what_comes_out_of_turn_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        FeedbackExchange(FakeHandler()).receive(BodyReceived(b""))
    exchange = FeedbackExchange(FakeHandler())
    exchange.receive(head())
    with pytest.raises(ProtocolError):
        exchange.receive(head())


def test_feedback_is_stored_once_though_a_second_body_comes() -> None:
    handler = FakeHandler()
    exchange = FeedbackExchange(handler)
    exchange.receive(head())
    exchange.receive(BodyReceived(b"opinion"))
    with pytest.raises(ProtocolError):
        exchange.receive(BodyReceived(b"opinion"))
    assert handler.taken == [b"opinion"]
