"""The report of `extproc eval` as text for a terminal."""

import math

from extproc.lab.datasets import printable
from extproc.lab.figures.number_formats import count, counted, interval, level, percent, score, with_interval
from extproc.lab.figures.report_layout import text_table
from extproc.lab.measure.classification_metrics import QUANTILES
from extproc.lab.measure.evaluation_report import FIGURES, SIGNALS, Report
from extproc.lab.measure.flip_rates import CHANGES
from extproc.lab.measure.llm_worth_text import as_text as llm_as_text

GRID_ROUTES = 12  # with more, a report lists the largest entries of the confusion matrix
FIGURE_HEAD = ("", "value", "95 % interval", "")
FLIP_HEAD = ("decisions that change with the text", "share", "95 % interval", "")
ROUTE_HEAD = ("route", "rows", "precision", "recall", "F1")
LANGUAGE_HEAD = ("language", "rows", "accuracy", "abstained in scope", "right of what got a route")
QUANTILE_HEAD = ("quantile", *map(level, QUANTILES))
_LISTED = 15
_SHOWN_MISTAKES = 5
_TEXT = 70  # characters of a text that are shown


def as_text(report: Report) -> str:
    """Every figure of the report except the curves, which the HTML page draws."""
    parts = [
        _head(report),
        text_table(FIGURE_HEAD, figure_rows(report)),
        text_table(ROUTE_HEAD, route_rows(report)),
        _confusion(report),
        text_table(LANGUAGE_HEAD, language_rows(report)) if report.languages else "",
        text_table(FLIP_HEAD, flip_rows(report)) if report.flips else "",
        _baselines(report),
        llm_as_text(report.llm) if report.llm else "",
        text_table(QUANTILE_HEAD, quantile_rows(report)),
        f"decided because  {reasons(report)}",
        _mistakes(report),
    ]
    return "\n\n".join(part for part in parts if part)


def cut(text: str, limit: int = _TEXT) -> str:
    """One line of at most ``limit`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def largest_confusions(report: Report) -> list[list[str]]:
    """Truth, decision and count of the largest cells off the diagonal."""
    names = [route.name for route in report.routes]
    truths, decisions = [*names, "out of scope"], [*names, "abstained"]
    wrong = [
        (rows, truths[i], decisions[j])
        for i, counts in enumerate(report.confusion)
        for j, rows in enumerate(counts)
        if i != j and rows
    ]
    return [[truth, decided, count(rows)] for rows, truth, decided in sorted(wrong, reverse=True)[:_LISTED]]


def _head(report: Report) -> str:
    lines = [
        f"registry  {report.registry} (version {report.version}), encoder {report.encoder}",
        f"data      {report.data} (version {report.data_version}): {counted(report.rows, 'row')}, "
        f"{count(report.inside)} in scope, {count(report.outside)} out of scope",
    ]
    if report.seen:
        lines.append(f"warning   {seen(report)}")
    return "\n".join(lines)


def seen(report: Report) -> str:
    """The warning that some rows are examples of the registry, which it remembers."""
    return f"the registry has {counted(report.seen, 'row')} as examples: these measure its memory"


def reasons(report: Report) -> str:
    """How many rows were decided for each reason."""
    return ", ".join(f"{reason} {count(rows)}" for reason, rows in report.reasons.items())


def figure_rows(report: Report) -> list[list[str]]:
    """A row for each measure that the data allow."""
    return [
        [name, score(figure.value), interval(figure), FIGURES[name]]
        for name, figure in report.figures.items()
        if not math.isnan(figure.value)
    ]


def flip_rows(report: Report) -> list[list[str]]:
    """A row for each kind of change of a text."""
    return [
        [change, percent(figure.value), interval(figure, percent), CHANGES[change]]
        for change, figure in report.flips.items()
    ]


def language_rows(report: Report) -> list[list[str]]:
    """A row for each language."""
    return [
        [
            found.language,
            count(found.rows),
            with_interval(found.accuracy),
            with_interval(found.abstained),
            with_interval(found.right_of_kept),
        ]
        for found in report.languages
    ]


def route_rows(report: Report) -> list[list[str]]:
    """A row for each route."""
    return [
        [
            route.name,
            count(route.rows),
            with_interval(route.precision),
            with_interval(route.recall),
            score(route.f1),
        ]
        for route in report.routes
    ]


def _confusion(report: Report) -> str:
    names = [route.name for route in report.routes]
    if len(names) > GRID_ROUTES:
        return "largest confusions\n" + text_table(["truth", "decided", "rows"], largest_confusions(report))
    rows = [
        [truth, *(count(rows) if rows else "." for rows in counts)]
        for truth, counts in zip([*names, "out of scope"], report.confusion, strict=True)
    ]
    return text_table(["truth \\ decided", *names, "abstained"], rows)


def _baselines(report: Report) -> str:
    if not report.baselines:
        return ""
    own = report.figures
    rows = [
        [
            "this registry",
            with_interval(own["accuracy_inside"]),
            "",
            " ".join(f"{signal} {score(own[f'auroc_{signal}'].value)}" for signal in SIGNALS),
        ]
    ]
    rows += [
        [b.name, with_interval(b.accuracy), with_interval(b.lead), with_interval(b.auroc)]
        for b in report.baselines
    ]
    return text_table(
        ["before any floor", "accuracy in scope", "registry ahead by", "out-of-scope AUROC"], rows
    )


def quantile_rows(report: Report) -> list[list[str]]:
    """A row for each signal and kind of row."""
    return [
        [f"{signal}, {kind}", *map(score, values)]
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
    return "surest mistakes\n" + text_table(["truth", "decided", "margin", ""], rows)
