"""Routes and outcomes are read from what the store has: texts that were recorded, and opinions on them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.errors import OperatorError
from extproc.lab.datasets import OutcomeRow
from extproc.lab.store.record_store import Store, open_store
from extproc.lab.store.recorded_rows import (
    has_outcomes,
    has_routes,
    outcomes_recorded,
    routes_recorded,
    text_of,
)
from extproc.lab.store.segment_loading import load, prepare
from extproc.registry.labelled_rows import RouteRow
from extproc.telemetry.rows import AnyRow, AttemptRow, EvaluationRow, ExchangeRow, ShadowRow

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
ROUTES, MODELS = ("code", "chat"), ("small", "large")


def said(text: str) -> str:
    return msgspec.json.encode([{"role": "user", "parts": [{"type": "text", "content": text}]}]).decode()


def exchange(number: int, text: str | None, **fields: Any) -> ExchangeRow:
    known: dict[str, Any] = {"model": "small", "trace_id": f"{number:032x}", **fields}
    return ExchangeRow(
        time=NOON + timedelta(minutes=number), request_id=f"r{number}", api="openai.chat", bypassed=False,
        refused=False, input_messages=None if text is None else said(text), **known,
    )  # fmt: skip


def opinion(minute: int, request: int | None, name: str, **fields: Any) -> EvaluationRow:
    return EvaluationRow(
        time=NOON + timedelta(minutes=minute), request_id="" if request is None else f"r{request}",
        evaluation_id=f"e{minute}", name=name, **{"score": 1.0, **fields},
    )  # fmt: skip


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store(None) as opened:
        prepare(opened)
        yield opened


def put(store: Store, folder: Path, *rows: AnyRow) -> None:
    path = folder / "records-1.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    load(store, path)


def test_a_text_has_the_route_that_was_last_said_of_it_and_weighs_its_requests(
    store: Store, tmp_path: Path
) -> None:
    put(
        store,
        tmp_path,
        exchange(1, "fix it"),
        exchange(2, "fix it"),
        exchange(3, "rain?"),
        exchange(4, "hello"),
        exchange(5, None),
        opinion(10, 1, "route", label="chat"),
        opinion(11, 2, "route", label="code"),
        opinion(12, 3, "route", label="none"),
        opinion(13, 4, "route", label="code", score=0.0),  # says where it should not have gone
        opinion(14, 4, "feedback", label="chat"),
        opinion(15, 5, "route", label="code"),  # of a request without text
    )
    data = routes_recorded(store, "here")(ROUTES)
    assert data.rows == [RouteRow("fix it", "code", weight=2.0), RouteRow("rain?", None, weight=1.0)]
    assert data.name == "here"
    assert routes_recorded(store, "here")(ROUTES).version == data.version


def test_labels_that_are_no_route_are_left_out(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, exchange(1, "fix it"), opinion(10, 1, "route", label="gone"))
    with pytest.raises(OperatorError, match="label is one of code, chat or none"):
        routes_recorded(store, "here")(ROUTES)


def test_a_model_is_as_good_as_the_mean_of_what_was_said_of_its_answers(store: Store, tmp_path: Path) -> None:
    put(
        store,
        tmp_path,
        exchange(1, "fix it", output_tokens=10),
        exchange(2, "fix it", output_tokens=30, trace_id="f" * 32),
        exchange(3, "fix it", served_by="large", output_tokens=50),
        exchange(4, "hello", model="unknown"),
        opinion(10, 1, "feedback", score=1.0),
        opinion(11, None, "judge", score=0.5, trace_id="f" * 32),
        opinion(12, 3, "judge", score=0.9),
        opinion(13, 3, "route", label="code"),
        opinion(14, 4, "feedback", score=1.0),
        opinion(15, 3, "latency", score=0.0),  # another question
    )
    assert outcomes_recorded(store, "here")(MODELS).rows == [
        OutcomeRow("fix it", {"small": 0.75, "large": 0.9}, {"small": 20, "large": 50})
    ]


def test_answers_that_no_client_saw_count_for_the_models_that_gave_them(store: Store, tmp_path: Path) -> None:
    put(
        store,
        tmp_path,
        exchange(1, "fix it", model="large"),
        AttemptRow(time=NOON, request_id="r1", attempt=1, model="small", output_tokens=7),
        ShadowRow(time=NOON, request_id="r1", model="small", output_tokens=9),
        opinion(10, 1, "judge", score=0.0, subject="attempt", attempt=1),
        opinion(11, 1, "judge", score=0.5, subject="shadow", model="small"),
        opinion(12, 1, "judge", score=1.0),
        opinion(13, 1, "judge", score=1.0, subject="attempt", attempt=9),  # of an attempt that is not there
    )
    assert outcomes_recorded(store, "here")(MODELS).rows == [
        OutcomeRow("fix it", {"small": 0.25, "large": 1.0}, {"small": 8})
    ]


def test_an_empty_store_says_what_it_should_have(store: Store) -> None:
    assert (has_routes(store), has_outcomes(store)) == (False, False)
    with pytest.raises(
        OperatorError, match="here has no request with both a recorded text and an opinion on an answer"
    ):
        outcomes_recorded(store, "here")(MODELS)


def test_what_was_said_is_known_before_it_is_read(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, opinion(10, 1, "judge"), opinion(11, 1, "route", label="code"))
    assert (has_routes(store), has_outcomes(store)) == (True, True)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (said("hi"), "hi"),
        (
            '[{"role":"user","parts":[{"type":"text","content":"old"}]},{"role":"assistant","parts":[]},'
            '{"role":"user","parts":[{"type":"blob"},{"type":"text","content":"a"},{"type":"text","content":"b"}]}]',
            "a\nb",
        ),
        ('[{"role":"system","parts":[{"type":"text","content":"be nice"}]}]', ""),
        ('[{"role":"user","parts":[{"type":"text","content":"  "}]}]', ""),
        ('[{"role":"user","parts":[{"type":"text","content":null}]}]', ""),
        ('[{"role":"user","parts":"hi"}]', ""),
        ('[{"role":"user"}]', ""),
        ("[]", ""),
        ("{}", ""),
        ("not json", ""),
    ],
)
def test_the_text_is_that_of_the_latest_user_turn(messages: str, text: str) -> None:
    assert text_of(messages) == text
