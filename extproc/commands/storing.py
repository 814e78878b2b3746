"""What the commands on records share: which store, filled with what."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from extproc.errors import OperatorError

if TYPE_CHECKING:
    from extproc.evaluation.datasets import OutcomeRow, Reader
    from extproc.evaluation.store.connection import Store
    from extproc.evaluation.store.loading import Loaded
    from extproc.registry.labelled import RouteRow

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def takes_store(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add ``--store``."""
    parser.add_argument(
        "--store",
        required=required,
        metavar="PATH | clickhouse://HOST:8123/DATABASE",
        help="a directory of the embedded store (the `eval` extra), made when absent, or a ClickHouse server "
        "(clickhouses:// with TLS; user and password in the address, or $CLICKHOUSE_PASSWORD)",
    )


def takes_segments(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Add ``SEGMENTS``."""
    parser.add_argument(
        "segments", nargs=nargs, type=Path, metavar="SEGMENT",
        help="a file of records, or a directory of them as `extproc serve --records` writes",
    )  # fmt: skip


@contextmanager
def store_of(options: argparse.Namespace, *, writes: bool) -> Iterator["Store"]:
    """The store that was named, or one in memory, with the segments that were named in it.

    Reading from a server makes no table and no view there, so that it needs no right to.
    """
    from extproc.evaluation.store.connection import is_server, open_store
    from extproc.evaluation.store.loading import prepare

    segments = getattr(options, "segments", [])
    if options.store is None and not segments:
        raise OperatorError("nothing to read (expected --store, or segments)")
    with open_store(options.store) as store:
        if writes or segments or not is_server(options.store):
            prepare(store)
        load_all(store, segments)
        yield store


def load_all(store: "Store", paths: list[Path]) -> "Loaded":
    """Load every segment that the paths name; what cannot be read is told on stderr."""
    from extproc.evaluation.store.loading import Loaded, load, segments_in

    total = Loaded()
    for segment in segments_in(paths):
        loaded = load(store, segment)
        if loaded.bad:
            print(f"extproc: warning: {segment}: {loaded.bad} lines are no records", file=sys.stderr)
        total += loaded
    return total


Rows = tuple["Reader[RouteRow] | None", "Reader[OutcomeRow] | None"]


@contextmanager
def rows_of(options: argparse.Namespace) -> Iterator[Rows]:
    """What reads labelled rows and what reads outcomes: of ``--data`` and ``--outcomes``, else ``--store``.

    None where neither has any. Raises ``OperatorError`` for a store that has nothing of what no file gives.
    """
    from extproc.evaluation.datasets import outcomes_in, routes_in

    routes = None if options.data is None else routes_in(options.data)
    outcomes = None if options.outcomes is None else outcomes_in(options.outcomes)
    if options.store is None:
        yield routes, outcomes
        return
    from extproc.evaluation import recorded

    with store_of(options, writes=False) as store:
        if routes is None and recorded.has_routes(store):
            routes = recorded.routes_recorded(store, options.store)
        if outcomes is None and recorded.has_outcomes(store):
            outcomes = recorded.outcomes_recorded(store, options.store)
        if routes is None and outcomes is None:
            raise OperatorError(
                f"{options.store} has no opinions (expected some by the name of {recorded.ROUTE}, "
                f"{' or '.join(recorded.GRADES)}; `extproc feedback import` loads them)"
            )
        yield routes, outcomes


def moment(text: str) -> datetime:
    """What ``--since`` takes: 30m, 24h, 7d, 2w back from now, or a date or time of ISO 8601 (UTC)."""
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} (expected 24h, 7d, or 2026-11-25T12:00)") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
