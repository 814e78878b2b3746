import logging
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from extproc.exchanges import Attempt, Exchange, Ruling, SecondAnswer, Usage
from extproc.registry.model_settings import PriceSettings
from extproc.registry.schema import Telemetry
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import AttemptRow, EvaluationRow
from extproc.telemetry.sinks import Fanout, Outcome, in_share

Make = Callable[..., Exchange]


class Keeping:
    def __init__(self) -> None:
        self.kept: list[Outcome] = []
        self.attempts: list[AttemptRow] = []

    def accept(self, outcome: Outcome) -> None:
        self.kept.append(outcome)

    def attempted(self, row: AttemptRow, verdict: EvaluationRow | None) -> None:
        self.attempts.append(row)


class Broken:
    def accept(self, outcome: Outcome) -> None:
        raise RuntimeError("a defect")

    def attempted(self, row: AttemptRow, verdict: EvaluationRow | None) -> None:
        raise RuntimeError("a defect")


def told(exchange: Exchange, telemetry: Telemetry) -> Outcome:
    sink = Keeping()
    Fanout([sink], telemetry=lambda version: telemetry).accept(exchange)
    (outcome,) = sink.kept
    return outcome


def test_every_sink_gets_every_outcome_though_one_is_broken(
    exchange: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = Keeping(), Keeping()
    sink = Fanout([first, Broken(), last])
    one, two = exchange(), exchange(request_id="2")
    with caplog.at_level(logging.ERROR):
        sink.accept(one)
        sink.accept(two)
    assert first.kept == last.kept
    assert [outcome.exchange for outcome in first.kept] == [one, two]
    assert [record.__dict__["sink"] for record in caplog.records] == ["Broken", "Broken"]


def test_all_sinks_get_the_same_row_made_once_and_priced(exchange: Make) -> None:
    prices = {
        "v0": PriceList({"code": PriceSettings(input=9.0, output=9.0)}),
        "v1": PriceList({"code": PriceSettings(input=1.0, output=2.0)}, reference="code"),
        "v2": PriceList({}),
    }
    first, last = Keeping(), Keeping()
    Fanout([first, last], prices.__getitem__).accept(exchange(usage=Usage(input=1_000_000, output=0)))
    assert first.kept[0].row is last.kept[0].row
    row = first.kept[0].row  # decided by v1, however many versions came since
    assert (row.cost_usd, row.reference_cost_usd) == (1.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"margin": 0.19},
        {"stage": "default", "reason": "low_similarity"},
        {"stage": "default", "reason": "deadline"},
        {"attempts": 2},
        {"served_by": "large"},
        {"error": "denied", "status": 400},
        {"mode": "observe", "stage": "deny", "reason": "denied"},
        {"status": 500},
        {"envelope": None},
    ],
)
def test_what_an_operator_would_look_for_is_kept_whatever_the_share(
    exchange: Make, changes: dict[str, object]
) -> None:
    assert told(exchange(**changes), Telemetry(trace_share=0.0)).kept


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "observe"},
        {"stage": "default", "reason": "no_routes"},
        {"served_by": "code"},
        {"margin": 0.2},
    ],
)
def test_what_is_ordinary_is_kept_by_the_share_alone(exchange: Make, changes: dict[str, object]) -> None:
    assert not told(exchange(**changes), Telemetry(trace_share=0.0)).kept
    assert told(exchange(**changes), Telemetry(trace_share=1.0)).kept


def test_the_share_is_of_traces_however_clients_make_their_ids() -> None:
    counted = [f"{number:032x}" for number in range(10_000)]  # not random at all
    assert sum(in_share(trace_id, 0.1) for trace_id in counted) == pytest.approx(1000, abs=100)
    assert not any(in_share(trace_id, 0.0) for trace_id in counted)
    assert all(in_share(trace_id, 1.0) for trace_id in counted)
    assert {trace_id for trace_id in counted if in_share(trace_id, 0.1)} <= {
        trace_id for trace_id in counted if in_share(trace_id, 0.2)
    }


def test_text_is_a_sample_even_where_it_is_wanted(exchange: Make) -> None:
    made = exchange(prompt="sing a song")
    assert told(made, Telemetry(trace_share=0.0)).row.input_messages is None
    assert "sing a song" in (told(made, Telemetry(trace_share=1.0)).row.input_messages or "")


PRICED = PriceList(
    {"code": PriceSettings(input=1.0, output=2.0), "large": PriceSettings(input=10.0, output=20.0)},
    reference="large",
)


def attempt(exchange: Make, number: int, model: str, usage: Usage | None, **changes: object) -> Attempt:
    return Attempt(
        exchange(envelope=None, usage=usage, **changes), number, model, f"{model}-9b", "acme", "v1"
    )


def test_an_attempt_is_told_to_every_sink_at_the_prices_of_its_version(exchange: Make) -> None:
    prices = {"v1": PRICED, "v2": PriceList({})}
    sink = Keeping()
    Fanout([Broken(), sink], prices.__getitem__).attempted(
        attempt(exchange, 1, "code", Usage(input=1_000_000, output=500_000))
    )
    (row,) = sink.attempts
    assert (row.model, row.attempt, row.cost_usd, row.wasted_cost_usd) == ("code", 1, 2.0, None)


def test_an_exchange_costs_what_all_its_attempts_did_and_is_compared_by_its_answer(exchange: Make) -> None:
    tried = (
        attempt(exchange, 1, "code", Usage(input=1_000_000, output=500_000, cached=9)),
        attempt(exchange, 2, "code", None, status=503),
        attempt(exchange, 3, "large", Usage(input=1_000_000, output=1_000_000)),
    )
    sink = Keeping()
    answer = Usage(input=1_000_000, output=1_000_000)
    Fanout([sink], lambda version: PRICED).accept(exchange(usage=answer, served_by="large", tried=tried))
    row = sink.kept[0].row
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (2_000_000, 1_500_000, 9)
    assert (row.cost_usd, row.reference_cost_usd) == (2.0 + 30.0, 30.0)
    assert row.reasoning_tokens is None


def test_second_answers_of_gates_are_paid_for_by_the_exchange(exchange: Make) -> None:
    usage = Usage(input=1_000_000, output=500_000)
    known = Ruling(True, "g", second=SecondAnswer("large", "answered", 100_000, 50_000))
    lost = Ruling(False, "g", second=SecondAnswer("large", "timeout"))
    tried = [attempt(exchange, number, "code", usage) for number in (1, 2)]
    judged = tuple(replace(each, ruling=said) for each, said in zip(tried, (known, lost), strict=True))
    sink = Keeping()
    fanout = Fanout([sink], lambda version: PRICED)
    for each in judged:
        fanout.attempted(each)
    fanout.accept(exchange(usage=usage, served_by="code", tried=judged))
    told = [(row.second_model, row.second_outcome, row.second_cost_usd) for row in sink.attempts]
    assert told == [("large", "answered", 2.0), ("large", "timeout", None)]
    row = sink.kept[0].row
    assert (row.input_tokens, row.output_tokens, row.cost_usd) == (2_100_000, 1_050_000, 2.0 + 2.0 + 2.0)


def test_what_no_attempt_told_is_unknown_of_the_exchange_too(exchange: Make) -> None:
    sink = Keeping()
    tried = (attempt(exchange, 1, "code", None, status=503),)
    Fanout([sink], lambda version: PRICED).accept(exchange(status=503, tried=tried))
    row = sink.kept[0].row
    assert (row.input_tokens, row.output_tokens, row.cost_usd) == (None, None, None)


def test_the_version_that_decided_says_which_traces_are_kept(exchange: Make) -> None:
    by_version = {"old": Telemetry(trace_share=0.0, low_margin=0.0), "new": Telemetry(trace_share=1.0)}
    sink = Keeping()
    fanout = Fanout([sink], telemetry=by_version.__getitem__)
    for version in by_version:
        fanout.accept(exchange(version=version))
    assert [outcome.kept for outcome in sink.kept] == [False, True]
