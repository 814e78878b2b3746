"""How long the store takes: loading made-up records, and every query of the report, on this machine.

`python benchmarks/store.py --count 1000000` prints a table for RESULTS.md. Nothing else should run.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks import records
from extproc.lab.store.record_store import Store, open_store
from extproc.lab.store.segment_loading import ImportedSegment, load, prepare
from extproc.lab.traffic import traffic_queries
from extproc.lab.traffic.traffic_page import as_page
from extproc.lab.traffic.traffic_reading import read_report
from extproc.lab.traffic.traffic_report import BUCKETS, TrafficReport

T = TypeVar("T")


class Seconds(NamedTuple):
    """What a step took: by the clock, and of all threads together."""

    wall: float
    cpu: float


_REPEATS = 3  # of a query; the middle one counts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="exchanges (default: %(default)s)")
    parser.add_argument("--directory", type=Path, help="keep segments and store there (default: nowhere)")
    options = parser.parse_args()
    kept: AbstractContextManager[str] = (
        tempfile.TemporaryDirectory() if options.directory is None else nullcontext(str(options.directory))
    )
    with kept as folder:
        _measure(Path(folder), options.count)


def _measure(folder: Path, count: int) -> None:
    segments = records.write(folder / "segments", count)
    size = sum(path.stat().st_size for path in segments)
    print(f"{count:,} exchanges, {len(segments)} segments, {size / 2**20:,.0f} MiB; {platform.platform()}\n")
    print("| step | seconds | of CPU |\n|---|---|---|")
    with open_store(str(folder / "store")) as store:
        prepare(store)
        loaded, seconds = _timed(lambda: _load_all(store, segments))
        pace = f"{loaded.rows / seconds.wall:,.0f} a second"
        _row(f"load {loaded.rows:,} rows into an empty store ({pace})", seconds)
        again, seconds = _timed(lambda: _load_all(store, segments))
        _row(f"load them again ({again.rows} new)", seconds)
        _measure_queries(store)
        made, seconds = _timed(lambda: _report(store))
        _row("the whole report", seconds)
        page, seconds = _timed(lambda: as_page(made))
        _row(f"its HTML page ({len(page.encode()) / 1024:.0f} KiB)", seconds)
    with open_store(None) as memory:
        prepare(memory)
        _, seconds = _timed(lambda: (_load_all(memory, segments, attributes=False), _report(memory)))
        _row("the report straight from segments, without a store", seconds)
    stored = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    print(f"\nThe store takes {stored / 2**20:,.0f} MiB on disk.")


def _measure_queries(store: Store) -> None:
    (window,) = store.rows(traffic_queries.WINDOW, {"since": 0})
    given = {"since": window["begin"], "step": (window["end"] - window["begin"]) // BUCKETS + 1}
    for name, query in traffic_queries.ALL.items():
        ask = partial(store.rows, query, given)
        taken = sorted((_timed(ask)[1] for _ in range(_REPEATS)), key=lambda seconds: seconds.wall)
        _row(f"query: {name}", taken[_REPEATS // 2])


def _load_all(store: Store, segments: Sequence[Path], *, attributes: bool = True) -> ImportedSegment:
    return sum((load(store, segment, attributes=attributes) for segment in segments), ImportedSegment())


def _report(store: Store) -> TrafficReport:
    made = read_report(store)
    assert made is not None
    return made


def _timed(work: Callable[[], T]) -> tuple[T, Seconds]:
    wall, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _row(name: str, seconds: Seconds) -> None:
    print(f"| {name} | {seconds.wall:.2f} | {seconds.cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
