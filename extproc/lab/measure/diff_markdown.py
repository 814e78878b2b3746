"""A comparison of two registries as Markdown for a review: the verdict, the moves, the broken rows."""

import math

from extproc.lab.figures.number_formats import (
    UNKNOWN,
    bounds,
    count,
    counted,
    difference,
    p_value,
    score,
    setting,
    signed_count,
)
from extproc.lab.figures.report_layout import markdown_table
from extproc.lab.measure.evaluation_text import GRID_ROUTES, cut
from extproc.lab.measure.registry_diff import Change, RegistryComparison

_MOVES = 20
_NOTHING = "no route"


def as_markdown(comparison: RegistryComparison) -> str:
    """All that a reviewer needs to accept or reject a change of the registry."""
    parts = [
        _verdict(comparison),
        _measures(comparison),
        _moves(comparison),
        _matrix(comparison),
        _broken(comparison),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(comparison: RegistryComparison) -> str:
    over = comparison.over_budget
    lines = [
        f"### Routing gate: {'failed' if over else 'passed'}",
        "",
        f"`{comparison.old.registry}` {comparison.old.version} → `{comparison.new.registry}` "
        f"{comparison.new.version} on {counted(comparison.rows, 'row')} of `{comparison.data}` "
        f"({comparison.data_version}).",
        f"NEW alone is right on {counted(comparison.only_new, 'row')}, OLD alone on "
        f"{count(comparison.only_old)}: {p_value(comparison.p_value)} (exact McNemar).",
    ]
    if comparison.old.encoder != comparison.new.encoder:
        lines.append(f"The encoder changes: {comparison.old.encoder} → {comparison.new.encoder}.")
    for verb, mine, other in (
        ("adds", comparison.new.routes, comparison.old.routes),
        ("drops", comparison.old.routes, comparison.new.routes),
    ):
        names = [f"`{route}`" for route in mine if route not in other]
        if names:
            lines.append(f"NEW {verb} {', '.join(names)}.")
    lines += [
        f"- **{change.name}** is worse by {score(change.worse_by)}; its budget is {setting(change.budget)}."
        for change in over
    ]
    return "\n".join(lines)


def _measures(comparison: RegistryComparison) -> str:
    """The overall measures, and those of routes that moved."""
    shown = [change for change in comparison.changes if not change.of_one_route or change.old != change.new]
    known = [change for change in shown if not (math.isnan(change.old) and math.isnan(change.new))]
    measures = markdown_table(
        ["measure", "rows", "old", "new", "change (95 %)", "budget"], map(_measure, known)
    )
    unmoved = len(comparison.changes) - len(shown)
    return measures + (f"\n\nAnother {unmoved} measures of routes did not change." if unmoved else "")


def _measure(change: Change) -> list[str]:
    name = f"**{change.name}**" if change.over_budget else change.name
    gain = change.new - change.old
    interval = "" if math.isnan(change.low) else f" {bounds(difference(change.low), difference(change.high))}"
    budget = setting(change.budget) + (" exceeded" if change.over_budget else "")
    moved = UNKNOWN if math.isnan(gain) else f"{difference(gain)}{interval}"
    return [name, count(change.rows), score(change.old), score(change.new), moved, budget]


def _moves(comparison: RegistryComparison) -> str:
    if not comparison.moves:
        return "No row is decided differently."
    rows = [
        [move.old or _NOTHING, move.new or _NOTHING, count(move.rows), count(move.mended), count(move.broken)]
        for move in comparison.moves[:_MOVES]
    ]
    return "#### Which route took whose traffic\n\n" + markdown_table(
        ["from", "to", "rows", "mended", "broken"], rows
    )


def _matrix(comparison: RegistryComparison) -> str:
    changed = any(any(line) for line in comparison.confusion_change)
    if not changed or len(comparison.routes) > GRID_ROUTES:  # then only the list of moves shows it
        return ""
    rows = [
        [truth, *map(signed_count, counts)]
        for truth, counts in zip(
            [*comparison.routes, "out of scope"], comparison.confusion_change, strict=True
        )
    ]
    head = ["truth \\ decided", *comparison.routes, "abstained"]
    return "#### Confusion matrix, new less old\n\n" + markdown_table(head, rows)


def _broken(comparison: RegistryComparison) -> str:
    if not comparison.broken:
        return ""
    rows = [
        [row.route or _NOTHING, row.old or _NOTHING, row.new or _NOTHING, _escaped(cut(row.text, 100))]
        for row in comparison.broken
    ]
    title = f"#### Broken rows ({len(rows)} of {comparison.only_old})"
    return f"{title}\n\n" + markdown_table(["labelled", "old", "new", "text"], rows)


def _escaped(text: str) -> str:
    """Any text as plain words in a table cell."""
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\u200b")
