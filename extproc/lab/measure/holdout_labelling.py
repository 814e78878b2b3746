"""Label a holdout by hand: a state machine of keys, and the file that keeps the labels.

Each label is written into the file at once, as the row's ``route``, so stopping loses nothing, and `eval` and
`diff` read the finished file. The router's decision is not shown, because it would influence the label. Only
a file that was drawn to be confirmed has suggestions, and one key takes over a suggestion as the label.
"""

import string
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from extproc.errors import DataError, OperatorError
from extproc.lab.datasets import lines_of
from extproc.registry.labelled_rows import parse

UNDO, SKIP, QUIT, OUTSIDE = "u", "s", "q", "0"
CONFIRM = "."
_ROUTE_KEYS = [
    key for key in string.digits + string.ascii_lowercase if key not in (UNDO, SKIP, QUIT, OUTSIDE)
]

Row = dict[str, Any]


class Effect(StrEnum):
    """The effect of a key."""

    LABELLED = "labelled"
    SKIPPED = "skipped"
    UNDONE = "undone"
    NOTHING_TO_UNDO = "nothing to undo"
    QUIT = "quit"
    UNKNOWN = "unknown key"


class Label(msgspec.Struct, frozen=True):
    """The route of a row, as a key or a suggestion says."""

    route: str | None  # None: out of scope
    why: str = ""  # the suggestion's reason


class Session:
    """One session over the rows without a label. It uses no file and no terminal."""

    def __init__(self, rows: Sequence[Row], keys: Mapping[str, str | None]) -> None:
        """``keys`` has the route of each key; None is out of scope. Labels go into ``rows``."""
        self._rows = rows
        self._keys = keys
        self._waiting = [i for i, row in enumerate(rows) if "route" not in row]
        self._passed: list[int] = []  # labelled or skipped in this session, the latest last

    @property
    def current(self) -> str | None:
        """The text to label; None when all are done."""
        return str(self._rows[self._waiting[0]]["text"]) if self._waiting else None

    @property
    def suggestion(self) -> Label | None:
        """What an LLM suggests for the text to label; None without a suggestion, or if its route is gone."""
        row = self._rows[self._waiting[0]] if self._waiting else {}
        if "suggested" not in row or row["suggested"] not in self._keys.values():
            return None
        return Label(row["suggested"], str(row.get("why", "")))

    def label_of(self, key: str) -> Label | None:
        """The label that a key gives to the text to label; None if it gives none."""
        if key == CONFIRM:
            return self.suggestion
        return Label(self._keys[key]) if key in self._keys else None

    @property
    def labelled(self) -> int:
        """The number of rows with a label."""
        return sum("route" in row for row in self._rows)

    @property
    def can_undo(self) -> bool:
        """Whether this session has a key to undo."""
        return bool(self._passed)

    def press(self, key: str) -> Effect:
        """Apply one key. When all rows have labels, only undo and quit have an effect."""
        if key == QUIT:
            return Effect.QUIT
        if key == UNDO:
            return self._undo()
        label = self.label_of(key)
        if not self._waiting or (key != SKIP and label is None):
            return Effect.UNKNOWN
        row = self._waiting.pop(0)
        self._passed.append(row)
        if label is None:
            return Effect.SKIPPED
        self._rows[row]["route"] = label.route
        return Effect.LABELLED

    def _undo(self) -> Effect:
        if not self._passed:
            return Effect.NOTHING_TO_UNDO
        row = self._passed.pop()
        self._rows[row].pop("route", None)
        self._waiting.insert(0, row)
        return Effect.UNDONE


def keys_of(routes: Sequence[str]) -> dict[str, str | None]:
    """A key for each route, 1 to 9 and then letters, and 0 for out of scope. Raises ``OperatorError``."""
    if len(routes) > len(_ROUTE_KEYS):
        raise OperatorError(
            f"there are {len(routes)} routes and keys for {len(_ROUTE_KEYS)}: label this file in an editor"
        )
    return {**dict(zip(_ROUTE_KEYS, routes, strict=False)), OUTSIDE: None}


def read_rows(path: Path, known: Sequence[str]) -> list[Row]:
    """The rows with all their members, with or without a label. Raises ``DataError``."""
    if path.suffix == ".gz":
        raise DataError(str(path), 1, "labels are written into the file (expected one that is not gzipped)")
    rows: list[Row] = []
    for line, text in lines_of(path):
        row = parse(path, line, text, dict[str, Any])
        if not isinstance(row.get("text"), str) or not row["text"]:
            raise DataError(str(path), line, "text: expected words to label")
        if row.get("route") is not None and row["route"] not in known:
            raise DataError(
                str(path), line, f"there is no route {row['route']!r} (expected one of: {', '.join(known)})"
            )
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file in one step, so that a crash leaves the old labels."""
    path = path.resolve()  # through a link, to what it names
    made = path.with_name(f".{path.name}.part")
    made.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    made.replace(path)
