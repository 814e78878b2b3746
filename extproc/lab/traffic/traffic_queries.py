"""The queries of the report, in ClickHouse's dialect, over the views of the store.

``since`` and ``step`` are the beginning of the window and the width of its buckets, in microseconds.
"""

from extproc.routing.llm_question import DOUBTS
from extproc.telemetry.row_building import REFUSALS
from extproc.vocabulary import Stage

_AT = "toUnixTimestamp64Micro(time)"
_IN_WINDOW = "time >= fromUnixTimestamp64Micro({since:Int64})"  # so that earlier partitions are not read
_ANSWERED_BY = "if(served_by != '', served_by, model)"  # the model whose answer was good or bad, fast or slow
# Requests that are not LLM calls are never counted.
_CALLS = f"api != '' AND {_IN_WINDOW}"
_BUCKET = f"intDiv({_AT} - {{since:Int64}}, {{step:Int64}})"
# Margins of the fast path are of another kind. Its weighted sample stands for the requests that it decided.
_SCORED = f"margin IS NOT NULL AND stage != '{Stage.LEXICAL}'"
_WEIGHT = "ifNull(weight, 1)"
_MARGINS = f"sumIf(margin * {_WEIGHT}, {_SCORED})"
_WEIGHTS = f"sumIf({_WEIGHT}, {_SCORED})"
_BOTH_KNOWN = "cost_usd IS NOT NULL AND reference_cost_usd IS NOT NULL"

WINDOW = f"SELECT count() AS requests, min({_AT}) AS begin, max({_AT}) AS end FROM exchanges WHERE {_CALLS}"

# Requests without a call to a model: the router refused them, or the client left before a decision.
_LEFT = "NOT bypassed AND stage = '' AND status IS NULL AND hasAny(flags, ['DC', 'DR'])"
_ASKED = f"NOT refused AND NOT ({_LEFT})"

UNANSWERED = f"""\
SELECT if(refused, error, 'client left') AS why, rule, count() AS requests
FROM exchanges
WHERE {_CALLS} AND NOT ({_ASKED})
GROUP BY why, rule
ORDER BY requests DESC, why, rule"""

# Opinions whose exchange is not in the store: a wrong id, or a record that is lost or not yet loaded.
STRAY = f"""\
SELECT count() AS opinions,
    countIf(if(
        request_id != '',
        request_id NOT IN (SELECT request_id FROM exchanges),
        trace_id NOT IN (SELECT trace_id FROM exchanges)
    )) AS stray
FROM evaluations
WHERE subject = 'exchange' AND {_IN_WINDOW}"""

# The finish reasons of OpenAI's APIs and of Anthropic's for an end by a limit.
_LIMITS = "('length', 'max_output_tokens', 'max_tokens', 'model_context_window_exceeded')"

SLICES = f"""\
SELECT route, {_ANSWERED_BY} AS answered_by,
    count() AS requests,
    countIf(failed) AS failed,
    countIf(bypassed) AS bypasses,
    count(duration_ms) AS timed,
    quantilesTDigest(0.5, 0.9, 0.99)(duration_ms) AS duration,
    count(time_to_first_token_ms) AS first_tokens,
    quantilesTDigest(0.5, 0.9, 0.99)(time_to_first_token_ms) AS first_token,
    count(output_tokens) AS counted,
    sum(input_tokens) AS input,
    sum(output_tokens) AS output,
    sum(cached_tokens) AS cached,
    count(cost_usd) AS priced,
    sum(cost_usd) AS cost,
    count(estimated_cost_usd) AS estimated,
    sum(estimated_cost_usd) AS estimated_cost,
    countIf({_BOTH_KNOWN}) AS compared,
    sumIf(cost_usd, {_BOTH_KNOWN}) AS compared_cost,
    sumIf(reference_cost_usd, {_BOTH_KNOWN}) AS reference_cost,
    countIf({_SCORED}) AS scored,
    {_MARGINS} / nullIf({_WEIGHTS}, 0) AS mean_margin,
    countIf(finish_reason != '') AS ended,
    countIf(finish_reason IN {_LIMITS}) AS cut,
    count(refusal) AS seen,
    countIf(refusal) AS declined,
    count(reask) AS conversing,
    countIf(reask) AS repeating
FROM exchanges
WHERE {_CALLS} AND {_ASKED}
GROUP BY route, answered_by
ORDER BY route, answered_by"""

# One opinion for each exchange and name: the mean of several. An opinion with a request id is on that
# request; an opinion with only a trace id is on every exchange of the trace.
QUALITY = f"""\
SELECT route, answered_by, name, bucket, count() AS judged, sum(verdict) AS score
FROM (
    SELECT e.route AS route, e.answered_by AS answered_by, e.bucket AS bucket, o.name AS name,
        e.request_id AS request, avg(o.opinion) AS verdict
    FROM (
        SELECT request_id, trace_id, route, {_ANSWERED_BY} AS answered_by, {_BUCKET} AS bucket
        FROM exchanges
        WHERE {_CALLS}
    ) AS e
    INNER JOIN (
        SELECT name, if(request_id != '', request_id, '(none)') AS request,
            if(request_id = '' AND trace_id != '', trace_id, '(none)') AS trace, avg(score) AS opinion
        FROM evaluations
        WHERE subject = 'exchange' AND score IS NOT NULL
        GROUP BY name, request, trace
    ) AS o ON e.request_id = o.request OR e.trace_id = o.trace
    GROUP BY route, answered_by, bucket, name, request
)
GROUP BY route, answered_by, name, bucket
ORDER BY route, answered_by, name, bucket"""

_ABSTAINED = "reason IN ({})".format(", ".join(f"'{reason}'" for reason in sorted(DOUBTS)))

# A request that abstained has no route; it leans to its first candidate, where that is known.
TREND = f"""\
SELECT route, {_ANSWERED_BY} AS answered_by,
    if(route != '', route, splitByChar(':', candidates[1])[1]) AS leaning,
    {_BUCKET} AS bucket,
    count() AS requests,
    countIf(failed) AS failures,
    countIf({_ABSTAINED}) AS abstained,
    {_WEIGHTS} AS scored,
    {_MARGINS} AS margins
FROM exchanges
WHERE {_CALLS} AND {_ASKED}
GROUP BY route, answered_by, leaning, bucket
ORDER BY leaning, bucket, route, answered_by"""

# A repeated question is a hint on the answer just before it in the same conversation. Requests that the
# router refused have no answer. A request without a question (with a tool's result) is no hint.
REASKED = f"""\
SELECT route, answered_by, count(following) AS followed, countIf(following) AS repeated
FROM (
    SELECT route, {_ANSWERED_BY} AS answered_by,
        leadInFrame(reask) OVER (
            PARTITION BY conversation_id ORDER BY time, request_id ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING
        ) AS following
    FROM exchanges
    WHERE {_CALLS} AND conversation_id != '' AND NOT refused
)
GROUP BY route, answered_by
ORDER BY route, answered_by"""

# The saving is against the reference model asked at once.
CASCADES = f"""\
SELECT a.cascade AS cascade,
    count() AS requests,
    sum(a.asked) AS attempts,
    countIf(a.asked > 1) AS escalated,
    countIf(a.asked > 2) AS thrashed,
    sum(a.cost) AS total_cost,
    sum(a.wasted) AS wasted_cost,
    sum(a.tokens) AS total_tokens,
    any(e.compared) AS compared,
    any(e.saved) AS saved
FROM (
    SELECT cascade, request_id, count() AS asked, sum(cost_usd + ifNull(second_cost_usd, 0)) AS cost,
        sum(wasted_cost_usd) AS wasted, sum(wasted_tokens) AS tokens
    FROM attempts
    WHERE {_IN_WINDOW}
    GROUP BY cascade, request_id
) AS a
LEFT JOIN (
    SELECT cascade, countIf({_BOTH_KNOWN}) AS compared,
        sumIf(reference_cost_usd - cost_usd, {_BOTH_KNOWN}) AS saved
    FROM exchanges
    WHERE {_CALLS} AND cascade != ''
    GROUP BY cascade
) AS e ON a.cascade = e.cascade
GROUP BY cascade
ORDER BY cascade"""

SHADOWS = f"""\
SELECT route, primary_model, model,
    count() AS requests,
    countIf(error != '') AS failed,
    quantilesTDigest(0.5, 0.9, 0.99)(duration_ms) AS duration,
    count(cost_usd) AS priced,
    sum(cost_usd) AS cost
FROM shadows
WHERE {_IN_WINDOW}
GROUP BY route, primary_model, model
ORDER BY route, primary_model, model"""

_BOTH_PRICED = "cost_usd IS NOT NULL AND would_cost_usd IS NOT NULL"

# A request that would have been refused has no model and so no cost: a refusal saves nothing.
OBSERVED = f"""\
SELECT would_route, would_model,
    if(reason IN ({", ".join(f"'{label}'" for label in REFUSALS)}), reason, '') AS would_refuse,
    count() AS requests,
    {_MARGINS} / nullIf({_WEIGHTS}, 0) AS mean_margin,
    countIf({_BOTH_PRICED}) AS compared,
    sumIf(cost_usd, {_BOTH_PRICED}) AS cost,
    sumIf(would_cost_usd, {_BOTH_PRICED}) AS would_cost
FROM exchanges
WHERE {_CALLS} AND mode = 'observe'
GROUP BY would_route, would_model, would_refuse
ORDER BY requests DESC, would_route, would_model, would_refuse"""

ALL = {
    "window": WINDOW,
    "slices": SLICES,
    "unanswered": UNANSWERED,
    "stray": STRAY,
    "quality": QUALITY,
    "trend": TREND,
    "reasked": REASKED,
    "cascades": CASCADES,
    "shadows": SHADOWS,
    "observed": OBSERVED,
}
