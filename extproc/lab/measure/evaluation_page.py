"""A report as one self-contained HTML page: inline SVG, no script, nothing fetched."""

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from extproc.lab.figures.number_formats import score
from extproc.lab.figures.page_parts import cell, scrolling, section, table
from extproc.lab.figures.plots import Line, heat_map, unit_plot
from extproc.lab.measure.choice_worth import Choosing, OutcomeReport
from extproc.lab.measure.classification_metrics import QUANTILES
from extproc.lab.measure.evaluation_report import FIGURES, SIGNALS, Report
from extproc.lab.measure.evaluation_text import (
    GRID_ROUTES,
    interval,
    largest_confusions,
    number,
    with_interval,
)
from extproc.lab.measure.outcome_text import (
    BAR_HEAD,
    MODEL_HEAD,
    READ,
    ROUTER_HEAD,
    bar_rows,
    model_rows,
    router_rows,
)

_TILES = {
    "accuracy": "accuracy, abstaining included",
    "accuracy_inside": "accuracy in scope, before floors",
    "kept": "in scope, got a route",
    "outside_kept": "out of scope, got a route",
    "right_of_kept": "right of what got a route",
    "debiased_ece": "calibration error, debiased",
}

_STYLE = Path(__file__).with_name("page.css").read_text()


def as_page(report: Report | None, outcomes: OutcomeReport | None = None) -> str:
    """The whole document, of routes, of model choice, or of both."""
    sections = [] if report is None else _of_routes(report)
    if outcomes is not None:
        sections += _of_choice(outcomes)
    name = html.escape("" if (told := report or outcomes) is None else told.registry)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {name}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _of_routes(report: Report) -> list[str]:
    return [
        _head(report),
        section("Which route took what", _confusion(report)),
        section("How sure, how right", _plots(report)),
        section("Routes", _routes(report)),
        section("Beside the baselines, before any floor", _baselines(report)),
        section("Mistakes, the surest first", _mistakes(report)),
        section("Scores", _quantiles(report)),
        section("Every figure", _figures(report)),
    ]


def _of_choice(report: OutcomeReport) -> list[str]:
    choosing = report.choosing
    seen = '<p class="warning">These rows were trained on: they measure memory.</p>' if report.seen else ""
    return [
        f"<h1>Model choice of {html.escape(report.registry)}</h1>"
        f'<p class="soft">version {report.version} · encoder {html.escape(report.encoder)}<br>'
        f"{html.escape(report.data)}, version {report.data_version}: {report.rows} rows, {choosing.rows} "
        f"answered by every model</p>{seen}",
        section("Cost and quality", _cost_quality(choosing, priced=report.priced)),
        section(f"{html.escape(choosing.weak)} or {html.escape(choosing.strong)}", _routers(choosing)),
        section("What each bar gives", _table(BAR_HEAD, bar_rows(choosing))),
        section("Models", _table(MODEL_HEAD, model_rows(choosing, report.priced))),
    ]


def _cost_quality(choosing: Choosing, *, priced: bool) -> str:
    """Between the weak and the strong model: cost as a share of the strong one's, quality as of the gap."""
    lines = [Line(router.name, _between(router.cost, router.quality)) for router in choosing.routers]
    plot = unit_plot(
        "Cost and quality", "cost, from all weak to all strong", "share of the gap recovered", lines
    )
    unit = "" if priced else " Prices are not known: a call to the strong model costs 1, any other nothing."
    return (
        f'<div class="plots"><figure>{plot}<figcaption>Every threshold of the choice between '
        f"{html.escape(choosing.weak)} and {html.escape(choosing.strong)}. Higher is better.{unit}"
        "</figcaption></figure></div>"
    )


def _between(cost: Sequence[float], quality: Sequence[float]) -> list[tuple[float, float]]:
    low, high = quality[0], quality[-1]
    spent, most = cost[0], cost[-1]
    if high <= low or most <= spent:
        return []
    return [
        ((c - spent) / (most - spent), max(0.0, (q - low) / (high - low)))
        for c, q in zip(cost, quality, strict=True)
    ]


def _routers(choosing: Choosing) -> str:
    return _table(ROUTER_HEAD, router_rows(choosing)) + f'<p class="soft">{html.escape(READ)}</p>'


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
        f'{scrolling(plot, ["confusion matrix"])}<p class="soft">Truths down, decisions '
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
            score(m.margin),
            m.text,
        ]
        for m in report.mistakes
    ]
    return _table(["truth", "decided", "margin", ""], rows) if rows else "<p>None.</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A column whose head is empty, but for the first, holds words and may wrap."""
    kinds = [' class="words"' if i and not name else "" for i, name in enumerate(head)]
    return table(head, [[cell(text, kind) for kind, text in zip(kinds, row, strict=True)] for row in rows])
