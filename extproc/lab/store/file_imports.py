"""Rows from files: exchanges from Envoy's JSON access logs, and opinions such as users' feedback.

Envoy's access log has the same fields that Envoy streams to the sidecars. So the rows made here equal those
that the sidecars wrote, and loading both adds each row once.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, cast

import msgspec

from extproc.errors import OperatorError
from extproc.registry.registry_loading import load
from extproc.registry.schema import Telemetry
from extproc.telemetry.feedback_receiver import Feedback, row_of
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import EvaluationRow, ExchangeRow
from extproc.telemetry.sinks import outcome_of
from extproc.vocabulary import Version
from extproc.wire import access_log_file

_MARK = b'"kind":"' + access_log_file.KIND.encode() + b'"'
_LOOKED_AT = 20  # lines: the first ones of a file may be cut
_GZIP = b"\x1f\x8b"
_LINES = 100_000  # of one segment
_UNREADABLE = (OSError, EOFError, zlib.error)


class Pricing(msgspec.Struct, frozen=True):
    """What serving reads of the registry to make a row."""

    prices: Callable[[Version], PriceList] = lambda version: PriceList({})
    telemetry: Telemetry = Telemetry()

    @classmethod
    def of(cls, registries: list[Path]) -> "Pricing":
        """From registry files, the newest last. Raises ``OperatorError`` if one is invalid."""
        known: dict[Version, PriceList] = {}
        newest, telemetry = PriceList({}), Telemetry()
        for path in registries:
            loaded = load(path)
            newest = known[loaded.version] = PriceList.of(loaded.registry)
            telemetry = loaded.registry.telemetry
        return cls(lambda version: known.get(version, newest), telemetry)


class ImportCounts(msgspec.Struct):
    """What was read of one log so far; complete after its last segment."""

    lines: int = 0  # whole ones
    bad: list[tuple[int, str]] = []  # line number and problem
    torn: bool = False  # the last line is cut short: Envoy may be about to write the rest


def is_access_log(path: Path) -> bool:
    """Whether the file has lines of our access log; else it is a segment. Raises ``OperatorError``."""
    try:
        with _opened(path) as lines:
            return any(_MARK in line for line in islice(lines, _LOOKED_AT))
    except _UNREADABLE as error:
        raise OperatorError(f"{path}: cannot read it: {error}") from error


def segments_of(path: Path, pricing: Pricing, reading: ImportCounts, folder: Path) -> Iterator[Path]:
    """The log, gzipped or not, as segments in ``folder``. Each is deleted before the next is made.

    ``reading`` gets what cannot be read.
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
    """The row of a line, or None with the reason in ``reading``."""
    row = None
    try:
        row = outcome_of(access_log_file.exchange(line), pricing.prices, lambda _: pricing.telemetry).row
    except (ValueError, OverflowError) as problem:  # for example an invalid time
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


def feedback_in(path: Path, now: datetime) -> Iterator[EvaluationRow]:
    """The rows of a file of JSON lines, each a ``Feedback``. The same line twice is one opinion.

    Raises:
        OperatorError: a line cannot be used: ``file:line: what is wrong``.
    """
    decode = msgspec.json.Decoder(Feedback).decode
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield row_of(decode(line), now)
                    except (ValueError, msgspec.MsgspecError) as error:
                        raise OperatorError(f"{path}:{number}: {error}") from error
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
