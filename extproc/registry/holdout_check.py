"""Checks that a version routes the labelled rows of its ``holdout`` well enough before it serves.

With ``max_flips``, each row is also decided as other people would write it, and few decisions may change.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from extproc.errors import DataError, HoldoutFailed
from extproc.registry import schema
from extproc.registry.labelled_rows import RouteRow, check_route, parse
from extproc.registry.registry_files import Files
from extproc.registry.yaml_source import Source
from extproc.routing.rehearsal import rehearse, texts_read
from extproc.routing.snapshot import Snapshot
from extproc.routing.text_changes import TextChange, variants
from extproc.vocabulary import Embedding

_SHOWN = 5  # line numbers in a message; texts may come from requests, which logs must not contain

Embed = Callable[[Sequence[str]], Sequence[Embedding]]


class HoldoutRows(msgspec.Struct, frozen=True):
    """The rows, the required accuracy, and where the registry has them."""

    path: Path
    rows: tuple[RouteRow, ...]
    lines: tuple[int, ...]  # of each row in ``path``
    wanted: schema.HoldoutSettings
    file: str  # the registry's
    line: int  # of `holdout` in it


class Passed(msgspec.Struct, frozen=True):
    """How well a version routes its holdout."""

    right: int
    rows: int
    serving: int | None = None  # rows that the version which serves routes right; None: none serves
    flips: Mapping[TextChange, int] = {}  # rows whose decision each kind of change changes; empty: not asked

    def __str__(self) -> str:
        beside = "" if self.serving is None else f", {self.serving} by the version that serves"
        text = f"{self.right} of {self.rows} rows right ({self.right / self.rows:.3f}{beside})"
        shares = ", ".join(f"{change} {count / self.rows:.3f}" for change, count in self.flips.items())
        return f"{text}, flips: {shares}" if shares else text


def read(source: Source, registry: schema.Registry, files: Files) -> HoldoutRows | None:
    """The registry's holdout; None where it has none. Raises ``RegistryError``."""
    wanted = registry.holdout
    if wanted is None or source.is_unread("holdout", "data"):
        return None
    path, line = Path(source.file).parent / wanted.data, source.line("holdout", "data")
    rows, lines = [], []
    text = files.read(path, source.file, line)
    for number, row_text in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not row_text.strip():
            continue
        try:
            row = parse(path, number, row_text, RouteRow)
            check_route(path, number, row, registry.routes)
        except DataError as error:
            raise source.error(f"holdout: {error}", "holdout", "data") from error
        rows.append(row)
        lines.append(number)
    if not rows:
        raise source.error(f"holdout: {path} has no rows (expected JSON lines)", "holdout", "data")
    return HoldoutRows(path, tuple(rows), tuple(lines), wanted, source.file, source.line("holdout"))


def examine(holdout: HoldoutRows, snapshot: Snapshot, serving: Snapshot | None, embed: Embed) -> Passed:
    """Decide every row with ``snapshot``, as `extproc eval` does, and with ``serving`` if `max_worse` is set.

    This blocks and runs its own event loop, so call it in a thread without one. Raises ``HoldoutFailed``,
    and what ``embed`` raises.
    """
    wanted, texts = holdout.wanted, [row.text for row in holdout.rows]
    changed = {} if wanted.max_flips is None else variants(texts)
    decide = _decider(embed)
    labels = [row.route or "" for row in holdout.rows]
    routes = decide(snapshot, texts)
    right = _equal(routes, labels)
    before = None if serving is None or wanted.max_worse is None else _equal(decide(serving, texts), labels)
    same = {change: _equal(routes, decide(snapshot, copies)) for change, copies in changed.items()}
    passed = Passed(
        right=sum(right),
        rows=len(right),
        serving=None if before is None else sum(before),
        flips={change: same[change].count(False) for change in same},
    )
    if problem := _problem(passed, wanted):
        raise _failed(holdout, passed, problem, "wrong", _wrong(right, before))
    if change := _unsteady(passed, wanted):
        problem = (
            f"{passed.flips[change]} of {passed.rows} decisions change when a text changes by `{change}`, "
            f"max_flips is {wanted.max_flips:g}"
        )
        raise _failed(holdout, passed, problem, "changed", _wrong(same[change], None))
    return passed


def _decider(embed: Embed) -> Callable[[Snapshot, Sequence[str]], list[str]]:
    """Gives the routes of texts by a snapshot; empty for a text without one. Each text is embedded once."""
    known: dict[str, Embedding] = {}

    def decide(by: Snapshot, texts: Sequence[str]) -> list[str]:
        missing = [text for text in texts_read(by, texts) if text not in known]
        known.update(zip(missing, embed(missing), strict=True))
        decisions = asyncio.run(rehearse(by, texts, known))
        return [decision.route if decision else "" for decision in decisions]

    return decide


def _equal(routes: Sequence[str], others: Sequence[str]) -> list[bool]:
    return [route == other for route, other in zip(routes, others, strict=True)]


def _problem(passed: Passed, wanted: schema.HoldoutSettings) -> str:
    """Why too few rows are right; empty: enough are. Rows are counted, so rounding does not matter."""
    if passed.right / passed.rows < wanted.min_accuracy:
        return f"below min_accuracy {wanted.min_accuracy:g}"
    if passed.serving is None or wanted.max_worse is None:
        return ""
    worse = 100 * (passed.serving - passed.right) / passed.rows
    return f"{worse:.1f} points worse, max_worse is {wanted.max_worse:g}" if worse > wanted.max_worse else ""


def _unsteady(passed: Passed, wanted: schema.HoldoutSettings) -> TextChange | None:
    """The kind of change that changes most decisions, if these are too many."""
    if wanted.max_flips is None:
        return None
    worst = max(passed.flips, key=lambda change: passed.flips[change])
    return worst if passed.flips[worst] > wanted.max_flips * passed.rows else None


def _wrong(right: Sequence[bool], before: Sequence[bool] | None) -> list[int]:
    """Rows that are wrong. Those that the serving version routes right come first."""
    wrong = [place for place, is_right in enumerate(right) if not is_right]
    return wrong if before is None else sorted(wrong, key=lambda place: not before[place])


def _failed(
    holdout: HoldoutRows, passed: Passed, problem: str, verb: str, places: Sequence[int]
) -> HoldoutFailed:
    lines = ", ".join(str(holdout.lines[place]) for place in places[:_SHOWN])
    where = f"{verb} in {holdout.path.name}, lines {lines}{', ...' if len(places) > _SHOWN else ''}"
    return HoldoutFailed(holdout.file, holdout.line, f"holdout: {passed}: {problem}; {where}")
