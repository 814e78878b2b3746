"""Read labelled data: JSON lines, whose errors name the file and the line.

There are four formats. A file may be gzipped. Other keys in a row are ignored:

    routes    {"text": ..., "route": NAME or null, "group": NAME, "weight": NUMBER, "language": NAME}
    outcomes  {"text": ..., "outcomes": {MODEL: 0..1}, "tokens": {MODEL: COUNT}, "set": NAME}
    safety    {"text": ..., "label": CLASS or null, "set": NAME}
    arena     {"prompt": ..., "scores": {MODEL: 0..1}, "costs": {MODEL: DOLLARS}, "accepted": {MODEL: BOOL}}

A row whose route is null should abstain, and one whose label is null is ordinary. ``group``, ``weight``,
``language``, ``tokens`` and ``set`` are optional. Rows with the same meaning have the same ``group``, and
prompts of one kind the same ``set``. ``weight`` is the number of requests that a sampled row stands for.
``tokens`` is the length of each model's answer.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Generic

import msgspec
import numpy as np
from msgspec import Meta

from extproc.errors import DataError
from extproc.lab.measure.classification_metrics import ABSTAIN, Labels
from extproc.registry.labelled_rows import R, RouteRow, Text, check_route, parse, unknown

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_GZIP = b"\x1f\x8b"


class OutcomeRow(msgspec.Struct, frozen=True):
    """One text and how well each model answered it."""

    text: Text
    outcomes: Annotated[dict[str, Share], Meta(min_length=1)]  # by model's public name
    tokens: dict[str, Annotated[int, Meta(ge=0)]] = {}  # of each model's answer
    set: str = ""  # the kind of prompt or the source; kinds are left out one by one to measure


class SafetyRow(msgspec.Struct, frozen=True):
    """One text and the class of harm that it belongs to."""

    text: Text
    label: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")] | None  # None: it is ordinary
    set: str = ""  # the source; of ordinary rows, each set keeps the budget of false positives


class Dataset(msgspec.Struct, Generic[R], frozen=True):
    """Rows and their source."""

    name: str
    version: str  # 12 hexadecimal digits of the SHA-256 of the data
    rows: Sequence[R]


class ArenaRow(msgspec.Struct, frozen=True):
    """One prompt of RouterArena's format, and each model's score and cost."""

    prompt: Text
    scores: Annotated[dict[str, Share], Meta(min_length=1)]  # by model's public name
    costs: dict[str, Annotated[float, Meta(ge=0.0)]]  # US dollars of one call, by model
    accepted: dict[str, bool] = {}  # whether a cascade's gate keeps the model's answer


# Reads rows, given the names that are allowed in them. Raises ``DataError`` or ``OperatorError``.
Reader = Callable[[Collection[str]], Dataset[R]]


def routes_in(path: Path) -> Reader[RouteRow]:
    """A reader of a routes file."""
    return lambda known: Dataset(str(path), _version(path), read_routes(path, known))


def outcomes_in(path: Path) -> Reader[OutcomeRow]:
    """A reader of an outcomes file."""
    return lambda known: Dataset(str(path), _version(path), read_outcomes(path, known))


def read_routes(path: Path, known: Collection[str]) -> list[RouteRow]:
    """The rows of a routes file; every route in it must be ``known``. Raises ``DataError``."""
    rows = []
    for line, row in _rows(path, RouteRow):
        check_route(path, line, row, known)
        rows.append(row)
    return _some(path, rows)


def read_outcomes(path: Path, known: Collection[str]) -> list[OutcomeRow]:
    """The rows of an outcomes file; every model in it must be ``known``. Raises ``DataError``."""
    rows = []
    for line, row in _rows(path, OutcomeRow):
        for model in (*row.outcomes, *row.tokens):
            if model not in known:
                raise DataError(str(path), line, unknown("model", model, known))
        rows.append(row)
    return _some(path, rows)


def safety_in(path: Path) -> Reader[SafetyRow]:
    """A reader of a safety file. Its rows need no names that are known."""
    return lambda _: Dataset(
        str(path), _version(path), _some(path, [row for _, row in _rows(path, SafetyRow)])
    )


def arena_in(path: Path) -> Reader[ArenaRow]:
    """A reader of a RouterArena file."""
    return lambda known: Dataset(str(path), _version(path), read_arena(path, known))


def read_arena(path: Path, known: Collection[str]) -> list[ArenaRow]:
    """The rows of a RouterArena file. Each has a score and a cost of the same models, all ``known``.

    Raises ``DataError``.
    """
    rows: list[ArenaRow] = []
    for line, row in _rows(path, ArenaRow):
        for model in (*row.scores, *row.costs, *row.accepted):
            if model not in known:
                raise DataError(str(path), line, unknown("model", model, known))
        models = set(rows[0].scores if rows else row.scores)
        for name, given in (("scores", row.scores), ("costs", row.costs)):
            if set(given) != models:
                different = ", ".join(sorted(models ^ set(given)))
                raise DataError(
                    str(path),
                    line,
                    f"{name}: expected the models of the first row's `scores`; look at {different}",
                )
        rows.append(row)
    return _some(path, rows)


def labels_of(rows: Sequence[RouteRow], routes: Sequence[str]) -> Labels:
    """Each row's route as its place in ``routes``, `metrics.ABSTAIN` where it has none."""
    place = {route: number for number, route in enumerate(routes)}
    return np.array([ABSTAIN if row.route is None else place[row.route] for row in rows], np.intp)


def printable(text: str) -> str:
    """The text without control characters, so that a prompt cannot control the terminal."""
    lines = text.replace("\r\n", "\n")
    return "".join(mark if mark.isprintable() or mark in "\n\t" else "\ufffd" for mark in lines)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, gzipped or not, with their numbers from 1. Blank lines are skipped.

    Raises ``DataError``.
    """
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
        reason = getattr(error, "strerror", None)
        at = None if reason and not number else number + 1
        raise DataError(str(path), at, f"cannot read it: {reason or error}") from error


def _version(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise DataError(str(path), None, f"cannot read it: {error.strerror}") from error


def _rows(path: Path, kind: type[R]) -> Iterator[tuple[int, R]]:
    for line, text in lines_of(path):
        yield line, parse(path, line, text, kind)


def _some(path: Path, rows: list[R]) -> list[R]:
    if not rows:
        raise DataError(str(path), 1, "there are no rows (expected one JSON object a line)")
    return rows
