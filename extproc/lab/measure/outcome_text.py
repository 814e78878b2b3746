"""Model choice as text for a terminal, and as the rows that the page shows too."""

import math
from collections.abc import Iterator, Mapping

from extproc.lab.figures.number_formats import UNKNOWN, bounds, dollars, percent
from extproc.lab.measure.choice_worth import ENOUGH, BarFigures, Choosing, Figure, OutcomeReport, advised
from extproc.lab.measure.evaluation_text import number, table

MODEL_HEAD = ("model", "mean quality", "cost a request", "calibration error")
ROUTER_HEAD = ("weak or strong by", "APGR", "CPT(50 %)", "CPT(80 %)", "saving at 95 %", "APGR ahead by")
BAR_HEAD = ("quality_bar", "quality", "of the strong model's", "saving", "answered by")
READ = (
    "APGR: share of the quality gap that is recovered, over all shares of calls to the strong model (a "
    "router that knows nothing: .5). CPT(x): share of calls that recovers x of it. Saving: of what "
    "the strong model alone would cost, at 95 % of its quality."
)


def as_text(report: OutcomeReport) -> str:
    """Every figure but the curves, which the HTML page draws."""
    head = [
        f"registry  {report.registry} (version {report.version}), encoder {report.encoder}",
        f"outcomes  {report.data} (version {report.data_version}): {report.rows} rows, "
        f"{report.choosing.rows} answered by every model",
    ]
    if report.seen:
        head.append("warning   these rows were trained on: they measure memory, not foresight")
    return "\n\n".join(["\n".join(head), *_tables(report.choosing, report.priced), READ])


def learnt_text(choosing: Choosing, labels: Mapping[str, int], *, priced: bool) -> str:
    """What training found: the same tables on held-out rows, and which bar saves how much."""
    counts = ", ".join(f"{model} {count}" for model, count in labels.items())
    head = f"predicted quality of {len(labels)} models, on held-out rows (labels: {counts})"
    return "\n\n".join([head, *_tables(choosing, priced), advice(choosing)])


def advice(choosing: Choosing) -> str:
    """The bar to begin with, or why there is none."""
    bar = advised(choosing)
    if bar is None:
        return (
            f"no `quality_bar` saves anything and keeps surely {ENOUGH:.0%} of the quality of "
            f"{choosing.strong}: the models are too alike in price or too far apart in quality, "
            "or outcomes are too few"
        )
    return (
        f"`quality_bar: {bar.bar:g}` would save {_share(bar.saving)} of what {choosing.strong} alone costs, "
        f"and keep {_share(bar.kept)} of its quality"
    )


def model_rows(choosing: Choosing, priced: bool) -> list[list[str]]:
    """A row for each model."""
    return [
        [
            model.name,
            told(model.quality),
            dollars(model.cost) if priced else UNKNOWN,
            told(model.calibration),
        ]
        for model in choosing.models
    ]


def router_rows(choosing: Choosing) -> list[list[str]]:
    """A row for each way to choose between the weak and the strong model."""
    return [
        [
            router.name,
            told(router.apgr),
            told(router.cpt50),
            told(router.cpt80),
            told(router.saving),
            "" if router.behind is None else told(router.behind),
        ]
        for router in choosing.routers
    ]


def bar_rows(choosing: Choosing) -> list[list[str]]:
    """A row for each bar at which something changes."""
    return [
        [f"{bar.bar:g}", told(bar.quality), told(bar.kept), told(bar.saving), _answered_by(bar)]
        for bar in _distinct(choosing.bars)
    ]


def told(figure: Figure) -> str:
    """A figure and its interval."""
    if math.isnan(figure.value):
        return "-"
    return f"{number(figure.value)} [{number(figure.low)}, {number(figure.high)}]"


def _tables(choosing: Choosing, priced: bool) -> list[str]:
    unit = "" if priced else " (prices are not known: a call to the strong model costs 1, any other nothing)"
    return [
        table(MODEL_HEAD, model_rows(choosing, priced)),
        f"{choosing.weak} or {choosing.strong}{unit}\n" + table(ROUTER_HEAD, router_rows(choosing)),
        table(BAR_HEAD, bar_rows(choosing)),
    ]


def _distinct(bars: list[BarFigures]) -> Iterator[BarFigures]:
    """Without those that choose as the one before."""
    before: BarFigures | None = None
    for bar in bars:
        if before is None or (bar.shares, bar.quality) != (before.shares, before.quality):
            yield bar
        before = bar


def _answered_by(bar: BarFigures) -> str:
    return ", ".join(f"{model} {percent(share)}" for model, share in bar.shares.items() if share > 0)


def _share(figure: Figure) -> str:
    return f"{percent(figure.value)} {bounds(percent(figure.low), percent(figure.high))}"
