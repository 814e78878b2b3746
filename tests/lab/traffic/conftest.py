"""Recorded traffic made to order: each call of ``traffic`` adds one slice to the store."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from extproc.lab.store.record_store import Store, open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.telemetry.rows import AnyRow, EvaluationRow, ExchangeRow

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 14


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store that vanishes."""
    with open_store(None) as opened:
        prepare(opened)
        yield opened


@pytest.fixture
def put(store: Store, tmp_path: Path) -> Callable[[list[AnyRow]], None]:
    """Loads rows."""
    numbers = itertools.count()

    def load_rows(rows: list[AnyRow]) -> None:
        path = tmp_path / f"records-{next(numbers)}.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        load(store, path)

    return load_rows


Traffic = Callable[..., None]


@pytest.fixture
def traffic(put: Callable[[list[AnyRow]], None]) -> Traffic:
    """Adds a slice: ``count`` exchanges evenly over two weeks, each judged.

    ``good`` and ``failed`` give the share of good opinions and of failures, by day; a number
    stands for every day. ``fields`` are those of each exchange.
    """
    numbers = itertools.count()

    def add(
        route: str,
        model: str,
        count: int,
        good: float | Callable[[int], float] | None = 0.95,
        failed: float | Callable[[int], float] = 0.0,
        **fields: object,
    ) -> None:
        rows: list[AnyRow] = []
        owed, broken = 0.0, 0.0
        for i in range(count):
            day = i * DAYS // count
            time = BEGIN + timedelta(days=DAYS) * i / count
            broken += failed if isinstance(failed, float) else failed(day)
            fails, broken = broken >= 1, broken - (broken >= 1)
            number = next(numbers)
            known = {
                "time": time, "request_id": f"r{number}", "api": "openai.chat", "route": route, "model": model,
                "error": "503" if fails else "", "failed": fails, "duration_ms": 100.0 + i % 100,
                "bypassed": False, "refused": False,
            }  # fmt: skip
            rows.append(msgspec.convert(known | fields, ExchangeRow, strict=False))
            if good is not None:
                owed += good if isinstance(good, float) else good(day)
                well, owed = owed >= 1, owed - (owed >= 1)
                opinion = EvaluationRow(
                    time=time,
                    request_id=f"r{number}",
                    evaluation_id=f"e{number}",
                    name="feedback",
                    score=float(well),
                )
                rows.append(opinion)
        put(rows)

    return add
