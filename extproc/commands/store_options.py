"""What the commands on records share: which store, filled with what."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from extproc.errors import OperatorError

if TYPE_CHECKING:
    from extproc.lab.datasets import OutcomeRow, Reader
    from extproc.lab.store.file_imports import Pricing
    from extproc.lab.store.record_store import Store
    from extproc.lab.store.segment_loading import ImportedSegment
    from extproc.registry.labelled_rows import RouteRow

_BAD_LINES_PRINTED = 20  # of one file
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def takes_store(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add ``--store``."""
    parser.add_argument(
        "--store",
        required=required,
        metavar="PATH | clickhouse://HOST:8123/DATABASE",
        help="a directory of the embedded store (the `eval` extra), which an import makes, or a ClickHouse "
        "server (clickhouses:// with TLS; user and password in the address, or $CLICKHOUSE_PASSWORD)",
    )


def takes_segments(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Add ``SEGMENTS``."""
    parser.add_argument(
        "segments", nargs=nargs, type=Path, metavar="SEGMENT",
        help="a file of records, a directory of them as `extproc serve --records` writes, or a file that "
        "Envoy wrote by `envoy.access_log`",
    )  # fmt: skip
    parser.add_argument(
        "--registry", dest="priced_by", action="append", default=[], type=Path, metavar="FILE",
        help="for files that Envoy wrote: the registry with the prices of that time (of several, the "
        "newest last); without it what an exchange cost is not known",
    )  # fmt: skip


@contextmanager
def store_of(options: argparse.Namespace, *, writes: bool) -> Iterator["Store"]:
    """The store that was named, or one in memory, with the segments that were named in it.

    Reading from a server makes no table and no view there, so that it needs no right to.
    """
    from extproc.lab.store.record_store import is_server, open_store
    from extproc.lab.store.segment_loading import prepare

    segments = getattr(options, "segments", [])
    if options.store is None and not segments:
        raise OperatorError("nothing to read (expected --store, or segments)")
    if not (writes or segments or options.store is None or is_server(options.store)):
        _check_is_there(Path(options.store))
    with open_store(options.store) as store:
        if writes or segments or not is_server(options.store):
            prepare(store)
        # A store that ends with the command is asked by nobody else.
        load_all(store, segments, getattr(options, "priced_by", []), attributes=options.store is not None)
        yield store


def _check_is_there(store: Path) -> None:
    """Opening a store makes one, and a mistyped path would be an empty one."""
    if not (store / "metadata").is_dir():
        raise OperatorError(
            f"--store: there is no store at {store} (expected a directory that `extproc records import` made)"
        )


def load_all(
    store: "Store", paths: list[Path], registries: list[Path] | None = None, *, attributes: bool = True
) -> "ImportedSegment":
    """Load every segment and access log of the paths; lines that cannot be read are reported on stderr."""
    from extproc.lab.store.file_imports import Pricing, is_access_log
    from extproc.lab.store.segment_loading import ImportedSegment, load, segments_in

    total, pricing = ImportedSegment(), Pricing.of(registries or [])
    for path in segments_in(paths):
        if is_access_log(path):
            total += _load_access_log(store, path, pricing, attributes)
            continue
        loaded = load(store, path, attributes=attributes)
        if loaded.bad:
            _warn(f"{path}: {loaded.bad} lines are not records")
        total += loaded
    return total


Rows = tuple["Reader[RouteRow] | None", "Reader[OutcomeRow] | None"]


@contextmanager
def rows_of(options: argparse.Namespace) -> Iterator[Rows]:
    """What reads labelled rows and what reads outcomes: of ``--data`` and ``--outcomes``, else ``--store``.

    None where neither has any. Raises ``OperatorError`` for a store that has nothing of what no file gives.
    """
    from extproc.lab.datasets import outcomes_in, routes_in

    routes = None if options.data is None else routes_in(options.data)
    outcomes = None if options.outcomes is None else outcomes_in(options.outcomes)
    if options.store is None:
        yield routes, outcomes
        return
    from extproc.lab.store import recorded_rows

    with store_of(options, writes=False) as store:
        if routes is None and recorded_rows.has_routes(store):
            routes = recorded_rows.routes_recorded(store, options.store)
        if outcomes is None and recorded_rows.has_outcomes(store):
            outcomes = recorded_rows.outcomes_recorded(store, options.store)
        if routes is None and outcomes is None:
            raise OperatorError(
                f"{options.store} has no usable feedback (expected some named {recorded_rows.ROUTE}, "
                f"{' or '.join(recorded_rows.GRADES)}; `extproc feedback import` loads them)"
            )
        yield routes, outcomes


def _load_access_log(store: "Store", path: Path, pricing: "Pricing", attributes: bool) -> "ImportedSegment":
    from extproc.lab.store.file_imports import ImportCounts, segments_of
    from extproc.lab.store.segment_loading import ImportedSegment, load

    total, reading = ImportedSegment(), ImportCounts()
    with tempfile.TemporaryDirectory() as folder:
        for segment in segments_of(path, pricing, reading, Path(folder)):
            total += load(store, segment, attributes=attributes)
    for number, problem in reading.bad[:_BAD_LINES_PRINTED]:
        _warn(f"{path}:{number}: {problem}")
    if len(reading.bad) > _BAD_LINES_PRINTED:
        _warn(f"{path}: {len(reading.bad) - _BAD_LINES_PRINTED} more lines are not entries of our access log")
    if reading.torn:
        _warn(f"{path}: its last line is cut short (import it again when Envoy has written the rest)")
    return ImportedSegment(1, reading.lines, total.rows, total.known, total.bad + len(reading.bad))


def _warn(what: str) -> None:
    print(f"extproc: warning: {what}", file=sys.stderr)


def moment(text: str) -> datetime:
    """What ``--since`` takes: 30m, 24h, 7d, 2w back from now, or a date or time of ISO 8601 (UTC)."""
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} (expected 24h, 7d, or 2026-11-25T12:00)") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
