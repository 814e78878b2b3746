"""Checks that a version routes the labelled rows of its ``holdout`` well enough before it serves."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from extproc.errors import DataError, HoldoutFailed
from extproc.registry import schema
from extproc.registry.labelled_rows import RouteRow, check_route, parse
from extproc.registry.registry_files import Files
from extproc.registry.yaml_source import Source
from extproc.routing.rehearsal import rehearse
from extproc.routing.snapshot import Snapshot
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

    def __str__(self) -> str:
        beside = "" if self.serving is None else f", {self.serving} by the version that serves"
        return f"{self.right} of {self.rows} rows right ({self.right / self.rows:.3f}{beside})"


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
    texts = list(dict.fromkeys(row.text for row in holdout.rows))
    embeddings = dict(zip(texts, embed(texts), strict=True))

    def judged(by: Snapshot) -> list[bool]:
        decisions = asyncio.run(rehearse(by, [row.text for row in holdout.rows], embeddings))
        return [
            (decision.route if decision else "") == (row.route or "")
            for decision, row in zip(decisions, holdout.rows, strict=True)
        ]

    right = judged(snapshot)
    before = None if serving is None or holdout.wanted.max_worse is None else judged(serving)
    passed = Passed(sum(right), len(right), None if before is None else sum(before))
    if problem := _problem(passed, holdout.wanted):
        where = _where(holdout, _wrong(right, before))
        raise HoldoutFailed(holdout.file, holdout.line, f"holdout: {passed}: {problem}; {where}")
    return passed


def _problem(passed: Passed, wanted: schema.HoldoutSettings) -> str:
    """Why the holdout fails; empty: it passes. Rows are counted, so rounding does not matter."""
    if passed.right / passed.rows < wanted.min_accuracy:
        return f"below min_accuracy {wanted.min_accuracy:g}"
    if passed.serving is None or wanted.max_worse is None:
        return ""
    worse = 100 * (passed.serving - passed.right) / passed.rows
    return f"{worse:.1f} points worse, max_worse is {wanted.max_worse:g}" if worse > wanted.max_worse else ""


def _wrong(right: Sequence[bool], before: Sequence[bool] | None) -> list[int]:
    """Rows that are wrong. Those that the serving version routes right come first."""
    wrong = [place for place, is_right in enumerate(right) if not is_right]
    return wrong if before is None else sorted(wrong, key=lambda place: not before[place])


def _where(holdout: HoldoutRows, wrong: Sequence[int]) -> str:
    lines = ", ".join(str(holdout.lines[place]) for place in wrong[:_SHOWN])
    return f"wrong in {holdout.path.name}, lines {lines}{', ...' if len(wrong) > _SHOWN else ''}"
