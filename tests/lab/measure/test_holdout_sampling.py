"""A holdout drawn from records shows doubtful and rare requests as often as easy and common ones."""

import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from extproc.errors import DataError, OperatorError
from extproc.exchanges import Envelope, Exchange
from extproc.lab.measure.holdout_sampling import Record, SampledSuggestion, even_shares, read_records, sample
from extproc.telemetry.row_building import row_of
from extproc.telemetry.rows import EvaluationRow


def said(text: str) -> str:
    """As the conventions' ``gen_ai.input.messages``."""
    return json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])


def record(text: str, route: str, margin: float) -> Record:
    return Record(input_messages=said(text), route=route, margin=margin)


def traffic() -> list[Record]:
    """900 sure requests of one route, 20 doubtful ones of it, 30 of another, 40 that abstained."""
    kinds = [("code", 0.9, 900), ("code", 0.1, 20), ("greeting", 0.8, 30), ("", 0.05, 40)]
    return [
        record(f"{route or 'none'} {margin} {i}", route, margin)
        for route, margin, count in kinds
        for i in range(count)
    ]


def test_every_stratum_gets_its_share_and_small_ones_leave_theirs_to_others() -> None:
    drawn = sample(traffic(), 120, seed=1)
    found = Counter((row.decided, row.margin) for row in drawn)
    # The doubtful twenty and the rare thirty are all there; the others share what these left.
    assert found == {("code", 0.9): 35, ("code", 0.1): 20, ("greeting", 0.8): 30, ("", 0.05): 35}
    assert len({row.text for row in drawn}) == 120


def test_weights_add_up_to_the_traffic() -> None:
    drawn = sample(traffic(), 60, seed=1)
    assert sum(row.weight for row in drawn) == pytest.approx(990, rel=1e-3)
    common = [row.weight for row in drawn if row.margin == 0.9]
    assert common == [pytest.approx(900 / len(common), abs=1e-3)] * len(common)


def test_a_text_that_came_often_is_drawn_once_and_weighs_more() -> None:
    records = [record("hi", "greeting", 0.9)] * 50 + [record("fix", "code", 0.9)]
    drawn = {row.text: row.weight for row in sample(records, 10, seed=0)}
    assert drawn == {"hi": 50.0, "fix": 1.0}


def test_the_draw_follows_its_seed_and_mixes_the_strata() -> None:
    first, again, other = (sample(traffic(), 40, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    order = [row.decided for row in first]
    assert order != sorted(order)


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 60))
def test_shares_are_even_but_for_what_a_stratum_cannot_hold(sizes: list[int], total: int) -> None:
    shares = even_shares(sizes, total)
    assert sum(shares) == min(total, sum(sizes))
    for share, size in zip(shares, sizes, strict=True):
        assert share == size or share >= max(shares) - 1


def exchange(prompt: str, **decided: object) -> bytes:
    """The record of an exchange, made and written as `serve` does it."""
    envelope = Envelope(api="openai.chat", route="code", stage="embedding", margin=0.5, prompt=prompt)
    made = Exchange(
        request_id="7f2c", started_at=1.0, duration=1.0, first_byte=0.5, status=200, flags=(), method="POST",
        path="/v1/chat/completions", cluster="c", request_bytes=1, response_bytes=1,
        envelope=replace(envelope, **decided),
    )  # fmt: skip
    return msgspec.json.encode(row_of(made)) + b"\n"


def test_records_are_read_as_serve_writes_them_but_for_pins_and_other_kinds(tmp_path: Path) -> None:
    opinion = EvaluationRow(
        time=datetime(2026, 11, 25, tzinfo=UTC), request_id="7f2c", evaluation_id="e", name="feedback"
    )
    lines = b"".join(
        [
            exchange('fix "it"'),
            exchange("pinned", stage="pin", margin=None),
            exchange(""),
            msgspec.json.encode(opinion) + b"\n",
        ]
    )
    plain, zipped = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_bytes(lines)
    zipped.write_bytes(gzip.compress(lines))
    read = read_records([plain, zipped])
    assert [(each.text, each.route, each.margin, each.request_id) for each in read] == [
        ('fix "it"', "code", 0.5, "7f2c")
    ] * 2


def test_what_somebody_else_wrote_as_messages_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"kind": "exchange", "input_messages": "hi"}\n')
    with pytest.raises(OperatorError, match="none of the 1 exchanges"):
        read_records([path])


def test_records_without_text_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"kind": "exchange", "route": "code"}\n' * 3)
    with pytest.raises(OperatorError, match="none of the 3 exchanges recorded there carries the text"):
        read_records([path])


def test_a_damaged_record_is_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"kind": "exchange", "route": "a"}\n{"kind": "exch')
    with pytest.raises(DataError, match=r"records.jsonl:2: not JSON"):
        read_records([path])


def test_what_an_llm_answered_is_drawn_with_its_answer_as_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(
        exchange("one", stage="llm", llm_result="matched", llm_why="it names a bug", margin=0.02)
        + exchange("two", stage="default", route="", llm_result="none", margin=0.03)
        + exchange("three", stage="default", route="", llm_result="budget", margin=0.03)
        + exchange("four", llm_result="")
        + exchange("", stage="llm", llm_result="matched")
    )
    drawn = sample(read_records([path], suggested=True), 10, seed=0, suggested=True)
    assert sorted(drawn, key=lambda row: row.text) == [
        SampledSuggestion("one", 1.0, "code", 0.02, "7f2c", suggested="code", why="it names a bug"),
        SampledSuggestion("two", 1.0, "", 0.03, "7f2c", suggested=None, why=""),
    ]
    assert not any(isinstance(row, SampledSuggestion) for row in sample(read_records([path]), 10, seed=0))


def test_suggestions_need_an_llm_that_answered_and_recorded_text(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(exchange("one", llm_result="timeout"))
    with pytest.raises(OperatorError, match="no exchange recorded there was decided with an LLM's answer"):
        read_records([path], suggested=True)
    path.write_bytes(exchange("", llm_result="matched"))
    with pytest.raises(OperatorError, match="none of the 1 exchanges recorded there carries the text"):
        read_records([path], suggested=True)
