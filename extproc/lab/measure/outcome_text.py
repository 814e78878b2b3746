"""Figures of model choice as text for a terminal, and as rows of tables for the page, too."""

from collections.abc import Iterator, Mapping, Sequence

from extproc.lab.figures.number_formats import UNKNOWN, count, dollars, level, percent, setting, with_interval
from extproc.lab.figures.report_layout import text_table
from extproc.lab.measure.choice_worth import ENOUGH, BarFigures, Choosing, OutcomeReport, advised
from extproc.lab.measure.dominance import CandidatePool
from extproc.lab.measure.kind_worth import LeftOutFigures

KIND_HEAD = ("kind of prompt, at the advised bar", "rows", "of the strong model's", "saving")
MODEL_HEAD = ("model", "mean quality", "cost a request", "calibration error")
ROUTER_HEAD = ("weak or strong by", "APGR", "CPT(50 %)", "CPT(80 %)", "saving at 95 %", "APGR ahead by")
BAR_HEAD = (
    "quality_bar", "quality", "of the strong model's", "saving", "ahead of one model", "answered by",
)  # fmt: skip
READ = (
    "APGR: the share of the quality gap that is recovered, averaged over all shares of calls to the strong "
    "model (random choice: 0.5). CPT(x): the share of calls that recovers x of the gap. Saving: of the cost "
    "of the strong model alone, at 95 % of its quality."
)


def as_text(report: OutcomeReport) -> str:
    """Every figure except the curves, which the HTML page draws."""
    head = [
        f"registry  {report.registry} (version {report.version}), encoder {report.encoder}",
        f"outcomes  {report.data} (version {report.data_version}): {count(report.rows)} rows, "
        f"{count(report.choosing.rows)} answered by every model",
    ]
    if report.seen:
        head.append("warning   the model was trained on these rows: the figures are too good")
    return "\n\n".join(["\n".join(head), *_tables(report.choosing, report.priced), READ])


def learnt_text(
    choosing: Choosing,
    labels: Mapping[str, int],
    pools: Sequence[CandidatePool],
    left_out: LeftOutFigures,
    most: float,
    *,
    priced: bool,
) -> str:
    """The result of training: the same tables on held-out rows, what is left out, and the advised bar."""
    counts = ", ".join(f"{model} {count(known)}" for model, known in labels.items())
    head = f"predicted quality of {len(labels)} models, on held-out rows (labels: {counts})"
    parts = [head, *_tables(choosing, priced), *map(pool_text, pools)]
    return "\n\n".join([*parts, left_out_text(left_out, most), advice(choosing)])


def left_out_text(left_out: LeftOutFigures, most: float) -> str:
    """What is served for kinds of prompts that training does not know, and what each kind saves."""
    figures = (
        f"each kind of prompt ({left_out.by}) predicted by a fit without it: APGR "
        f"{with_interval(left_out.served)}, prompt length {with_interval(left_out.length)}, lead "
        f"{with_interval(left_out.lead)}"
    )
    if most == 0:
        served = (
            "the trained head predicts no better than prompt length there: prompt length alone is served "
            "(give outcomes of more kinds of prompts)"
        )
    else:
        served = f"the trained head counts {percent(most)} there, and less for prompts unlike its training"
    if not left_out.kinds:
        return f"{figures}\n{served}"
    rows = [
        [kind.name, count(kind.rows), with_interval(kind.kept, percent), with_interval(kind.saving, percent)]
        for kind in left_out.kinds
    ]
    return f"{figures}\n{served}\n\n{text_table(KIND_HEAD, rows)}"


def pool_text(pool: CandidatePool) -> str:
    """What is left out of a pool and why, and which models are chosen from."""
    routes = ", ".join(pool.routes)
    if not pool.dominated:
        return f"{routes}: no candidate is dominated by a cheaper one"
    lines = [
        f"{each.model} is dominated by {each.by}, which costs no more: lead in quality "
        f"{with_interval(each.lead)}"
        for each in pool.dominated
    ]
    if len(pool.kept) == 1:
        last = f"{pool.kept[0]} answers every request: it is the cheapest of the best models"
    else:
        last = f"chosen from: {', '.join(pool.kept)}"
    return "\n  ".join(
        [f"{routes}: {count(len(lines))} of {len(pool.candidates)} candidates left out", *lines, last]
    )


def advice(choosing: Choosing) -> str:
    """The advised bar, or why there is none."""
    bar = advised(choosing)
    if bar is None:
        return (
            f"no `quality_bar` saves money and keeps {level(ENOUGH)} of the quality of {choosing.strong} for "
            "certain: the models' prices are too similar, their qualities are too different, or outcomes are "
            "too few"
        )
    return (
        f"`quality_bar: {setting(bar.bar)}` would save {with_interval(bar.saving, percent)} of what "
        f"{choosing.strong} alone costs, and keep {with_interval(bar.kept, percent)} of its quality"
    )


def model_rows(choosing: Choosing, priced: bool) -> list[list[str]]:
    """A row for each model."""
    return [
        [
            model.name,
            with_interval(model.quality),
            dollars(model.cost) if priced else UNKNOWN,
            with_interval(model.calibration),
        ]
        for model in choosing.models
    ]


def router_rows(choosing: Choosing) -> list[list[str]]:
    """A row for each way to choose between the weak and the strong model."""
    return [
        [
            router.name,
            with_interval(router.apgr),
            with_interval(router.cpt50, percent),
            with_interval(router.cpt80, percent),
            with_interval(router.saving, percent),
            "" if router.behind is None else with_interval(router.behind),
        ]
        for router in choosing.routers
    ]


def bar_rows(choosing: Choosing) -> list[list[str]]:
    """A row for each bar at which something changes."""
    return [
        [
            setting(bar.bar), with_interval(bar.quality), with_interval(bar.kept, percent),
            with_interval(bar.saving, percent), _ahead(bar), _answered_by(bar),
        ]
        for bar in _distinct(choosing.bars)
    ]  # fmt: skip


def _tables(choosing: Choosing, priced: bool) -> list[str]:
    unit = "" if priced else " (prices are not known: a call to the strong model costs 1, others cost 0)"
    return [
        text_table(MODEL_HEAD, model_rows(choosing, priced)),
        f"{choosing.weak} or {choosing.strong}{unit}\n" + text_table(ROUTER_HEAD, router_rows(choosing)),
        text_table(BAR_HEAD, bar_rows(choosing)),
    ]


def _distinct(bars: list[BarFigures]) -> Iterator[BarFigures]:
    """The bars without those that choose as the bar before."""
    before: BarFigures | None = None
    for bar in bars:
        if before is None or (bar.shares, bar.quality) != (before.shares, before.quality):
            yield bar
        before = bar


def _ahead(bar: BarFigures) -> str:
    return f"{with_interval(bar.lead)} ({bar.single})" if bar.single else ""


def _answered_by(bar: BarFigures) -> str:
    return ", ".join(f"{model} {percent(share)}" for model, share in bar.shares.items() if share > 0)
