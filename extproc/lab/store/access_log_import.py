"""Envoy's JSON access logs become segments of records, which are then loaded like any other.

What the sidecars were told by Envoy's stream and what Envoy wrote to the file is the same, field by
field, so the rows made here are those that the sidecars wrote, and loading leaves them out.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, cast

import msgspec

from extproc.errors import OperatorError
from extproc.registry.registry_loading import load
from extproc.registry.schema import Telemetry
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import ExchangeRow
from extproc.telemetry.sinks import outcome_of
from extproc.vocabulary import Version
from extproc.wire import access_log_file

_MARK = b'"kind":"' + access_log_file.KIND.encode() + b'"'
_LOOKED_AT = 20  # lines: the first ones of a file may be torn
_GZIP = b"\x1f\x8b"
_LINES = 100_000  # of one segment
_UNREADABLE = (OSError, EOFError, zlib.error)


class Pricing(msgspec.Struct, frozen=True):
    """What serving knew of the registry when it made a row."""

    prices: Callable[[Version], PriceList] = lambda version: PriceList({})
    telemetry: Telemetry = Telemetry()

    @classmethod
    def of(cls, registries: list[Path]) -> "Pricing":
        """From registry files, the newest last. Raises ``OperatorError`` when one cannot be used."""
        known: dict[Version, PriceList] = {}
        newest, telemetry = PriceList({}), Telemetry()
        for path in registries:
            loaded = load(path)
            newest = known[loaded.version] = PriceList.of(loaded.registry)
            telemetry = loaded.registry.telemetry
        return cls(lambda version: known.get(version, newest), telemetry)


class ImportCounts(msgspec.Struct):
    """What was met in one log so far; complete when its last segment has been taken."""

    lines: int = 0  # whole ones
    bad: list[tuple[int, str]] = []  # number and what is wrong
    torn: bool = False  # the last line is cut short: Envoy may be about to write the rest


def is_access_log(path: Path) -> bool:
    """Whether these are lines of our access log, and no segment. Raises ``OperatorError``."""
    try:
        with _opened(path) as lines:
            return any(_MARK in line for line in islice(lines, _LOOKED_AT))
    except _UNREADABLE as error:
        raise OperatorError(f"{path}: it cannot be read: {error}") from error


def segments_of(path: Path, pricing: Pricing, reading: ImportCounts, folder: Path) -> Iterator[Path]:
    """The log at ``path``, gzipped or not, as segments in ``folder``, each gone when the next is asked for.

    Whatever cannot be read is in ``reading``.
    """
    encode = msgspec.json.Encoder().encode
    rows = _rows(path, pricing, reading)
    segment = folder / f"records-{path.name}.jsonl"
    while chunk := list(islice(rows, _LINES)):
        segment.write_bytes(b"".join(encode(row) + b"\n" for row in chunk))
        yield segment
        segment.unlink()


def _rows(path: Path, pricing: Pricing, reading: ImportCounts) -> Iterator[ExchangeRow]:
    with _opened(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                row = _row(number, line, pricing, reading)
                if row is not None:
                    yield row
        except _UNREADABLE as error:
            reading.bad.append((reading.lines + 1, f"the file cannot be read any further: {error}"))


def _row(number: int, line: bytes, pricing: Pricing, reading: ImportCounts) -> ExchangeRow | None:
    """What a line tells, or None, with the reason in ``reading``."""
    row = None
    try:
        row = outcome_of(access_log_file.exchange(line), pricing.prices, lambda _: pricing.telemetry).row
    except (ValueError, OverflowError) as problem:  # a time that is none, at worst
        if not line.endswith(b"\n"):
            reading.torn = True
            return None
        reading.bad.append((number, str(problem)))
    reading.lines += 1
    return row


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        zipped = raw.read(len(_GZIP)) == _GZIP
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")
