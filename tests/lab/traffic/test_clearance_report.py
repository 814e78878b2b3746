"""What the records prove of requests with labels, and what they do not."""

from datetime import timedelta

import msgspec
import pytest

from extproc.lab.store.record_store import Store
from extproc.lab.traffic.clearance_report import clearance_text, read_clearance
from extproc.registry.schema import Registry
from extproc.telemetry.rows import AttemptRow, ExchangeRow
from tests.lab.traffic.conftest import BEGIN, Put

REGISTRY = msgspec.convert(
    {
        "models": {
            "local": {"base_url": "http://127.0.0.1:1", "cleared_for": ["pii", "eu"]},
            "cheap": {"base_url": "http://127.0.0.1:2", "cleared_for": "eu"},
            "large": {"base_url": "http://127.0.0.1:3"},
        },
        "default": "local",
        "clearance": {"header": "x-labels"},
    },
    Registry,
)


def exchange(number: int, model: str, *labels: str, **fields: object) -> ExchangeRow:
    known = {
        "time": BEGIN + timedelta(minutes=number), "request_id": f"r{number}", "api": "openai.chat",
        "bypassed": False, "refused": False, "mode": "active", "attempts": 1, "labels": labels, "model": model,
    }  # fmt: skip
    return msgspec.convert(known | fields, ExchangeRow, strict=False)


def attempt(number: int, model: str, at: int = 1, **fields: object) -> AttemptRow:
    known = {"time": BEGIN, "request_id": f"r{number}", "attempt": at, "model": model, "api": "openai.chat"}
    return msgspec.convert(known | fields, AttemptRow, strict=False)


def test_traffic_that_obeyed_is_proven(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, "local", "pii"),
            exchange(2, "cheap", "eu", attempts=2, served_by="local"),
            attempt(2, "cheap", 1),
            attempt(2, "local", 2),
            exchange(3, "", "pii", refused=True, attempts=None, error="not_cleared"),
            exchange(4, "large"),
        ]
    )
    made = read_clearance(store, REGISTRY)
    assert (made.labelled, made.refused, made.breaches, made.unproven) == (3, 1, (), 0)
    assert clearance_text(made).splitlines() == [
        "3 exchanges with labels, 1 of them refused",
        "every model that is on record for them is cleared",
    ]


@pytest.mark.parametrize(
    ("rows", "role"),
    [
        ([exchange(1, "large", "eu")], "answer"),
        ([exchange(1, "cheap", "eu", "pii")], "answer"),
        ([exchange(1, "local", "eu", served_by="large")], "answer"),
        ([exchange(1, "gone", "eu")], "answer"),
        ([exchange(1, "local", "eu", attempts=2), attempt(1, "local"), attempt(1, "large", 2)], "attempt"),
        (
            [exchange(1, "local", "eu"), attempt(1, "local", second_model="large", second_outcome="timeout")],
            "second",
        ),
        ([exchange(1, "local", "eu", llm_model="large", llm_result="none")], "llm"),
    ],
)
def test_a_model_that_is_not_cleared_is_found_in_every_role(
    store: Store, put: Put, rows: list[ExchangeRow | AttemptRow], role: str
) -> None:
    put(rows)
    (breach,) = read_clearance(store, REGISTRY).breaches
    assert (breach.role, breach.request_id, breach.requests) == (role, "r1", 1)
    assert "NOT CLEARED" in clearance_text(read_clearance(store, REGISTRY))


def test_a_model_that_was_only_named_saw_nothing(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, "local", "eu", llm_model="large", llm_result="budget"),
            exchange(2, "local", "eu", llm_model="large", llm_result="matched", llm_cached=True),
            exchange(3, "local", "eu"),
            attempt(3, "local", second_model="large", second_outcome="not_cleared"),
        ]
    )
    assert read_clearance(store, REGISTRY).breaches == ()


def test_what_is_not_on_record_is_unproven(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, "", bypassed=True, mode="unknown"),
            exchange(2, "local", "eu", attempts=3),
            attempt(2, "local", 1),
        ]
    )
    made = read_clearance(store, REGISTRY)
    assert (made.bypassed, made.lost, made.unproven) == (1, 1, 2)
    assert clearance_text(made).count("unproven: 1 exchange") == 2


def test_in_mode_observe_a_breach_is_told_apart(store: Store, put: Put) -> None:
    put([exchange(1, "large", "eu", mode="observe")])
    made = read_clearance(store, REGISTRY)
    assert (made.breaches, [each.model for each in made.observed]) == ((), ["large"])
    assert "in mode observe" in clearance_text(made)


def test_only_the_window_counts(store: Store, put: Put) -> None:
    put([exchange(1, "large", "eu"), exchange(100, "local", "eu")])
    assert read_clearance(store, REGISTRY, BEGIN + timedelta(minutes=50)).labelled == 1
