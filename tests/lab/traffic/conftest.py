"""Recorded traffic made to order: each call of ``traffic`` adds one slice to the store."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from extproc.lab.store.record_store import Store, open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.lab.store.store_schema import TABLE
from extproc.telemetry.rows import AnyRow, EvaluationRow, ExchangeRow

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 14


Put = Callable[[list[AnyRow]], None]
Traffic = Callable[..., None]


@pytest.fixture(scope="module")
def opened() -> Iterator[Store]:
    """A store that vanishes."""
    with open_store(None) as opened:
        prepare(opened)
        yield opened


@pytest.fixture
def store(opened: Store) -> Store:
    """The module's store without rows. To open one takes longer than most tests."""
    return emptied(opened)


def emptied(store: Store) -> Store:
    store.run(f"TRUNCATE TABLE {TABLE}")
    return store


@pytest.fixture
def put(store: Store, tmp_path: Path) -> Put:
    """Loads rows."""
    return put_into(store, tmp_path)


@pytest.fixture
def traffic(put: Put) -> Traffic:
    """See ``traffic_by``."""
    return traffic_by(put)


def put_into(store: Store, folder: Path) -> Put:
    """Loads rows into the store from segments that it writes into the folder."""
    numbers = itertools.count()

    def load_rows(rows: list[AnyRow]) -> None:
        path = folder / f"records-{next(numbers)}.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        load(store, path)

    return load_rows


def traffic_by(put: Put) -> Traffic:
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
