"""A report as one self-contained HTML page: inline SVG, no script, nothing fetched."""

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from extproc.evaluation.metrics import QUANTILES
from extproc.evaluation.plots import Line, heat_map, unit_plot
from extproc.evaluation.report import FIGURES, SIGNALS, Report
from extproc.evaluation.terminal import GRID_ROUTES, interval, largest_confusions, number, with_interval

_TILES = {
    "accuracy": "accuracy, abstaining included",
    "accuracy_inside": "accuracy in scope, before floors",
    "kept": "in scope, got a route",
    "outside_kept": "out of scope, got a route",
    "right_of_kept": "right of what got a route",
    "debiased_ece": "calibration error, debiased",
}

_STYLE = Path(__file__).with_name("page.css").read_text()


def as_page(report: Report) -> str:
    """The whole document."""
    sections = [
        _head(report),
        _section("Which route took what", _confusion(report)),
        _section("How sure, how right", _plots(report)),
        _section("Routes", _routes(report)),
        _section("Beside the baselines, before any floor", _baselines(report)),
        _section("Mistakes, the surest first", _mistakes(report)),
        _section("Scores", _quantiles(report)),
        _section("Every figure", _figures(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {html.escape(report.registry)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _head(report: Report) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{number(figure.value)}</b>'
        f"<span>{html.escape(interval(figure))}</span><span>{_TILES[name]}</span></div>"
        for name, figure in report.figures.items()
        if name in _TILES
    )
    seen = (
        f'<p class="warning">{report.seen} rows are examples of the registry: they measure its memory.</p>'
        if report.seen
        else ""
    )
    return (
        f"<h1>{html.escape(report.registry)}</h1>"
        f'<p class="soft">version {report.version} · encoder {html.escape(report.encoder)}<br>'
        f"{html.escape(report.data)}, version {report.data_version}: {report.rows} rows, "
        f"{report.inside} in scope, {report.outside} out of scope</p>{seen}"
        f'<div class="tiles">{tiles}</div>'
    )


def _figures(report: Report) -> str:
    rows = [
        [name, number(figure.value), interval(figure), FIGURES[name]]
        for name, figure in report.figures.items()
        if not math.isnan(figure.value)
    ]
    return _table(["", "value", "95 % interval", ""], rows)


def _confusion(report: Report) -> str:
    names = [route.name for route in report.routes]
    plot = heat_map("Confusion matrix", [*names, "out of scope"], [*names, "abstained"], report.confusion)
    largest = (
        _table(["largest confusions: truth", "decided", "rows"], largest_confusions(report))
        if len(names) > GRID_ROUTES
        else ""
    )
    return (
        f'<div class="wide">{plot}</div><p class="soft">Truths down, decisions '
        f"across. The stronger the colour, the larger the share of the row.</p>{largest}"
    )


def _routes(report: Report) -> str:
    rows = [
        [
            r.name,
            str(r.rows),
            with_interval(r.precision),
            with_interval(r.recall),
            number(r.f1),
        ]
        for r in report.routes
    ]
    return _table(["route", "rows", "precision", "recall", "F1"], rows)


def _plots(report: Report) -> str:
    bins = [b for b in report.reliability if b.rows]
    reliability = unit_plot(
        "Reliability",
        "mean probability",
        "accuracy",
        [Line("probability", [(b.confidence, b.accuracy.value) for b in bins])],
        diagonal=True,
        whiskers=[(b.confidence, b.accuracy.low, b.accuracy.high) for b in bins],
    )
    lines = [Line(c.signal, list(zip(c.coverage, c.risk, strict=True))) for c in report.risk_coverage]
    coverage, risk = report.operating_point
    highest = max((risk for line in lines for _, risk in line.points), default=1.0)
    covered = unit_plot(
        "Risk and coverage",
        "share of all rows that get a route",
        "wrong among them",
        lines,
        dots=[] if math.isnan(risk) else [(coverage, risk, "this registry's floors")],
        y_top=_round_up(highest),
    )
    return (
        '<div class="plots">'
        f"<figure>{reliability}<figcaption>In scope; bins of equally many rows. On the dashed line, a "
        "probability is worth what it says.</figcaption></figure>"
        f"<figure>{covered}<figcaption>Out-of-scope rows that get a route count as wrong. Lower is better."
        "</figcaption></figure></div>"
    )


def _round_up(value: float) -> float:
    """The next of 0.1, 0.2, 0.5 and 1 that holds the value."""
    return next((top for top in (0.1, 0.2, 0.5) if value <= top), 1.0)


def _baselines(report: Report) -> str:
    own = report.figures
    best = max((own[f"auroc_{signal}"] for signal in SIGNALS), key=lambda figure: _or_zero(figure.value))
    rows = [["this registry", with_interval(own["accuracy_inside"]), "", with_interval(best)]]
    rows += [
        [b.name, with_interval(b.accuracy), with_interval(b.lead), with_interval(b.auroc)]
        for b in report.baselines
    ]
    return _table(["", "accuracy in scope", "registry ahead by", "out-of-scope AUROC"], rows)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _quantiles(report: Report) -> str:
    rows = [
        [f"{signal}, {kind}", *map(number, values)]
        for signal, kinds in report.quantiles.items()
        for kind, values in kinds.items()
    ]
    reasons = ", ".join(f"{html.escape(reason)} {count}" for reason, count in report.reasons.items())
    return (
        _table(["quantile", *(f"{q:.0%}" for q in QUANTILES)], rows)
        + f'<p class="soft">Decided because: {reasons}.</p>'
    )


def _mistakes(report: Report) -> str:
    rows = [
        [
            m.route or "(none)",
            m.decided or "(abstained)",
            "-" if m.margin is None else f"{m.margin:.2f}",
            m.text,
        ]
        for m in report.mistakes
    ]
    return _table(["truth", "decided", "margin", ""], rows) if rows else "<p>None.</p>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A column whose head is empty, but for the first, holds words and may wrap."""
    kinds = [' class="words"' if i and not name else "" for i, name in enumerate(head)]
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
