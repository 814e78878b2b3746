"""The report of `extproc report` as one HTML page."""

import html
from collections.abc import Callable, Sequence

from extproc.lab.figures.number_formats import (
    UNKNOWN,
    count,
    counted,
    dollars,
    mean_count,
    milliseconds,
    percent,
    score,
)
from extproc.lab.figures.plots import Mean, Series, bars, intervals, over_time
from extproc.lab.figures.report_layout import cell, note, page, plots, section, table, tiles
from extproc.lab.traffic.concerns import ENOUGH, Rate
from extproc.lab.traffic.traffic_report import BUCKETS, Observation, RouteReport, SliceReport, TrafficReport
from extproc.lab.traffic.traffic_text import (
    CHANGES,
    PROXIES_HEAD,
    PROXIES_NOTE,
    PROXIES_TITLE,
    explained,
    is_shown,
    mean_score,
    notes,
    observed_in_words,
    quality_names,
    share,
    would_go_to,
)

_DRAWN = 40  # slices and routes; the tables have all of them
_NAMES = 2  # kinds of opinions in the plots over time, which more lines would make unreadable


def as_page(report: TrafficReport) -> str:
    """The whole page."""
    names = quality_names(report)
    sections = [
        _head(report),
        section("Worst first", _concerns(report)),
        section("Quality", _quality(report, names)) if names else "",
        section("Routes and models", _slices(report, names)),
        section("No model asked", _unanswered(report)) if report.unanswered else "",
        section(PROXIES_TITLE, _proxies(report, names))
        if any(part.proxies.seen for part in report.slices)
        else "",
        section("Over time", _trends(report, names)),
        section("Cost beside the reference model", _costs(report) + _spending(report)),
        section("Cascades", _cascades(report)) if report.cascades else "",
        section("Shadows", _shadows(report)) if report.shadows else "",
        section("Observed, not routed", _observed(report.observed)) if report.observed else "",
    ]
    return page("Traffic by route", sections)


def _head(report: TrafficReport) -> str:
    money = report.money
    main = [
        (count(report.requests), "", "requests"),
        (percent(report.errors.value), _bounds(report.errors), "failed"),
        (percent(report.abstained.value), _bounds(report.abstained), "abstained"),
        (dollars(money.cost_usd), f"{count(money.priced)} priced", "cost"),
        (
            dollars(money.saving_usd),
            f"{percent(money.saving_share)} of the reference",
            "saved",
        ),
    ]
    return (
        f'<h1>Traffic by route</h1><p class="soft">{report.begin:%Y-%m-%d %H:%M} to '
        f"{report.end:%Y-%m-%d %H:%M} UTC</p>{tiles(main)}"
        f"{''.join(f'<p>{html.escape(each)}</p>' for each in notes(report))}"
    )


def _concerns(report: TrafficReport) -> str:
    shown = [_concerns_of(part, report) for part in report.slices[:_DRAWN]]
    return "".join(shown) or "<p>Nothing is certainly bad.</p>"


def _concerns_of(part: SliceReport, report: TrafficReport) -> str:
    shown = [concern for concern in part.concerns if is_shown(concern)]
    if not shown:
        return ""
    changed = any(concern.kind in CHANGES for concern in shown)
    lines = "".join(
        f"<br><{tag}>{html.escape(explained(concern, report))}</{tag}>"
        for concern in shown
        for tag in ["em" if concern.kind in CHANGES else "span"]
    )
    return (
        f'<p class="bad{"" if changed else " steady"}"><b>{html.escape(_label(part))}</b> '
        f'<span class="soft">{percent(part.share)} of the traffic</span>{lines}</p>'
    )


def _quality(report: TrafficReport, names: Sequence[str]) -> str:
    drawn = [(intervals(name, _means(report, name)), f"{name}: mean score, 95 % interval") for name in names]
    return plots(*drawn) + note(f"Hollow: fewer than {ENOUGH} samples, not to be read as a number.")


def _means(report: TrafficReport, name: str) -> list[Mean]:
    return [
        Mean(_label(part), rate.value, rate.low, rate.high, rate.samples, rate.enough)
        for part in report.slices[:_DRAWN]
        if (rate := part.quality.get(name)) is not None
    ]


def _slices(report: TrafficReport, names: Sequence[str]) -> str:
    head = ["route", "model", "requests", "share", *names, "errors", "p50 ms", "p99 ms", "first token"]
    rows = [
        [
            *_names(part),
            cell(count(part.requests)),
            cell(percent(part.share)),
            *(_score(part.quality.get(name)) for name in names),
            _rate(part.errors),
            cell(milliseconds(part.duration_ms.p50)),
            cell(milliseconds(part.duration_ms.p99)),
            cell(milliseconds(part.first_token_ms.p50)),
        ]
        for part in report.slices
    ]
    return table(head, rows) + note("First token: median, in ms, where it was seen.")


def _proxies(report: TrafficReport, names: Sequence[str]) -> str:
    rows = [
        [
            *_names(part),
            *(_score(part.quality.get(name)) for name in names),
            *map(_rate, part.proxies.rates),
        ]
        for part in report.slices
        if part.proxies.seen
    ]
    return table(["route", "model", *names, *PROXIES_HEAD], rows) + note(PROXIES_NOTE)


def _spending(report: TrafficReport) -> str:
    head = ["route", "model", "tokens in", "out", "cost", "saved", "saved share", "priced", "margin"]
    rows = [
        [
            *_names(part),
            cell(count(part.tokens.input) if part.tokens.counted else UNKNOWN),
            cell(count(part.tokens.output) if part.tokens.counted else UNKNOWN),
            cell(dollars(part.money.cost_usd)),
            cell(dollars(part.money.saving_usd)),
            cell(percent(part.money.saving_share)),
            cell(percent(part.money.priced / part.requests)),
            cell(score(part.margin)),
        ]
        for part in report.slices
    ]
    return table(head, rows)


def _names(part: SliceReport) -> list[str]:
    return [cell(part.route or "(none)"), cell(part.model or "(default)")]


def _trends(report: TrafficReport, names: Sequence[str]) -> str:
    main = names[:_NAMES]
    keys = "".join(
        _key(str(number), name) + " " for number, name in enumerate(["margin", "abstained", *main])
    )
    ends = f"{report.begin:%m-%d %H:%M}", f"{report.end:%m-%d %H:%M}"
    drawn = "".join(
        f"<figure><b>{html.escape(route.route or '(none)')}</b> "
        f'<span class="soft">{count(route.requests)}, abstained {percent(route.abstained.value)}</span>'
        f"{over_time(route.route, _series(route, main), BUCKETS, ends)}</figure>"
        for route in report.routes[:_DRAWN]
    )
    return (
        f'<p class="soft">{keys}</p><div class="routes">{drawn}</div>'
        f"{note('A request that abstained counts for the route it leaned to, where that is known.')}"
    )


def _key(colour: str, name: str) -> str:
    return f'<span class="with-key"><span class="key key-{colour}"></span>{html.escape(name)}</span>'


def _series(route: RouteReport, names: Sequence[str]) -> list[Series]:
    return [
        Series("margin", [(point.bucket, point.margin) for point in route.trend]),
        Series("abstained", [(point.bucket, point.abstained) for point in route.trend]),
        *(Series(name, [(p.bucket, p.quality.get(name)) for p in route.trend]) for name in names),
    ]


def _costs(report: TrafficReport) -> str:
    rows = [
        (_label(part), money.reference_cost_usd, money.compared_cost_usd, percent(money.saving_share))
        for part in report.slices
        for money in [part.money]
        if money.reference_cost_usd is not None and money.compared_cost_usd is not None
    ]
    rows.sort(key=lambda row: -row[1])
    if not rows:
        return "<p>No exchange has both a cost and a reference cost: prices or usage are not known.</p>"
    return (
        f'<div class="chart">{bars("Cost", rows[:_DRAWN])}</div>'
        f'<p class="soft">{_key("whole", "at the reference model")} {_key("part", "as routed")}; on the '
        "right, what was saved</p>"
    )


def _cascades(report: TrafficReport) -> str:
    head = [
        *("cascade", "requests", "attempts each", "escalated", "paid for three"),
        *("cost", "wasted", "saved"),
    ]
    rows = [
        [
            cell(part.cascade or "(retries)"), cell(count(part.requests)),
            cell(mean_count(part.attempts_each)), _rate(part.escalated), _rate(part.thrashed),
            cell(dollars(part.cost_usd)),
            cell(dollars(part.wasted_cost_usd)), cell(dollars(part.saved_usd)),
        ]
        for part in report.cascades
    ]  # fmt: skip
    return table(head, rows)


def _unanswered(report: TrafficReport) -> str:
    rows = [
        [cell(part.why), cell(part.rule or UNKNOWN), cell(count(part.requests)), cell(percent(part.share))]
        for part in report.unanswered
    ]
    return table(["why", "rule", "requests", "share"], rows)


def _shadows(report: TrafficReport) -> str:
    head = ["route", "answered by", "shadow", "requests", "errors", "p50 ms", "cost"]
    rows = [
        [
            cell(part.route or "(none)"), cell(part.primary_model), cell(part.model),
            cell(count(part.requests)), _rate(part.errors), cell(milliseconds(part.duration_ms.p50)),
            cell(dollars(part.cost_usd)),
        ]
        for part in report.shadows
    ]  # fmt: skip
    return table(head, rows)


def _observed(observed: Observation) -> str:
    money = ["cost", "routed", "saving", "saving share"]
    head = ["would take", "would go to", "requests", "share", "margin", *money]
    rows = [
        [
            cell(part.route or "(none)"), cell(would_go_to(part)), cell(count(part.requests)),
            cell(percent(part.share)), cell(score(part.margin)),
            cell(dollars(part.money.cost_usd)), cell(dollars(part.money.would_cost_usd)),
            cell(dollars(part.money.saving_usd)), cell(percent(part.money.saving_share)),
        ]
        for part in observed.parts
    ]  # fmt: skip
    return f"<p>{html.escape(observed_in_words(observed))}</p>{table(head, rows)}{_routed(observed)}"


def _routed(observed: Observation) -> str:
    rows = [
        (
            f"{part.route or '(none)'} → {would_go_to(part)}",
            part.money.cost_usd,
            part.money.would_cost_usd,
            percent(part.money.saving_share),
        )
        for part in observed.parts[:_DRAWN]
        if part.money.cost_usd is not None and part.money.would_cost_usd is not None
    ]
    if not rows:
        return ""
    return (
        f'<div class="chart">{bars("Cost now and routed", rows)}</div>'
        f'<p class="soft">{_key("whole", "now")} {_key("part", "routed")}; on the right, the saving</p>'
    )


def _bounds(rate: Rate) -> str:
    return "" if rate.value is None else f"{percent(rate.low)} to {percent(rate.high)}"


def _label(part: SliceReport) -> str:
    return f"{part.route or '(none)'} → {part.model or '(default)'}"


def _rate(rate: Rate | None) -> str:
    return _with_interval(rate, percent, share(rate))


def _score(rate: Rate | None) -> str:
    return _with_interval(rate, score, mean_score(rate))


def _with_interval(rate: Rate | None, written: Callable[[float | None], str], whole: str) -> str:
    if rate is None or rate.value is None:
        return f"<td>{UNKNOWN}</td>"
    few = "" if rate.enough else ' class="few"'
    tip = f"{whole} of {counted(rate.samples, 'sample')}"
    ends = f"{written(rate.low)} to {written(rate.high)}"
    return f'<td{few} title="{tip}">{written(rate.value)} <small>{ends}</small></td>'
