"""Reading labelled data: JSON lines, with every mistake told by file and line.

Two formats, either of them gzipped or not; other keys in a row are left alone:

    routes    {"text": ..., "route": NAME or null, "group": NAME, "weight": NUMBER}
    outcomes  {"text": ..., "outcomes": {MODEL: 0..1}, "tokens": {MODEL: COUNT}}

A route of null should abstain. The rest is optional: ``group`` is the same for rows that mean the
same, ``weight`` is the number of requests that a sampled row stands for, ``tokens`` is the length of
each model's answer.
"""

import difflib
import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from extproc.errors import DataError
from extproc.evaluation.metrics import ABSTAIN, Labels
from extproc.registry.loading import plain

R = TypeVar("R")
Text = Annotated[str, Meta(min_length=1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_GZIP = b"\x1f\x8b"
_AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?$", re.DOTALL)


class RouteRow(msgspec.Struct, frozen=True):
    """One text and where it should go."""

    text: Text
    route: str | None  # None: out of scope, should abstain
    group: str = ""  # texts of one group mean the same; empty: none
    weight: Annotated[float, Meta(gt=0.0)] = 1.0  # requests that it stands for


class OutcomeRow(msgspec.Struct, frozen=True):
    """One text and how well each model answered it."""

    text: Text
    outcomes: Annotated[dict[str, Share], Meta(min_length=1)]  # by model's public name
    tokens: dict[str, Annotated[int, Meta(ge=0)]] = {}  # of each model's answer


def read_routes(path: Path, known: Collection[str]) -> list[RouteRow]:
    """The rows of a routes file; every route in it must be ``known``. Raises ``DataError``."""
    rows = []
    for line, row in _rows(path, RouteRow):
        if row.route is not None and row.route not in known:
            raise DataError(str(path), line, _unknown("route", row.route, known) + ", or null")
        rows.append(row)
    return _some(path, rows)


def read_outcomes(path: Path, known: Collection[str]) -> list[OutcomeRow]:
    """The rows of an outcomes file; every model in it must be ``known``. Raises ``DataError``."""
    rows = []
    for line, row in _rows(path, OutcomeRow):
        for model in (*row.outcomes, *row.tokens):
            if model not in known:
                raise DataError(str(path), line, _unknown("model", model, known))
        rows.append(row)
    return _some(path, rows)


def labels_of(rows: Sequence[RouteRow], routes: Sequence[str]) -> Labels:
    """Each row's route as its place in ``routes``, `metrics.ABSTAIN` where it has none."""
    place = {route: number for number, route in enumerate(routes)}
    return np.array([ABSTAIN if row.route is None else place[row.route] for row in rows], np.intp)


def printable(text: str) -> str:
    """The text without what could steer a terminal: whoever wrote a prompt must not write on a screen."""
    lines = text.replace("\r\n", "\n")
    return "".join(mark if mark.isprintable() or mark in "\n\t" else "\ufffd" for mark in lines)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, numbered from 1; gzipped or not. Raises ``DataError``."""
    number = 0
    try:
        with path.open("rb") as file:
            zipped = file.peek(len(_GZIP)).startswith(_GZIP)
            for number, line in enumerate(gzip.GzipFile(fileobj=file) if zipped else file, start=1):
                text = line.decode("utf-8-sig")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(str(path), number, f"not UTF-8: {error.reason}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(str(path), number + 1, f"cannot read it: {reason}") from error


def parse(path: Path, line: int, text: str, kind: type[R]) -> R:
    """One line as a row of ``kind``. Raises ``DataError``."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(str(path), line, _in_words(error)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(str(path), line, f"not JSON: {error} (expected one object a line)") from error


def _rows(path: Path, kind: type[R]) -> Iterator[tuple[int, R]]:
    for line, text in lines_of(path):
        yield line, parse(path, line, text, kind)


def _some(path: Path, rows: list[R]) -> list[R]:
    if not rows:
        raise DataError(str(path), 1, "there are no rows (expected one JSON object a line)")
    return rows


def _in_words(error: msgspec.ValidationError) -> str:
    parts = _AT.match(str(error))
    assert parts is not None  # the pattern matches any text
    problem = plain(parts["problem"])
    if problem == "missing key `route`":
        problem += " (expected a route's name or null; `extproc holdout label` asks for the missing ones)"
    return f"{parts['path']}: {problem}" if parts["path"] else problem


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return f"there is no {what} `{name}` in the registry ({hint}expected one of: {', '.join(known)})"
