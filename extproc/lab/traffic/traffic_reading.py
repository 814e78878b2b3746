"""Make the report on traffic from queries of the store: one slice per route and model, the worst first."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from extproc.lab.store.record_store import Store
from extproc.lab.traffic import traffic_queries
from extproc.lab.traffic.concerns import TimeBucket, of_errors, of_quality, rate
from extproc.lab.traffic.traffic_report import (
    BUCKETS,
    CascadeReport,
    Difference,
    Latency,
    Money,
    Observation,
    ObservedReport,
    Proxies,
    RouteReport,
    ShadowReport,
    SliceReport,
    Tokens,
    TrafficReport,
    Trend,
    Unanswered,
)

_Slice = tuple[str, str]


def read_report(store: Store, since: datetime | None = None) -> TrafficReport | None:
    """The report on the traffic since then (on all of it when None); None if there is no traffic."""
    from_us = 0 if since is None else _micros(since)
    (window,) = store.rows(traffic_queries.WINDOW, {"since": from_us})
    if not window["requests"]:
        return None
    begin, end = int(window["begin"]), int(window["end"])
    step = max(1, -(-(end - begin + 1) // BUCKETS))
    given = {"since": begin, "step": step}
    quality = _by_name(store.rows(traffic_queries.QUALITY, given))
    trend = store.rows(traffic_queries.TREND, given)
    failures = _failures(trend)
    followed = {_key(row): row for row in store.rows(traffic_queries.REASKED, {"since": begin})}
    rows = store.rows(traffic_queries.SLICES, {"since": begin})
    (opinions,) = store.rows(traffic_queries.STRAY, {"since": from_us})
    slices = [
        _slice(
            row,
            int(window["requests"]),
            quality.get(key, {}),
            failures.get(key, []),
            _proxies(row, followed.get(key)),
        )
        for row in rows
        for key in [_key(row)]
    ]
    severity: dict[str, float] = defaultdict(float)
    for part in slices:
        severity[part.route] = max(severity[part.route], part.severity)
    routes = _routes(trend, quality)
    routes.sort(key=lambda route: (-severity[route.route], -route.requests, route.route))
    return TrafficReport(
        begin=_time(begin),
        end=_time(end),
        bucket_s=step / 1e6,
        requests=int(window["requests"]),
        errors=rate(sum(b.hits for part in failures.values() for b in part), int(window["requests"])),
        abstained=rate(sum((r.abstained.value or 0.0) * r.requests for r in routes), int(window["requests"])),
        money=_sum_money([part.money for part in slices]),
        estimated=(estimated := sum(int(row["estimated"]) for row in rows)),
        estimated_cost_usd=sum(row["estimated_cost"] or 0.0 for row in rows) if estimated else None,
        opinions=int(opinions["opinions"]),
        stray=int(opinions["stray"]),
        unanswered=[
            _unanswered(row, int(window["requests"]))
            for row in store.rows(traffic_queries.UNANSWERED, {"since": begin})
        ],
        slices=sorted(slices, key=lambda part: (-part.severity, -part.requests, part.route, part.model)),
        routes=routes,
        cascades=[_cascade(row) for row in store.rows(traffic_queries.CASCADES, {"since": from_us})],
        shadows=[_shadow(row) for row in store.rows(traffic_queries.SHADOWS, {"since": from_us})],
        observed=_observation(
            store.rows(traffic_queries.OBSERVED, {"since": from_us}), int(window["requests"])
        ),
    )


def _unanswered(row: Mapping[str, Any], all_requests: int) -> Unanswered:
    requests = int(row["requests"])
    return Unanswered(row["why"], row["rule"], requests, requests / all_requests)


def _key(row: Mapping[str, Any]) -> _Slice:
    return row["route"], row["answered_by"]


def _slice(
    row: Mapping[str, Any],
    all_requests: int,
    quality: Mapping[str, list[TimeBucket]],
    failures: list[TimeBucket],
    proxies: Proxies,
) -> SliceReport:
    concerns = [concern for name, buckets in quality.items() for concern in of_quality(name, buckets)]
    concerns += of_errors(failures)
    concerns.sort(key=lambda concern: -concern.severity)
    requests = int(row["requests"])
    return SliceReport(
        route=row["route"],
        model=row["answered_by"],
        requests=requests,
        share=requests / all_requests,
        bypassed=int(row["bypasses"]),
        quality={
            name: rate(sum(b.hits for b in buckets), sum(b.samples for b in buckets))
            for name, buckets in quality.items()
        },
        proxies=proxies,
        errors=rate(int(row["failed"]), requests),
        duration_ms=_latency(row["timed"], row["duration"]),
        first_token_ms=_latency(row["first_tokens"], row["first_token"]),
        tokens=Tokens(
            counted=int(row["counted"]),
            input=int(row["input"] or 0),
            output=int(row["output"] or 0),
            cached=int(row["cached"] or 0),
        ),
        money=_money(row),
        margin=row["mean_margin"] if row["scored"] else None,
        severity=concerns[0].severity if concerns else 0.0,
        concerns=concerns,
    )


def _money(row: Mapping[str, Any]) -> Money:
    return _compared(
        int(row["priced"]),
        row["cost"] or 0.0,
        int(row["compared"]),
        row["compared_cost"] or 0.0,
        row["reference_cost"] or 0.0,
    )


def _sum_money(parts: Sequence[Money]) -> Money:
    return _compared(
        sum(part.priced for part in parts),
        sum(part.cost_usd or 0.0 for part in parts),
        sum(part.compared for part in parts),
        sum(part.compared_cost_usd or 0.0 for part in parts),
        sum(part.reference_cost_usd or 0.0 for part in parts),
    )


def _compared(priced: int, cost: float, compared: int, compared_cost: float, reference: float) -> Money:
    saving = reference - compared_cost
    return Money(
        priced=priced,
        cost_usd=cost if priced else None,
        compared=compared,
        compared_cost_usd=compared_cost if compared else None,
        reference_cost_usd=reference if compared else None,
        saving_usd=saving if compared else None,
        saving_share=saving / reference if compared and reference else None,
    )


def _latency(samples: int | str, quantiles: Sequence[float | None]) -> Latency:
    return Latency(int(samples), *(quantiles if int(samples) else (None, None, None)))


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[_Slice, dict[str, list[TimeBucket]]]:
    found: dict[_Slice, dict[str, list[TimeBucket]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        bucket = TimeBucket(int(row["bucket"]), row["score"], int(row["judged"]))
        found[row["route"], row["answered_by"]][row["name"]].append(bucket)
    return found


def _failures(rows: Sequence[Mapping[str, Any]]) -> dict[_Slice, list[TimeBucket]]:
    """The failures of each slice by bucket, summed over the routes that requests leaned to."""
    sums: dict[_Slice, dict[int, tuple[int, int]]] = defaultdict(lambda: defaultdict(lambda: (0, 0)))
    for row in rows:
        buckets, number = sums[row["route"], row["answered_by"]], int(row["bucket"])
        failed, requests = buckets[number]
        buckets[number] = (failed + int(row["failures"]), requests + int(row["requests"]))
    return {
        key: [TimeBucket(number, *counts) for number, counts in sorted(buckets.items())]
        for key, buckets in sums.items()
    }


class _BucketSums:
    """The sums of one route in one bucket, over its models."""

    def __init__(self) -> None:
        self.requests = self.abstained = self.scored = 0
        self.margins = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        self.requests += int(row["requests"])
        self.abstained += int(row["abstained"])
        self.scored += int(row["scored"])
        self.margins += row["margins"] or 0.0


def _routes(
    rows: Sequence[Mapping[str, Any]], quality: Mapping[_Slice, Mapping[str, list[TimeBucket]]]
) -> list[RouteReport]:
    by_route: dict[str, dict[int, _BucketSums]] = defaultdict(lambda: defaultdict(_BucketSums))
    for row in rows:
        by_route[row["leaning"]][int(row["bucket"])].add(row)
    judged = _quality_of_routes(quality)
    return [
        RouteReport(
            route=route,
            requests=sum(moment.requests for moment in moments.values()),
            abstained=rate(
                sum(moment.abstained for moment in moments.values()),
                sum(moment.requests for moment in moments.values()),
            ),
            trend=[
                Trend(
                    bucket=number,
                    requests=moment.requests,
                    margin=moment.margins / moment.scored if moment.scored else None,
                    abstained=moment.abstained / moment.requests,
                    quality=judged.get((route, number), {}),
                )
                for number, moment in sorted(moments.items())
            ],
        )
        for route, moments in by_route.items()
    ]


def _quality_of_routes(
    quality: Mapping[_Slice, Mapping[str, list[TimeBucket]]],
) -> dict[tuple[str, int], dict[str, float]]:
    """The mean scores of a route in a bucket of time, over its models."""
    sums: dict[tuple[str, int, str], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for (route, _), names in quality.items():
        for name, buckets in names.items():
            for bucket in buckets:
                hits, samples = sums[route, bucket.number, name]
                sums[route, bucket.number, name] = (hits + bucket.hits, samples + bucket.samples)
    means: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for (route, number, name), (hits, samples) in sums.items():
        means[route, number][name] = hits / samples
    return means


def _cascade(row: Mapping[str, Any]) -> CascadeReport:
    requests = int(row["requests"])
    return CascadeReport(
        cascade=row["cascade"],
        requests=requests,
        attempts_each=int(row["attempts"]) / requests,
        escalated=rate(int(row["escalated"]), requests),
        thrashed=rate(int(row["thrashed"]), requests),
        cost_usd=row["total_cost"],
        wasted_cost_usd=row["wasted_cost"],
        wasted_tokens=row["total_tokens"],
        saved_usd=row["saved"] if int(row["compared"] or 0) else None,
    )


def _shadow(row: Mapping[str, Any]) -> ShadowReport:
    requests = int(row["requests"])
    return ShadowReport(
        route=row["route"],
        primary_model=row["primary_model"],
        model=row["model"],
        requests=requests,
        errors=rate(int(row["failed"]), requests),
        duration_ms=_latency(requests, row["duration"]),
        cost_usd=row["cost"] if row["priced"] else None,
    )


def _observation(rows: Sequence[Mapping[str, Any]], all_requests: int) -> Observation | None:
    if not rows:
        return None
    requests = sum(int(row["requests"]) for row in rows)
    return Observation(
        requests=requests,
        share=requests / all_requests,
        money=_difference(rows),
        parts=[
            ObservedReport(
                route=row["would_route"],
                model=row["would_model"],
                refusal=row["would_refuse"],
                requests=int(row["requests"]),
                share=int(row["requests"]) / requests,
                margin=row["mean_margin"],
                money=_difference([row]),
            )
            for row in rows
        ],
    )


def _difference(rows: Sequence[Mapping[str, Any]]) -> Difference:
    compared = sum(int(row["compared"]) for row in rows)
    if not compared:
        return Difference(0, None, None, None, None)
    cost, would = sum(row["cost"] or 0.0 for row in rows), sum(row["would_cost"] or 0.0 for row in rows)
    return Difference(compared, cost, would, cost - would, (cost - would) / cost if cost else None)


def _micros(time: datetime) -> int:
    return round(time.timestamp() * 1e6)


def _time(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


def _proxies(row: Mapping[str, Any], followed: Mapping[str, Any] | None) -> Proxies:
    """From a row of ``traffic_queries.SLICES`` and, if there is one, its row of ``REASKED``."""
    after = (int(followed["repeated"]), int(followed["followed"])) if followed else (0, 0)
    return Proxies(
        cut_short=rate(int(row["cut"]), int(row["ended"])),
        refused=rate(int(row["declined"]), int(row["seen"])),
        asks_again=rate(int(row["repeating"]), int(row["conversing"])),
        asked_again_after=rate(*after),
    )
