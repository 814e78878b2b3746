"""The report of `extproc eval` as one HTML page."""

import html
import math
from collections.abc import Sequence

from extproc.lab.figures.number_formats import count, counted, interval, score, with_interval
from extproc.lab.figures.plots import Line, heat_map, unit_plot
from extproc.lab.figures.report_layout import note, page, plain_table, plots, scrolling, section, tiles
from extproc.lab.measure.choice_worth import Choosing, OutcomeReport
from extproc.lab.measure.evaluation_report import SIGNALS, Report
from extproc.lab.measure.evaluation_text import (
    FIGURE_HEAD,
    FLIP_HEAD,
    GRID_ROUTES,
    LANGUAGE_HEAD,
    QUANTILE_HEAD,
    ROUTE_HEAD,
    figure_rows,
    flip_rows,
    language_rows,
    largest_confusions,
    quantile_rows,
    reasons,
    route_rows,
    seen,
)
from extproc.lab.measure.llm_worth import LlmWorth
from extproc.lab.measure.llm_worth_text import GROUP_HEAD, call_lines, group_rows
from extproc.lab.measure.llm_worth_text import READ as READ_LLM
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


def as_page(report: Report | None, outcomes: OutcomeReport | None = None) -> str:
    """The page on routes, on model choice, or on both."""
    sections = [] if report is None else _of_routes(report)
    if outcomes is not None:
        sections += _of_choice(outcomes)
    measured = report or outcomes
    return page(f"Evaluation of {measured.registry if measured else ''}", sections)


def _of_routes(report: Report) -> list[str]:
    return [
        _head(report),
        section("Which route took what", _confusion(report)),
        section("How sure, how right", _plots(report)),
        section("Routes", plain_table(ROUTE_HEAD, route_rows(report))),
        section("Beside the baselines, before any floor", _baselines(report)),
        *(
            [section("Languages", plain_table(LANGUAGE_HEAD, language_rows(report)))]
            if report.languages
            else []
        ),
        *(
            [section("Written in another way", plain_table(FLIP_HEAD, flip_rows(report)))]
            if report.flips
            else []
        ),
        *([section("The LLM in doubt", _llm(report.llm))] if report.llm else []),
        section("Mistakes, the surest first", _mistakes(report)),
        section(
            "Scores",
            plain_table(QUANTILE_HEAD, quantile_rows(report)) + note(f"Decided because: {reasons(report)}."),
        ),
        section("Every figure", plain_table(FIGURE_HEAD, figure_rows(report))),
    ]


def _llm(worth: LlmWorth) -> str:
    lines = (f"{worth.upstream_model} at {worth.url}", *call_lines(worth), READ_LLM)
    return plain_table(GROUP_HEAD, group_rows(worth)) + "".join(note(line) for line in lines)


def _of_choice(report: OutcomeReport) -> list[str]:
    choosing = report.choosing
    warning = (
        '<p class="warning">The model was trained on these rows: the figures are too good.</p>'
        if report.seen
        else ""
    )
    return [
        f"<h1>Model choice of {html.escape(report.registry)}</h1>"
        f'<p class="soft">version {report.version} · encoder {html.escape(report.encoder)}<br>'
        f"{html.escape(report.data)}, version {report.data_version}: {counted(report.rows, 'row')}, "
        f"{count(choosing.rows)} answered by every model</p>{warning}",
        section("Cost and quality", _cost_quality(choosing, priced=report.priced)),
        section(f"{choosing.weak} or {choosing.strong}", _routers(choosing)),
        section("What each bar gives", plain_table(BAR_HEAD, bar_rows(choosing))),
        section("Models", plain_table(MODEL_HEAD, model_rows(choosing, report.priced))),
    ]


def _cost_quality(choosing: Choosing, *, priced: bool) -> str:
    """The plot of cost and quality between the weak and the strong model, each as a share of the gap."""
    lines = [Line(router.name, _between(router.cost, router.quality)) for router in choosing.routers]
    plot = unit_plot(
        "Cost and quality", "cost, from all weak to all strong", "share of the gap recovered", lines
    )
    caption = (
        f"Every threshold of the choice between {choosing.weak} and {choosing.strong}. Higher is better."
    )
    unit = "" if priced else " Prices are not known: a call to the strong model costs 1, others cost 0."
    return plots((plot, caption + unit))


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
    return plain_table(ROUTER_HEAD, router_rows(choosing)) + note(READ)


def _head(report: Report) -> str:
    main = [
        (score(figure.value), interval(figure), _TILES[name])
        for name, figure in report.figures.items()
        if name in _TILES
    ]
    warning = f'<p class="warning">{html.escape(seen(report))}.</p>' if report.seen else ""
    return (
        f"<h1>{html.escape(report.registry)}</h1>"
        f'<p class="soft">version {report.version} · encoder {html.escape(report.encoder)}<br>'
        f"{html.escape(report.data)}, version {report.data_version}: {counted(report.rows, 'row')}, "
        f"{count(report.inside)} in scope, {count(report.outside)} out of scope</p>{warning}"
        f"{tiles(main)}"
    )


def _confusion(report: Report) -> str:
    names = [route.name for route in report.routes]
    plot = heat_map("Confusion matrix", [*names, "out of scope"], [*names, "abstained"], report.confusion)
    largest = (
        plain_table(["largest confusions: truth", "decided", "rows"], largest_confusions(report))
        if len(names) > GRID_ROUTES
        else ""
    )
    caption = note("Truths down, decisions across. The stronger the colour, the larger the share of the row.")
    return f"{scrolling(plot, ['confusion matrix'])}{caption}{largest}"


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
    return plots(
        (
            reliability,
            "In scope; bins of equally many rows. On the dashed line, the probability equals the accuracy.",
        ),
        (covered, "Out-of-scope rows that get a route count as wrong. Lower is better."),
    )


def _round_up(value: float) -> float:
    """The least of 0.1, 0.2, 0.5 and 1 that is not below the value."""
    return next((top for top in (0.1, 0.2, 0.5) if value <= top), 1.0)


def _baselines(report: Report) -> str:
    own = report.figures
    best = max((own[f"auroc_{signal}"] for signal in SIGNALS), key=lambda figure: _or_zero(figure.value))
    rows = [["this registry", with_interval(own["accuracy_inside"]), "", with_interval(best)]]
    rows += [
        [b.name, with_interval(b.accuracy), with_interval(b.lead), with_interval(b.auroc)]
        for b in report.baselines
    ]
    return plain_table(["", "accuracy in scope", "registry ahead by", "out-of-scope AUROC"], rows)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


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
    return plain_table(["truth", "decided", "margin", ""], rows) if rows else "<p>None.</p>"
