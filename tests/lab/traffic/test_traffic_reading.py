from datetime import timedelta

import msgspec
import pytest

from extproc.lab.store.record_store import Store
from extproc.lab.traffic import traffic_queries
from extproc.lab.traffic.traffic_page import as_page
from extproc.lab.traffic.traffic_reading import read_report
from extproc.lab.traffic.traffic_report import Difference, TrafficReport
from extproc.lab.traffic.traffic_text import as_text
from extproc.telemetry.rows import AnyRow, AttemptRow, EvaluationRow, ExchangeRow, ShadowRow
from tests.lab.traffic.conftest import BEGIN, DAYS, Put, Traffic


def told(store: Store) -> TrafficReport:
    made = read_report(store)
    assert made is not None
    return made


def exchange(number: int, **fields: object) -> ExchangeRow:
    known = {"time": BEGIN + timedelta(minutes=number), "request_id": f"r{number}", "api": "openai.chat"}
    marks = {"bypassed": False, "refused": False}
    return msgspec.convert(known | marks | fields, ExchangeRow, strict=False)


def opinion(number: int, score: float, **fields: object) -> EvaluationRow:
    known = {
        "time": BEGIN,
        "request_id": f"r{number}",
        "evaluation_id": f"e{number}-{fields}",
        "name": "judge",
    }
    return msgspec.convert(known | {"score": score} | fields, EvaluationRow)


def test_a_route_that_rots_cannot_hide_behind_healthy_ones(store: Store, traffic: Traffic) -> None:
    traffic("chat", "small", 4000, good=0.95)
    traffic("code", "code", 2000, good=0.93)
    traffic("maths", "large", 2000, good=0.97)
    traffic("legal", "small", 280, good=lambda day: 0.95 if day < 11 else 0.5)
    made = told(store)
    opinions = [part.quality["feedback"] for part in made.slices]
    assert sum((rate.value or 0) * rate.samples for rate in opinions) / 8280 > 0.94  # as a whole, all is well
    first = made.slices[0]
    assert (first.route, first.model, first.share) == ("legal", "small", pytest.approx(280 / 8280))
    fall = first.concerns[0]
    assert (fall.kind, fall.what, fall.since) == ("fall", "feedback", 11)
    assert fall.before == pytest.approx(0.95, abs=0.01)
    assert fall.after == pytest.approx(0.5, abs=0.02)
    assert not [concern for part in made.slices[1:] for concern in part.concerns if concern.kind == "fall"]


def test_a_model_that_is_bad_on_one_route_cannot_hide_behind_its_other_routes(
    store: Store, traffic: Traffic
) -> None:
    traffic("chat", "small", 3000, good=0.97)
    traffic("maths", "small", 150, good=0.6)
    traffic("maths", "large", 1500, good=0.97)
    worst = told(store).slices[0]
    assert (worst.route, worst.model, worst.concerns[0].kind) == ("maths", "small", "quality")


def test_failures_that_became_more_are_told_with_their_begin(store: Store, traffic: Traffic) -> None:
    traffic("chat", "small", 3000, good=None, failed=0.01)
    traffic("code", "code", 700, good=None, failed=lambda day: 0.0 if day < 12 else 0.4)
    worst = told(store).slices[0]
    rise = worst.concerns[0]
    assert (worst.route, rise.kind, rise.since, rise.before) == ("code", "rise", 12, 0.0)
    assert rise.after == pytest.approx(0.4, abs=0.01)


def test_a_slice_with_few_opinions_is_marked_and_not_pushed_forward_by_chance(
    store: Store, traffic: Traffic
) -> None:
    traffic("chat", "small", 2000, good=0.9)
    traffic("rare", "small", 12, good=0.5)
    made = told(store)
    assert [part.route for part in made.slices] == ["chat", "rare"]
    rare = made.slices[1].quality["feedback"]
    assert (rare.samples, rare.enough, rare.value) == (12, False, 0.5)
    assert (rare.low, rare.high) == (pytest.approx(0.254, abs=0.001), pytest.approx(0.746, abs=0.001))
    assert made.slices[0].quality["feedback"].enough


def test_each_kind_of_opinion_counts_for_itself(store: Store, put: Put) -> None:
    rows: list[AnyRow] = []
    for number in range(100):
        rows += [exchange(number, route="chat", model="small"), opinion(number, 1.0, name="judge")]
        rows += [opinion(number, 0.0, name="feedback")] if number < 40 else []
    put(rows)
    (part,) = told(store).slices
    assert {name: (rate.samples, rate.value) for name, rate in part.quality.items()} == {
        "judge": (100, 1.0),
        "feedback": (40, 0.0),
    }
    assert part.severity > 0.9  # a contented judge does not outvote the users


def test_several_opinions_of_one_kind_on_one_exchange_are_one_sample(store: Store, put: Put) -> None:
    put([exchange(1), exchange(2), *(opinion(1, 0.0, source=str(i)) for i in range(50)), opinion(2, 1.0)])
    (part,) = told(store).slices
    assert (part.quality["judge"].samples, part.quality["judge"].value) == (2, 0.5)


def test_opinions_join_by_trace_when_they_name_no_request(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, trace_id="t1"),
            exchange(2, trace_id="t1"),
            exchange(3, trace_id="t2"),
            exchange(4),
            opinion(0, 0.0, request_id="", trace_id="t1"),
            opinion(3, 1.0, trace_id="t1"),  # its request counts
            opinion(9, 1.0, request_id="", trace_id=""),  # of nobody
        ]
    )
    (part,) = told(store).slices
    assert (part.quality["judge"].samples, part.quality["judge"].value) == (3, pytest.approx(1 / 3))


def test_opinions_on_attempts_and_shadows_are_none_on_the_answer(store: Store, put: Put) -> None:
    put([exchange(1), opinion(1, 0.0, subject="attempt", attempt=1), opinion(1, 0.0, subject="shadow")])
    assert told(store).slices[0].quality == {}


def test_money_counts_only_what_is_known_and_compares_only_what_has_both(store: Store, put: Put) -> None:
    put(
        [
            exchange(
                1, cost_usd=0.1, reference_cost_usd=1.0, input_tokens=10, output_tokens=5, cached_tokens=4
            ),
            exchange(2, cost_usd=0.3, reference_cost_usd=1.0, input_tokens=20, output_tokens=0),
            exchange(3, cost_usd=5.0),
            exchange(4, reference_cost_usd=7.0),
            exchange(5),
        ]
    )
    made = told(store)
    (part,) = made.slices
    assert (part.tokens.counted, part.tokens.input, part.tokens.output, part.tokens.cached) == (2, 30, 5, 4)
    assert (part.money.priced, part.money.cost_usd) == (3, pytest.approx(5.4))
    assert (part.money.compared, part.money.saving_usd) == (2, pytest.approx(1.6))
    assert part.money.saving_share == made.money.saving_share == pytest.approx(0.8)


def test_what_was_not_measured_is_null(store: Store, put: Put) -> None:
    put([exchange(1), exchange(2)])
    (part,) = told(store).slices
    assert (part.margin, part.duration_ms.p50, part.first_token_ms.p99) == (None, None, None)
    assert (part.money.cost_usd, part.money.saving_usd, part.money.saving_share) == (None, None, None)
    assert (part.quality, part.concerns, part.severity) == ({}, [], 0.0)


def test_a_request_in_a_language_that_is_not_read_abstained_too(store: Store, put: Put) -> None:
    reasons = ["matched", "matched", "low_margin", "language"]
    put([exchange(number, reason=reason, model="small") for number, reason in enumerate(reasons)])
    assert told(store).abstained.value == 0.5


def test_a_request_that_abstained_counts_for_the_route_it_leaned_to(store: Store, put: Put) -> None:
    leaning = {"reason": "low_margin", "margin": 0.05, "candidates": ("code:0.5", "chat:0.45")}
    put(
        [exchange(n, route="code", model="code", margin=0.8) for n in range(6)]
        + [exchange(n, model="large", **leaning) for n in range(6, 10)]
    )
    (route,) = told(store).routes
    assert (route.route, route.requests, route.abstained.value) == ("code", 10, 0.4)
    assert [point.abstained for point in route.trend] == sorted(point.abstained or 0 for point in route.trend)
    assert (route.trend[0].margin, route.trend[-1].margin) == (pytest.approx(0.8), pytest.approx(0.05))


def test_a_slice_is_of_the_model_that_answered(store: Store, put: Put) -> None:
    put([exchange(1, model="small"), exchange(2, model="small", served_by="large"), opinion(2, 0.0)])
    parts = {part.model: part for part in told(store).slices}
    assert parts.keys() == {"small", "large"}
    assert (parts["small"].quality, parts["large"].quality["judge"].value) == ({}, 0.0)


def test_what_is_no_llm_call_is_counted_nowhere(store: Store, put: Put) -> None:
    put([exchange(1), exchange(2, api="", path="/healthz")])
    assert told(store).requests == 1


def test_requests_for_which_no_model_was_asked_are_counted_by_the_reason_and_are_in_no_slice(
    store: Store, put: Put
) -> None:
    denied = {"refused": True, "error": "denied", "rule": "cards", "status": 400, "stage": "deny"}
    put(
        [
            *(exchange(number, **denied) for number in range(3)),
            exchange(3, refused=True, error="bad_request", status=400),
            exchange(4, flags=["DC"]),  # the client left before the decision
            exchange(5, bypassed=True, status=200),
            exchange(6, stage="default", reason="deadline", status=200),
            exchange(7, route="chat", model="small", stage="embedding", status=None, flags=["DC"]),
        ]
    )
    made = told(store)
    assert [(part.why, part.rule, part.requests) for part in made.unanswered] == [
        ("denied", "cards", 3),
        ("bad_request", "", 1),
        ("client left", "", 1),
    ]
    assert made.unanswered[0].share == 3 / 8
    assert sorted((part.route, part.model, part.requests) for part in made.slices) == [
        ("", "", 2),
        ("chat", "small", 1),
    ]
    assert "cards" in as_text(made)
    assert "cards" in as_page(made)


def test_opinions_on_no_known_exchange_are_counted(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, trace_id="t1", status=200, model="small"),
            opinion(1, 1.0),
            opinion(2, 1.0),
            opinion(3, 0.0, request_id="", trace_id="t1"),
            opinion(4, 0.0, request_id="", trace_id="t2"),
            opinion(5, 0.0, subject="attempt"),
        ]
    )
    made = told(store)
    assert (made.opinions, made.stray) == (4, 2)
    assert "2 of 4 opinions are on no request that is recorded" in as_text(made)


def test_what_told_no_usage_is_estimated_apart_from_what_is_known(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, model="small", status=200, cost_usd=1.0),
            exchange(2, model="small", status=200, estimated_cost_usd=0.25),
            exchange(3, model="large", status=200, estimated_cost_usd=0.5),
        ]
    )
    made = told(store)
    assert (made.money.cost_usd, made.estimated, made.estimated_cost_usd) == (1.0, 2, 0.75)
    assert "2 requests had no usage; by the sizes of their bodies they cost about $0.75 more" in as_text(made)


def test_refused_requests_are_no_errors(store: Store, put: Put) -> None:
    put([exchange(1, refused=True, error="denied", status=400), exchange(2)])
    (part,) = told(store).slices
    assert (part.requests, part.errors.value) == (1, 0.0)


def test_only_what_came_since_is_told(store: Store, traffic: Traffic) -> None:
    traffic("chat", "small", 1400)
    made = read_report(store, BEGIN + timedelta(days=DAYS - 1))
    assert made is not None
    assert made.requests == 100
    assert made.slices[0].quality["feedback"].samples == 100
    assert read_report(store, BEGIN + timedelta(days=400)) is None


# An opinion may be on an exchange of any day, so ``stray`` looks for its id in all of them.
@pytest.mark.parametrize("name", sorted(traffic_queries.ALL.keys() - {"stray"}))
def test_no_query_reads_the_days_before_its_window(store: Store, traffic: Traffic, name: str) -> None:
    traffic("chat", "small", 140, good=None)
    given = {"since": round((BEGIN + timedelta(days=DAYS - 2)).timestamp() * 1e6), "step": 10**9}
    plan = [
        str(row["explain"]) for row in store.rows(f"EXPLAIN indexes = 1 {traffic_queries.ALL[name]}", given)
    ]
    parts = [line.split("Parts: ")[1] for line in plan if "Parts: " in line and "/" in line]
    assert f"2/{DAYS}" in parts


def test_a_cascade_tells_what_was_escalated_and_wasted(store: Store, put: Put) -> None:
    def attempt(request: int, number: int, wasted: float | None = None) -> AttemptRow:
        return AttemptRow(
            time=BEGIN, request_id=f"r{request}", attempt=number, cascade="cheap", cost_usd=0.1,
            wasted_cost_usd=wasted, wasted_tokens=None if wasted is None else 7,
        )  # fmt: skip

    costs = [(0.3, 1.0), (0.2, 1.0), (0.1, 1.0), (0.1, None)]
    put(
        [
            exchange(n, cascade="cheap", cost_usd=cost, reference_cost_usd=reference)
            for n, (cost, reference) in enumerate(costs)
        ]
    )
    put([attempt(n, 1, 0.1 if n < 2 else None) for n in range(4)])
    put([attempt(0, 2, 0.1), attempt(0, 3), attempt(1, 2)])
    (cascade,) = told(store).cascades
    assert (cascade.requests, cascade.attempts_each) == (4, 7 / 4)
    assert (cascade.escalated.value, cascade.thrashed.value) == (0.5, 0.25)
    assert (cascade.cost_usd, cascade.wasted_cost_usd) == (pytest.approx(0.7), pytest.approx(0.3))
    assert cascade.wasted_tokens == 21
    assert cascade.saved_usd == pytest.approx(0.7 + 0.8 + 0.9)


def test_what_no_reference_is_known_for_saved_nothing_that_is_known(store: Store, put: Put) -> None:
    put([exchange(1, cascade="cheap", cost_usd=0.1)])
    put([AttemptRow(time=BEGIN, request_id="r1", attempt=1, cascade="cheap", cost_usd=0.1)])
    put([AttemptRow(time=BEGIN, request_id="r2", attempt=number) for number in (1, 2)])
    assert [(part.cascade, part.saved_usd) for part in told(store).cascades] == [("", None), ("cheap", None)]


def test_shadows_and_observed_traffic_tell_what_would_have_been(store: Store, put: Put) -> None:
    shadow = ShadowRow(
        time=BEGIN,
        request_id="r1",
        route="chat",
        primary_model="large",
        model="small",
        duration_ms=5.0,
        cost_usd=0.1,
    )
    observed = {
        "mode": "observe",
        "model": "large",
        "would_route": "chat",
        "would_model": "small",
        "cost_usd": 1.0,
    }
    put([shadow, exchange(1, would_cost_usd=0.25, **observed), exchange(2, **observed), exchange(3)])
    made = told(store)
    (seen,) = made.shadows
    assert (seen.model, seen.primary_model, seen.errors.value, seen.cost_usd) == ("small", "large", 0.0, 0.1)
    assert made.observed is not None
    (would,) = made.observed.parts
    assert (would.route, would.model, would.requests, would.share) == ("chat", "small", 2, 1.0)
    assert would.money == made.observed.money == Difference(1, 1.0, 0.25, 0.75, 0.75)
    assert (made.observed.requests, made.observed.share) == (2, pytest.approx(2 / 3))


def test_observed_traffic_is_told_by_where_it_would_go_the_most_first(store: Store, put: Put) -> None:
    def seen(number: int, **fields: object) -> ExchangeRow:
        return exchange(number, mode="observe", model="mid", cost_usd=1.0, **fields)

    put([seen(n, would_route="chat", would_model="small", would_cost_usd=0.5) for n in range(6)])
    put([seen(n, would_route="hard", would_model="large", would_cost_usd=3.0) for n in range(6, 8)])
    put([seen(8, reason="denied", stage="deny"), seen(9, reason="internal_error", stage="default")])
    put([exchange(10, reason="denied", refused=True, mode="active")])
    made = told(store).observed
    assert made is not None
    assert [(p.route, p.model, p.refusal, p.requests, p.share) for p in made.parts] == [
        ("chat", "small", "", 6, 0.6),
        ("hard", "large", "", 2, 0.2),
        ("", "", "", 1, 0.1),
        ("", "", "denied", 1, 0.1),
    ]
    assert made.parts[1].money == Difference(2, 2.0, 6.0, -4.0, -2.0)
    assert made.parts[3].money == Difference(0, None, None, None, None)  # a refusal saves nothing
    assert made.money == Difference(8, 8.0, 9.0, -1.0, -0.125)


def test_traffic_that_was_all_routed_tells_of_no_observation(store: Store, put: Put) -> None:
    put([exchange(1, mode="active")])
    assert told(store).observed is None


def test_the_report_is_json_field_by_field(store: Store, traffic: Traffic) -> None:
    traffic("chat", "small", 100)
    made = told(store)
    assert msgspec.json.decode(msgspec.json.encode(made), type=TrafficReport) == made
