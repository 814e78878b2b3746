"""What the LLM said about requests in doubt, where the embedding leaned elsewhere, and who was right.

In doubt three answers compete: the LLM's, the route that the embedding found most probable, and no route,
which the default model answers. Opinions named ``route`` say which one is right. Opinions on the answers
compare groups of requests. They are hints only, because the groups differ in more than who chose the route.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from extproc.lab.figures.number_formats import (
    UNKNOWN,
    count,
    counted,
    dollars,
    milliseconds,
    p_value,
    percent,
    score,
    with_interval,
)
from extproc.lab.figures.report_layout import text_table
from extproc.lab.measure.intervals import mcnemar
from extproc.lab.store.record_store import Store
from extproc.lab.store.recorded_rows import OUTSIDE, ROUTE
from extproc.lab.traffic.concerns import Rate, rate
from extproc.routing.llm_question import NO_ROUTE
from extproc.vocabulary import LlmResult

AGREES, DIFFERS, NO_OPINION = "agrees", "differs", "embedding has none"
ABSTAINS, SILENT = "names none", "silent"
_STANDINGS = {
    AGREES: "it names the route that the embedding leans to",
    DIFFERS: "it names another route",
    NO_OPINION: "it names a route, and nothing was embedded",
    ABSTAINS: "it says that no route fits; the default model answered",
    SILENT: "no answer in time, or it was not asked; the default model answered",
}

_IN_WINDOW = "time >= fromUnixTimestamp64Micro({since:Int64})"
_NAMED = (
    f"multiIf(llm_result = '{LlmResult.MATCHED}', route, llm_result = '{LlmResult.NONE}', '{NO_ROUTE}', '')"
)
# The most probable route of the embedding, with its probability behind a colon.
_LEANING = "splitByChar(':', candidates[1])[1]"
_DOUBTFUL = f"""\
SELECT request_id, trace_id, llm_result, ifNull(llm_cached, false) AS cached, llm_us, llm_cost_usd,
    {_NAMED} AS named, {_LEANING} AS leaning
FROM exchanges
WHERE api != '' AND llm_result != '' AND {_IN_WINDOW}"""

_CALLS = f"""\
SELECT llm_result AS result, count() AS requests, countIf(cached) AS from_cache,
    count(llm_us) AS timed, quantilesTDigest(0.5, 0.99)(llm_us / 1000) AS waited, sum(llm_cost_usd) AS cost
FROM ({_DOUBTFUL})
GROUP BY result
ORDER BY requests DESC, result"""

_PAIRS = f"""\
SELECT named, leaning, count() AS requests
FROM ({_DOUBTFUL})
GROUP BY named, leaning"""

# An opinion with a request id is on that request; one with only a trace id is on every exchange of the trace.
_JOINED = "ON e.request_id = o.request OR e.trace_id = o.trace"
_KEYS = (
    "if(request_id != '', request_id, '(none)') AS request, "
    "if(request_id = '' AND trace_id != '', trace_id, '(none)') AS trace"
)

_LABELLED = f"""\
SELECT named, leaning, label, count() AS requests
FROM (
    SELECT any(e.named) AS named, any(e.leaning) AS leaning, argMax(o.label, o.at) AS label
    FROM ({_DOUBTFUL}) AS e
    INNER JOIN (
        SELECT {_KEYS}, argMax(evaluations.label, (time, evaluation_id)) AS label,
            max((time, evaluation_id)) AS at
        FROM evaluations
        WHERE name = '{ROUTE}' AND score >= 0.5 AND evaluations.label != ''
        GROUP BY request, trace
    ) AS o {_JOINED}
    GROUP BY e.request_id
)
GROUP BY named, leaning, label"""

_QUALITY = f"""\
SELECT named, leaning, name, count() AS judged, sum(verdict) AS total
FROM (
    SELECT any(e.named) AS named, any(e.leaning) AS leaning, o.name AS name, avg(o.opinion) AS verdict
    FROM ({_DOUBTFUL}) AS e
    INNER JOIN (
        SELECT name, {_KEYS}, avg(score) AS opinion
        FROM evaluations
        WHERE name != '{ROUTE}' AND subject = 'exchange' AND score IS NOT NULL
        GROUP BY name, request, trace
    ) AS o {_JOINED}
    GROUP BY e.request_id, name
)
GROUP BY named, leaning, name"""


class DoubtCalls(msgspec.Struct, frozen=True):
    """Requests in doubt whose question to the LLM ended in one way."""

    result: str  # see ``llm_result``
    requests: int
    cached: int  # answered by an equal request's answer
    p50_ms: float | None  # of those that waited; null: none did
    p99_ms: float | None
    cost_usd: float | None


class Standing(msgspec.Struct, frozen=True):
    """Requests in doubt by how the LLM's answer stands to the embedding's."""

    standing: str
    requests: int
    llm_right: Rate  # of those with an opinion named `route`
    embedding_right: Rate  # the most probable route, whatever the floors
    default_right: Rate  # no route
    quality: Mapping[str, Rate]  # of the answers, by the opinion's name


class Disagreement(msgspec.Struct, frozen=True):
    """Requests about which the LLM said one thing and the embedding leaned to another."""

    leaning: str  # the embedding's most probable route
    named: str  # the LLM's route, or ``none``
    requests: int
    labelled: int
    llm_right: int
    embedding_right: int
    default_right: int


class DoubtReport(msgspec.Struct, frozen=True):
    """The whole report."""

    requests: int  # in doubt while `llm` was on
    calls: tuple[DoubtCalls, ...]
    standings: tuple[Standing, ...]
    disagreements: tuple[Disagreement, ...]  # the most requests first
    llm_alone_right: int  # labelled requests on which only the LLM was right, not the embedding
    embedding_alone_right: int
    p_value: float  # that both are right equally often


def read_doubts(store: Store, since: datetime | None = None) -> DoubtReport:
    """The report on requests in doubt since then; on all of them when None."""
    given = {"since": 0 if since is None else int(since.astimezone(UTC).timestamp() * 1e6)}
    pairs, labelled = store.rows(_PAIRS, given), store.rows(_LABELLED, given)
    quality = store.rows(_QUALITY, given)
    llm_alone, embedding_alone = _alone(labelled)
    standings = [_standing(standing, pairs, labelled, quality) for standing in _STANDINGS]
    return DoubtReport(
        requests=sum(int(row["requests"]) for row in pairs),
        calls=tuple(_calls(row) for row in store.rows(_CALLS, given)),
        standings=tuple(each for each in standings if each.requests),
        disagreements=_disagreements(pairs, labelled),
        llm_alone_right=llm_alone,
        embedding_alone_right=embedding_alone,
        p_value=mcnemar(llm_alone, embedding_alone),
    )


def doubts_text(report: DoubtReport) -> str:
    """The report for a terminal."""
    if not report.requests:
        return "no request in doubt is recorded there while `llm` was on"
    lines = [
        f"{counted(report.requests, 'request')} in doubt",
        text_table(("it", "requests", "share", "cached", "p50 ms", "p99 ms", "cost", ""), _call_rows(report)),
        "",
        _standings_table(report),
        *(f"{each.standing}: {_STANDINGS[each.standing]}" for each in report.standings),
        "",
        f"labelled requests on which one alone was right: LLM {count(report.llm_alone_right)}, embedding "
        f"{count(report.embedding_alone_right)} ({p_value(report.p_value)} that it makes no difference)",
    ]
    if report.disagreements:
        lines += ["", text_table(_DISAGREEMENT_HEAD, _disagreement_rows(report))]
    return "\n".join(lines)


_DISAGREEMENT_HEAD = (
    "embedding leans to", "LLM says", "requests", "labelled",
    "LLM right", "embedding right", "no route right", "",
)  # fmt: skip


def _calls(row: Mapping[str, Any]) -> DoubtCalls:
    p50, p99 = row["waited"] if int(row["timed"]) else (None, None)
    return DoubtCalls(row["result"], int(row["requests"]), int(row["from_cache"]), p50, p99, row["cost"])


def _standing_of(row: Mapping[str, Any]) -> str:
    named, leaning = row["named"], row["leaning"]
    if not named:
        return SILENT
    if named == NO_ROUTE:
        return ABSTAINS
    if not leaning:
        return NO_OPINION
    return AGREES if named == leaning else DIFFERS


def _standing(
    standing: str,
    pairs: Iterable[Mapping[str, Any]],
    labelled: Iterable[Mapping[str, Any]],
    quality: Iterable[Mapping[str, Any]],
) -> Standing:
    known = [row for row in labelled if _standing_of(row) == standing]
    judged: dict[str, tuple[float, int]] = {}
    for row in quality:
        if _standing_of(row) == standing:
            total, rows = judged.get(row["name"], (0.0, 0))
            judged[row["name"]] = (total + row["total"], rows + int(row["judged"]))
    llm, embedding, default = _right(known)
    rows = _sum(known)
    return Standing(
        standing=standing,
        requests=_sum(row for row in pairs if _standing_of(row) == standing),
        llm_right=rate(llm, rows if standing != SILENT else 0),
        embedding_right=rate(embedding, rows if standing != NO_OPINION else 0),
        default_right=rate(default, rows),
        quality={name: rate(*found) for name, found in sorted(judged.items())},
    )


def _disagreements(
    pairs: Iterable[Mapping[str, Any]], labelled: Iterable[Mapping[str, Any]]
) -> tuple[Disagreement, ...]:
    found = []
    known = list(labelled)
    for row in pairs:
        if not row["named"] or not row["leaning"] or row["named"] == row["leaning"]:
            continue
        same = [each for each in known if (each["named"], each["leaning"]) == (row["named"], row["leaning"])]
        found.append(
            Disagreement(row["leaning"], row["named"], int(row["requests"]), _sum(same), *_right(same))
        )
    return tuple(sorted(found, key=lambda each: (-each.requests, each.leaning, each.named)))


def _right(labelled: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Of labelled requests, on how many the LLM, the embedding and the default were right."""
    rows = list(labelled)
    return (
        _sum(row for row in rows if row["label"] == row["named"]),
        _sum(row for row in rows if row["label"] == row["leaning"]),
        _sum(row for row in rows if row["label"] == OUTSIDE),
    )


def _alone(labelled: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Where the two differ: on how many the LLM alone was right, and the embedding alone."""
    both = [row for row in labelled if row["named"] and row["leaning"] and row["named"] != row["leaning"]]
    llm, embedding, _ = _right(both)
    return llm, embedding


def _sum(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(int(row["requests"]) for row in rows)


def _call_rows(report: DoubtReport) -> list[list[str]]:
    return [
        [
            each.result,
            count(each.requests),
            percent(each.requests / report.requests),
            count(each.cached),
            milliseconds(each.p50_ms),
            milliseconds(each.p99_ms),
            dollars(each.cost_usd),
            "",
        ]
        for each in report.calls
    ]


def _standings_table(report: DoubtReport) -> str:
    names = sorted({name for each in report.standings for name in each.quality})
    head = ["it", "requests", "labelled", "LLM right", "embedding right", "no route right", *names, ""]
    rows = [
        [
            each.standing,
            count(each.requests),
            count(each.default_right.samples),
            *(with_interval(r, percent) for r in (each.llm_right, each.embedding_right, each.default_right)),
            *(with_interval(each.quality.get(name), score) for name in names),
            "",
        ]
        for each in report.standings
    ]
    return text_table(head, rows)


def _disagreement_rows(report: DoubtReport) -> list[list[str]]:
    return [
        [
            each.leaning,
            each.named,
            count(each.requests),
            count(each.labelled),
            *(
                count(right) if each.labelled else UNKNOWN
                for right in (each.llm_right, each.embedding_right, each.default_right)
            ),
            "",
        ]
        for each in report.disagreements
    ]
