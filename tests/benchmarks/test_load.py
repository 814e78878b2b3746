"""The load generator: what it reads of an answer, and what it counts of a burst."""

import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.load import Burst, Response, read_response, run

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-router-reason: rule\r\nserver: envoy\r\n\r\nhi"


def test_an_answer_is_read_with_its_reason() -> None:
    assert read_response(ANSWER) == Response(200, "rule", len(ANSWER))


def test_an_answer_that_no_router_made_has_no_reason() -> None:
    answer = read_response(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    assert answer is not None
    assert (answer.status, answer.outcome) == (503, "503")


@pytest.mark.parametrize("size", range(len(ANSWER)))
def test_part_of_an_answer_is_none_yet(size: int) -> None:
    assert read_response(ANSWER[:size]) is None


def test_what_follows_an_answer_is_not_part_of_it() -> None:
    assert read_response(bytearray(ANSWER + b"HTTP/1.1 500")) == Response(200, "rule", len(ANSWER))


def test_headers_are_not_looked_for_in_the_body() -> None:
    answer = read_response(b"HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n\r\nx-router-reason: rule\r\n\r\n")
    assert answer is not None
    assert answer.reason == ""


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n"],
)
def test_an_answer_it_cannot_read_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"an? answer|no HTTP"):
        read_response(data)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def burst(server: socket.socket, connections: int = 1, warm_up_s: float = 0.0) -> Burst:
    host, port = server.getsockname()
    return Burst(host, port, (b"ping",), connections, seconds=0.05, warm_up_s=warm_up_s)


def answering(server: socket.socket, connections: int) -> threading.Thread:
    """Answers every request on so many connections, one request at a time on each."""

    def serve() -> None:
        accepted = [server.accept()[0] for _ in range(connections)]
        waiting = [threading.Thread(target=converse, args=(each,)) for each in accepted]
        for each in waiting:
            each.start()
        for each in waiting:
            each.join()

    def converse(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(64):
                # More than one request at once would show that the loop is not closed.
                connection.sendall(ANSWER if data == b"ping" else ANSWER.replace(b"200", b"400"))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_every_answer_of_a_burst_is_timed_and_told_by_its_outcome(server: socket.socket) -> None:
    serving = answering(server, connections=3)
    result = run(burst(server, connections=3))
    serving.join()
    assert set(result.outcomes) == {"200 rule"}
    assert result.outcomes["200 rule"] == len(result.latencies) > 3
    assert result.latencies.min() > 0


def test_a_warm_up_does_not_count(server: socket.socket) -> None:
    serving = answering(server, connections=1)
    warm_up_s = 0.05
    asked = burst(server, warm_up_s=warm_up_s)
    result = run(asked)
    serving.join()
    assert result.seconds == asked.seconds
    assert result.latencies.sum() <= asked.seconds + result.latencies.max()


def test_a_connection_that_is_closed_ends_the_burst(server: socket.socket) -> None:
    closing = threading.Thread(target=lambda: server.accept()[0].close())
    closing.start()
    with pytest.raises(ConnectionError):
        run(burst(server))
    closing.join()
