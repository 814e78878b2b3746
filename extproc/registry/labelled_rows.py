"""Reads labelled rows: JSON lines. A mistake is reported with its file and line."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from extproc.errors import DataError
from extproc.registry.type_messages import did_you_mean, type_mistake

R = TypeVar("R")
Text = Annotated[str, Meta(min_length=1)]


class RouteRow(msgspec.Struct, frozen=True):
    """One text and where it should go."""

    text: Text
    route: str | None  # None: out of scope, should abstain
    group: str = ""  # texts of one group mean the same; empty: none
    weight: Annotated[float, Meta(gt=0.0)] = 1.0  # requests that it stands for
    language: str = ""  # of the text, to compare languages by; empty: it is detected


def parse(path: Path, line: int, text: str, kind: type[R]) -> R:
    """One line as a row of ``kind``. Raises ``DataError``."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(str(path), line, _in_words(error, kind)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(str(path), line, f"not JSON: {error} (expected one object a line)") from error


def check_route(path: Path, line: int, row: RouteRow, known: Collection[str]) -> None:
    """Refuse a route that is not ``known``. Raises ``DataError``."""
    if row.route is not None and row.route not in known:
        raise DataError(str(path), line, unknown("route", row.route, known) + ", or null")


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """The message about a name that is not in the registry."""
    hint = did_you_mean(name, known)
    return f"there is no {what} `{name}` in the registry ({hint}expected one of: {', '.join(known)})"


def _in_words(error: msgspec.ValidationError, kind: type[R]) -> str:
    mistake = type_mistake(error, kind)
    problem = mistake.problem
    if mistake.missing == "route":
        problem += " (expected a route's name or null; `extproc holdout label` asks for missing ones)"
    return f"{mistake.place}: {problem}" if mistake.place else problem
