from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.records import write
from extproc.telemetry.rows import AnyRow, ExchangeRow, kind_of


def test_the_same_count_gives_the_same_bytes(tmp_path: Path) -> None:
    (first,), (second,) = write(tmp_path / "a", 500), write(tmp_path / "b", 500)
    assert first.read_bytes() == second.read_bytes()


def test_made_up_records_are_of_every_kind_and_read_as_rows(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 2000)
    rows = [msgspec.json.decode(line, type=AnyRow) for line in path.read_bytes().splitlines()]
    kinds = Counter(kind_of(row) for row in rows)
    assert kinds["exchange"] == 2000
    assert kinds.keys() == {"exchange", "attempt", "evaluation", "shadow"}
    exchanges = [row for row in rows if isinstance(row, ExchangeRow)]
    assert len({row.request_id for row in exchanges}) == 2000
    assert all((row.cost_usd is None) == row.failed for row in exchanges)
