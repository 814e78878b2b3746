"""Prove from the records that no request with labels reached a model that is not cleared for them.

What is not on record proves nothing: a request that bypassed the sidecar has no labels, and an attempt whose
record is lost has no model. Both are counted as unproven.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from extproc.lab.figures.number_formats import counted
from extproc.lab.figures.report_layout import text_table
from extproc.lab.store.record_store import Store
from extproc.registry.schema import Registry, cleared_for
from extproc.routing.clearance import ClearedFor
from extproc.vocabulary import LlmResult, Mode, ModelName

_IN_WINDOW = "time >= fromUnixTimestamp64Micro({since:Int64})"
_CALLS = f"api != '' AND {_IN_WINDOW}"
_LABELLED = f"{_CALLS} AND notEmpty(labels)"
_LABELLED_E = "e.api != '' AND e.time >= fromUnixTimestamp64Micro({since:Int64}) AND notEmpty(e.labels)"
_ASKED_LLM = ", ".join(
    f"'{result}'" for result in LlmResult if result not in (LlmResult.BUDGET, LlmResult.BREAKER)
)
_ASKED_SECOND = "'answered', 'timeout', 'failed'"

_COUNTS = f"""\
SELECT countIf(notEmpty(labels)) AS labelled,
    countIf(notEmpty(labels) AND refused) AS refused,
    countIf(bypassed) AS bypassed
FROM exchanges
WHERE {_CALLS}"""

# Every model that saw a labelled request, and in which role. An exchange without attempts of its own was
# answered by its model.
_SEEN_BY = f"""\
SELECT labels, mode, model, role, count() AS requests, any(request_id) AS request_id
FROM (
    SELECT labels, mode, if(served_by != '', served_by, model) AS model, 'answer' AS role, request_id
    FROM exchanges
    WHERE {_LABELLED} AND NOT refused
    UNION ALL
    SELECT labels, mode, llm_model AS model, 'llm' AS role, request_id
    FROM exchanges
    WHERE {_LABELLED} AND llm_result IN ({_ASKED_LLM}) AND NOT ifNull(llm_cached, false)
    UNION ALL
    SELECT e.labels AS labels, e.mode AS mode, a.model AS model, 'attempt' AS role, e.request_id AS request_id
    FROM attempts AS a INNER JOIN exchanges AS e ON a.request_id = e.request_id
    WHERE {_LABELLED_E}
    UNION ALL
    SELECT e.labels AS labels, e.mode AS mode, a.second_model AS model, 'second' AS role,
        e.request_id AS request_id
    FROM attempts AS a INNER JOIN exchanges AS e ON a.request_id = e.request_id
    WHERE {_LABELLED_E}
        AND a.second_outcome IN ({_ASKED_SECOND})
)
WHERE model != ''
GROUP BY labels, mode, model, role
ORDER BY requests DESC, labels, model, role"""

# Exchanges for which Envoy made more calls than there are records of attempts. A plain call has no record.
_LOST = f"""\
SELECT count() AS exchanges
FROM (
    SELECT e.request_id AS request_id, any(e.attempts) AS calls, countIf(a.request_id != '') AS known
    FROM exchanges AS e LEFT JOIN attempts AS a ON a.request_id = e.request_id
    WHERE {_LABELLED_E}
        AND NOT e.refused
    GROUP BY e.request_id
)
WHERE ifNull(calls, 0) > greatest(known, 1)"""

_ROLES = {
    "answer": "answered",
    "attempt": "was asked, as a tier or a fallback",
    "second": "gave a second answer or a rating",
    "llm": "chose the route",
}


class Breach(msgspec.Struct, frozen=True):
    """A model that got labelled requests for which it is not cleared."""

    labels: tuple[str, ...]
    model: str
    role: str  # answer, attempt, second or llm
    requests: int
    request_id: str  # of one of them


class ClearanceReport(msgspec.Struct, frozen=True):
    """What the records say of the requests with labels."""

    labelled: int  # exchanges with labels
    refused: int  # of them, because no model was cleared
    breaches: tuple[Breach, ...]
    observed: tuple[Breach, ...]  # in mode observe, where nothing is enforced
    bypassed: int  # exchanges that no sidecar read: their labels are not known
    lost: int  # labelled exchanges of whose calls a record is missing

    @property
    def unproven(self) -> int:
        """Exchanges of which the records prove nothing."""
        return self.bypassed + self.lost


def read_clearance(store: Store, registry: Registry, since: datetime | None = None) -> ClearanceReport:
    """Compare the recorded calls since then (all when None) with what ``registry`` clears models for."""
    given = {"since": 0 if since is None else int(since.astimezone(UTC).timestamp() * 1e6)}
    (counts,), (lost,) = store.rows(_COUNTS, given), store.rows(_LOST, given)
    seen = list(_not_cleared(store.rows(_SEEN_BY, given), cleared_for(registry)))
    return ClearanceReport(
        labelled=int(counts["labelled"]),
        refused=int(counts["refused"]),
        breaches=tuple(breach for mode, breach in seen if mode != Mode.OBSERVE),
        observed=tuple(breach for mode, breach in seen if mode == Mode.OBSERVE),
        bypassed=int(counts["bypassed"]),
        lost=int(lost["exchanges"]),
    )


def clearance_text(report: ClearanceReport) -> str:
    """The report for a terminal."""
    refused = f", {report.refused} of them refused" if report.refused else ""
    lines = [f"{counted(report.labelled, 'exchange')} with labels{refused}"]
    if report.breaches:
        lines += ["NOT CLEARED: these models got requests for whose labels they are not cleared"]
        lines += [_table(report.breaches)]
    else:
        lines += ["every model that is on record for them is cleared"]
    if report.observed:
        lines += ["in mode observe, where nothing is enforced, active mode would have kept requests from:"]
        lines += [_table(report.observed)]
    if report.bypassed:
        lines += [
            f"unproven: {counted(report.bypassed, 'exchange')} that no sidecar read: the labels are unknown"
        ]
    if report.lost:
        lines += [
            f"unproven: {counted(report.lost, 'exchange')} with labels, of whose calls a record is missing"
        ]
    return "\n".join(lines)


def _table(breaches: Iterable[Breach]) -> str:
    return text_table(
        ["labels", "model", "it", "requests", "such as"],
        [
            [", ".join(each.labels), each.model, _ROLES[each.role], str(each.requests), each.request_id]
            for each in breaches
        ],
    )


def _not_cleared(rows: Iterable[Mapping[str, Any]], cleared: ClearedFor) -> Iterator[tuple[str, Breach]]:
    """Each use of a model that is not cleared, with its mode. A model that no longer exists is not."""
    for row in rows:
        labels = frozenset(row["labels"])
        if labels <= cleared.get(ModelName(row["model"]), frozenset()):
            continue
        yield (
            row["mode"],
            Breach(tuple(row["labels"]), row["model"], row["role"], int(row["requests"]), row["request_id"]),
        )
