"""Attempts meet their exchange, in whatever order and messages they come."""

from collections.abc import Sequence

import pytest

from extproc.exchanges import Attempt, Exchange
from extproc.wire.attempt_joining import Attempts


def exchange(request_id: str, attempts: int = 0, cluster: str = "chain-small|large") -> Exchange:
    return Exchange(
        request_id=request_id, started_at=0.0, duration=None, first_byte=None, status=200, flags=(),
        method="POST", path="/", cluster=cluster, request_bytes=0, response_bytes=0, envelope=None,
        attempts=attempts,
    )  # fmt: skip


def attempt(request_id: str, number: int) -> Attempt:
    return Attempt(exchange(request_id), number, "small")


def tried(told: Sequence[Exchange | Attempt]) -> dict[str, list[int]]:
    exchanges = [each for each in told if isinstance(each, Exchange)]
    return {each.request_id: [one.number for one in each.tried] for each in exchanges}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_exchange_has_what_was_told_of_it_before(size: int) -> None:
    entries = [attempt("a", 1), attempt("b", 1), attempt("a", 2), exchange("a"), exchange("b")]
    attempts = Attempts()
    told = [
        each
        for start in range(0, len(entries), size)
        for each in attempts.join(entries[start : start + size])
    ]
    assert tried(told) == {"a": [1, 2], "b": [1]}
    assert [each for each in told if isinstance(each, Attempt)] == entries[:3]


def test_within_a_message_the_order_does_not_matter() -> None:
    told = list(Attempts().join([exchange("a"), attempt("a", 2), attempt("a", 1)]))
    assert tried(told) == {"a": [1, 2]}
    assert isinstance(told[-1], Exchange)


def test_an_exchange_is_told_once_and_takes_its_attempts_along() -> None:
    attempts = Attempts()
    list(attempts.join([attempt("a", 1), exchange("a")]))
    assert tried(list(attempts.join([exchange("a")]))) == {"a": []}


def test_attempts_whose_exchange_never_comes_are_forgotten_the_oldest_first() -> None:
    attempts = Attempts(kept=3)
    list(attempts.join([attempt("a", 1), attempt("a", 2), attempt("b", 1), attempt("c", 1), attempt("d", 1)]))
    told = list(attempts.join([exchange(name) for name in "abcd"]))
    assert tried(told) == {"a": [], "b": [1], "c": [1], "d": [1]}


def test_an_exchange_that_lacks_an_attempt_is_held_until_it_comes() -> None:
    attempts = Attempts()
    assert tried(list(attempts.join([attempt("a", 1), exchange("a", attempts=2)]))) == {}
    assert attempts.held == {"a"}
    assert tried(list(attempts.join([exchange("b", attempts=1), attempt("b", 1)]))) == {"b": [1]}
    assert tried(list(attempts.join([attempt("a", 2)]))) == {"a": [1, 2]}
    assert attempts.held == frozenset()


def test_one_whose_attempt_never_comes_is_released_with_what_there_is() -> None:
    attempts = Attempts()
    list(attempts.join([attempt("a", 1), exchange("a", attempts=2)]))
    assert tried(list(attempts.release(["a", "b"]))) == {"a": [1]}
    assert tried(list(attempts.release(["a"]))) == {}


def test_an_exchange_that_met_no_hop_waits_for_none() -> None:
    entries = [
        exchange("a", attempts=3, cluster="model-small"),
        exchange("", cluster=""),
        exchange("", cluster=""),
    ]
    assert len(list(Attempts().join(entries))) == 3
