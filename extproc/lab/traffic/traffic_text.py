"""The report of `extproc report` as text for a terminal."""

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
    with_interval,
)
from extproc.lab.figures.report_layout import text_table
from extproc.lab.traffic.concerns import Concern, Rate
from extproc.lab.traffic.traffic_report import (
    Difference,
    Latency,
    Money,
    Observation,
    ObservedReport,
    SliceReport,
    TrafficReport,
)

CHANGES = ("fall", "rise")
PROXIES_TITLE = "Proxies, not quality"
PROXIES_HEAD = ("cut short", "refused", "asks again", "asked again after")
PROXIES_NOTE = (
    "Cut short: ended by a limit of tokens. Refused: by the API's own field; refusals in plain prose are not "
    "seen. Asks again: requests that repeat an earlier turn of their conversation. Asked again after: "
    "answers whose conversation went on with such a request, where conversations have an id."
)

_SHOWN_FROM = 0.05  # severity
_FEW = "?"  # after a share of too few samples


def as_text(report: TrafficReport) -> str:
    """The whole report: every slice, the worst first, with its concerns."""
    names = quality_names(report)
    parts = [
        _head(report),
        text_table(
            ["route", "model", "requests", "share", *names, "errors", "p50 ms", "p99 ms", "first token", ""],
            [_health(part, names) for part in report.slices],
        ),
        f"{_FEW} fewer than 30 samples: not to be read as a number",
        _unanswered(report),
        _concerns(report),
        _proxies(report, names),
        text_table(
            ["route", "model", "tokens in", "out", "cost", "saved", "saved share", "margin", "priced", ""],
            [_cost(part) for part in report.slices],
        ),
        text_table(
            ["route", "requests", "abstained", "margin, first to last", ""],
            [
                [
                    route.route or "(none)",
                    count(route.requests),
                    share(route.abstained),
                    " ".join(score(point.margin) for point in route.trend),
                    "",
                ]
                for route in report.routes
            ],
        ),
        _cascades(report),
        _shadows(report),
        _observed(report),
    ]
    return "\n\n".join(part for part in parts if part)


def quality_names(report: TrafficReport) -> list[str]:
    """The names of all opinions."""
    return sorted({name for part in report.slices for name in part.quality})


def share(rate: Rate | None) -> str:
    """A share with its interval in percent, with a mark if samples are too few."""
    return _marked(rate, percent)


def mean_score(rate: Rate | None) -> str:
    """A mean score with its interval, with a mark if samples are too few."""
    return _marked(rate, score)


def _marked(rate: Rate | None, written: Callable[[float | None], str]) -> str:
    if rate is None or rate.value is None:
        return UNKNOWN
    mark = "" if rate.enough else _FEW
    return f"{with_interval(rate, written)}{mark}"


def explained(concern: Concern, report: TrafficReport) -> str:
    """One concern in words."""
    if concern.kind == "quality":
        return f"{concern.what}: at least {percent(concern.severity)} of the answers are bad"
    if concern.kind == "error":
        return f"errors: at least {percent(concern.severity)} of the requests fail"
    since = "" if concern.since is None else f" since {_when(report, concern.since)}"
    verb, written = ("fell", score) if concern.kind == "fall" else ("rose", percent)
    return f"{concern.what} {verb} from {written(concern.before)} to {written(concern.after)}{since}"


def is_shown(concern: Concern) -> bool:
    """Whether the concern gets a line: a change for the worse, or more than a few bad answers."""
    return concern.kind in CHANGES or concern.severity >= _SHOWN_FROM


def _when(report: TrafficReport, bucket: int) -> str:
    moment = report.begin.timestamp() + bucket * report.bucket_s
    return f"{report.begin.fromtimestamp(moment, report.begin.tzinfo):%Y-%m-%d %H:%M}"


def _head(report: TrafficReport) -> str:
    money = report.money
    saved = f"{dollars(money.saving_usd)} ({percent(money.saving_share)})"
    return (
        f"{report.begin:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC: "
        f"{counted(report.requests, 'request')}, "
        f"errors {share(report.errors)}, abstained {share(report.abstained)}\n"
        f"cost {dollars(money.cost_usd)}, saved {saved} "
        f"against the reference model, of {counted(money.compared, 'request')} that can be compared"
        f"{''.join(f'{chr(10)}{line}' for line in notes(report))}"
    )


def notes(report: TrafficReport) -> list[str]:
    """Sentences on what the figures do not include."""
    found = []
    if report.estimated:
        found.append(
            f"{counted(report.estimated, 'request')} had no usage; by the sizes of their bodies they cost "
            f"about {dollars(report.estimated_cost_usd)} more (`stream_usage: ask` makes streams report it)"
        )
    if report.stray:
        found.append(
            f"{count(report.stray)} of {count(report.opinions)} opinions are on no request that is recorded"
        )
    return found


def _unanswered(report: TrafficReport) -> str:
    rows = [
        [part.why, part.rule or UNKNOWN, count(part.requests), percent(part.share), ""]
        for part in report.unanswered
    ]
    return text_table(["no model asked", "rule", "requests", "share", ""], rows) if rows else ""


def _name(route: str) -> str:
    return route or "(none)"


def _health(part: SliceReport, names: Sequence[str]) -> list[str]:
    return [
        _name(part.route),
        part.model or "(Envoy's default)",
        count(part.requests),
        percent(part.share),
        *(mean_score(part.quality.get(name)) for name in names),
        share(part.errors),
        milliseconds(part.duration_ms.p50),
        milliseconds(part.duration_ms.p99),
        _both(part.first_token_ms),
        "",
    ]


def _both(latency: Latency) -> str:
    if not latency.samples:
        return UNKNOWN
    return f"{milliseconds(latency.p50)} / {milliseconds(latency.p99)}"


def _concerns(report: TrafficReport) -> str:
    rows = [
        [f"{_name(part.route)} -> {part.model}", explained(concern, report)]
        for part in report.slices
        for concern in part.concerns
        if is_shown(concern)
    ]
    return "worst first\n" + text_table(["", ""], rows).lstrip("\n") if rows else "nothing is certainly bad"


def _proxies(report: TrafficReport, names: Sequence[str]) -> str:
    rows = [
        [
            _name(part.route),
            part.model or "(Envoy's default)",
            *(mean_score(part.quality.get(name)) for name in names),
            *map(share, part.proxies.rates),
            "",
        ]
        for part in report.slices
        if part.proxies.seen
    ]
    head = ["route", "model", *names, *PROXIES_HEAD, ""]
    return f"{PROXIES_TITLE}\n{text_table(head, rows)}\n{PROXIES_NOTE}" if rows else ""


def _cost(part: SliceReport) -> list[str]:
    money: Money = part.money
    return [
        _name(part.route),
        part.model or "(Envoy's default)",
        count(part.tokens.input) if part.tokens.counted else UNKNOWN,
        count(part.tokens.output) if part.tokens.counted else UNKNOWN,
        dollars(money.cost_usd),
        dollars(money.saving_usd),
        percent(money.saving_share),
        score(part.margin),
        percent(money.priced / part.requests),
        "",
    ]


def _cascades(report: TrafficReport) -> str:
    rows = [
        [
            part.cascade or "(retries)", count(part.requests), mean_count(part.attempts_each),
            share(part.escalated), share(part.thrashed), dollars(part.cost_usd),
            dollars(part.wasted_cost_usd), dollars(part.saved_usd), "",
        ]
        for part in report.cascades
    ]  # fmt: skip
    head = [
        *("cascade", "requests", "attempts each", "escalated", "paid for three"),
        *("cost", "wasted", "saved", ""),
    ]
    return text_table(head, rows) if rows else ""


def _shadows(report: TrafficReport) -> str:
    rows = [
        [
            _name(part.route), part.primary_model, part.model, count(part.requests), share(part.errors),
            milliseconds(part.duration_ms.p50), dollars(part.cost_usd), "",
        ]
        for part in report.shadows
    ]  # fmt: skip
    head = ["shadow of", "answered by", "shadow", "requests", "errors", "p50 ms", "cost", ""]
    return text_table(head, rows) if rows else ""


def _observed(report: TrafficReport) -> str:
    if report.observed is None:
        return ""
    rows = [
        [
            _name(part.route), would_go_to(part), count(part.requests), percent(part.share),
            score(part.margin), dollars(part.money.cost_usd),
            dollars(part.money.would_cost_usd), dollars(part.money.saving_usd),
            percent(part.money.saving_share), "",
        ]
        for part in report.observed.parts
    ]  # fmt: skip
    head = [
        "observed: would take", "to", "requests", "share", "margin", "cost", "routed", "saving",
        "saving share", "",
    ]  # fmt: skip
    return f"{observed_in_words(report.observed)}\n{text_table(head, rows)}"


def would_go_to(part: ObservedReport) -> str:
    """The model that routing would have asked, or why there is none."""
    return part.model or (f"(refused: {part.refusal})" if part.refusal else "(undecided)")


def observed_in_words(observed: Observation) -> str:
    """A sentence on what `mode: active` would change."""
    seen = f"{counted(observed.requests, 'request')} ({percent(observed.share)}) were only observed"
    money = observed.money
    if not money.compared:
        return f"{seen}; what routing saves is not known: usage, or a price, is missing"
    return (
        f"{seen}; of {count(money.compared)} that can be compared, now {dollars(money.cost_usd)}, routed "
        f"{dollars(money.would_cost_usd)} for the same tokens: {_change(money)}"
    )


def _change(money: Difference) -> str:
    saving, share = money.saving_usd or 0.0, money.saving_share or 0.0
    if saving < 0:
        return f"costs {dollars(-saving)} more ({percent(-share)})"
    return f"saves {dollars(saving)} ({percent(share)})"
