"""A report as text for a terminal: plain characters, aligned, nothing wider than it must be."""

import math
from collections.abc import Iterable, Sequence

from extproc.lab.datasets import printable
from extproc.lab.figures.number_formats import score
from extproc.lab.measure.classification_metrics import QUANTILES
from extproc.lab.measure.evaluation_report import FIGURES, SIGNALS, Figure, Report

GRID_ROUTES = 12  # more, and the confusion matrix is told as its largest entries
_LISTED = 15
_SHOWN_MISTAKES = 5
_TEXT = 70  # characters of a text that are shown


def as_text(report: Report) -> str:
    """Every figure of the report but the curves, which the HTML page draws."""
    parts = [
        _head(report),
        table(["", "value", "95 % interval", ""], _figure_rows(report)),
        table(["route", "rows", "precision", "recall", "F1"], _route_rows(report)),
        _confusion(report),
        _baselines(report),
        table(["", *(f"{q:.0%}" for q in QUANTILES)], _quantile_rows(report)),
        "decided because  " + ", ".join(f"{reason} {count}" for reason, count in report.reasons.items()),
        _mistakes(report),
    ]
    return "\n\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need; the first and the last to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 or (i == len(head) - 1 and not head[i]) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    """Three digits, or a dash where the data cannot tell."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def interval(figure: Figure) -> str:
    """The interval in brackets, or nothing where there is none."""
    return "" if math.isnan(figure.low) else f"[{figure.low:.3f}, {figure.high:.3f}]"


def with_interval(figure: Figure) -> str:
    """A figure and its interval."""
    return f"{number(figure.value)} {interval(figure)}".rstrip()


def cut(text: str, limit: int = _TEXT) -> str:
    """One line of at most ``limit`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def largest_confusions(report: Report) -> list[list[str]]:
    """Truth, decision and count of the cells off the diagonal that hold most rows."""
    names = [route.name for route in report.routes]
    truths, decisions = [*names, "out of scope"], [*names, "abstained"]
    wrong = [
        (count, truths[i], decisions[j])
        for i, counts in enumerate(report.confusion)
        for j, count in enumerate(counts)
        if i != j and count
    ]
    return [[truth, said, str(count)] for count, truth, said in sorted(wrong, reverse=True)[:_LISTED]]


def _head(report: Report) -> str:
    lines = [
        f"registry  {report.registry} (version {report.version}), encoder {report.encoder}",
        f"data      {report.data} (version {report.data_version}): {report.rows} rows, "
        f"{report.inside} in scope, {report.outside} out of scope",
    ]
    if report.seen:
        lines.append(f"warning   {report.seen} rows are examples of the registry: they measure its memory")
    return "\n".join(lines)


def _figure_rows(report: Report) -> list[list[str]]:
    return [
        [name, number(figure.value), interval(figure), FIGURES[name]]
        for name, figure in report.figures.items()
        if not math.isnan(figure.value)
    ]


def _route_rows(report: Report) -> list[list[str]]:
    return [
        [
            route.name,
            str(route.rows),
            with_interval(route.precision),
            with_interval(route.recall),
            number(route.f1),
        ]
        for route in report.routes
    ]


def _confusion(report: Report) -> str:
    names = [route.name for route in report.routes]
    if len(names) > GRID_ROUTES:
        return "largest confusions\n" + table(["truth", "decided", "rows"], largest_confusions(report))
    rows = [
        [truth, *(str(count) if count else "." for count in counts)]
        for truth, counts in zip([*names, "out of scope"], report.confusion, strict=True)
    ]
    return table(["truth \\ decided", *names, "abstained"], rows)


def _baselines(report: Report) -> str:
    if not report.baselines:
        return ""
    own = report.figures
    rows = [
        [
            "this registry",
            with_interval(own["accuracy_inside"]),
            "",
            "  ".join(f"{signal} {number(own[f'auroc_{signal}'].value)}" for signal in SIGNALS),
        ]
    ]
    rows += [
        [b.name, with_interval(b.accuracy), with_interval(b.lead), with_interval(b.auroc)]
        for b in report.baselines
    ]
    return table(["before any floor", "accuracy in scope", "registry ahead by", "out-of-scope AUROC"], rows)


def _quantile_rows(report: Report) -> list[list[str]]:
    return [
        [f"{signal}, {kind}", *map(number, values)]
        for signal, kinds in report.quantiles.items()
        for kind, values in kinds.items()
    ]


def _mistakes(report: Report) -> str:
    if not report.mistakes:
        return ""
    rows = [
        [
            m.route or "(none)",
            m.decided or "(abstained)",
            score(m.margin),
            cut(m.text),
        ]
        for m in report.mistakes[:_SHOWN_MISTAKES]
    ]
    return "surest mistakes\n" + table(["truth", "decided", "margin", ""], rows)
