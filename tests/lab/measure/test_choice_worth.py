"""What model choice is worth, on tables of which it is known."""

import functools
import itertools
import math

import numpy as np
import pytest

from extproc.lab.measure.choice_worth import Choosing, OutcomeReport, Table, advised, chosen_at, measure
from extproc.lab.measure.dominance import by_name
from extproc.lab.measure.evaluation_page import as_page
from extproc.lab.measure.intervals import NO_FIGURE
from extproc.lab.measure.kind_worth import LeftOutFigures
from extproc.lab.measure.outcome_text import advice, as_text, learnt_text
from extproc.routing.model_choice import Price, Target, best_offer, offers_of
from extproc.routing.predicted_quality import Forecast
from extproc.vocabulary import Api, ChatRequest

LEFT_OUT = LeftOutFigures("sets", NO_FIGURE, NO_FIGURE, NO_FIGURE, [])
APART = np.zeros((2, 2), bool)  # no model matches another


def table(*, knows: bool) -> Table:
    """Two models; `small` fails half of 400 prompts. ``knows`` says whether predictions tell which."""
    rows = 400
    fails = np.arange(rows) % 2 == 0
    scores = np.stack([~fails, np.ones(rows)], axis=1).astype(np.float64)
    told = np.where(fails, 0.2, 0.9) if knows else np.full(rows, 0.5)
    costs = np.tile([1.0, 10.0], (rows, 1))
    texts = tuple("x" * (1 + i % 7) for i in range(rows))
    return Table(
        texts, ("small", "large"), np.stack([told, np.full(rows, 0.95)], axis=1), scores, costs, costs, APART
    )


@functools.cache
def measured(*, knows: bool) -> Choosing:
    return measure(table(knows=knows))


def report(choosing: Choosing) -> OutcomeReport:
    return OutcomeReport("registry.yaml", "v", "enc", "g.jsonl", "d", 400, False, True, choosing)


def test_who_knows_which_prompts_need_the_strong_model_sends_it_these_and_no_other() -> None:
    found = measured(knows=True)
    assert (found.weak, found.strong) == ("small", "large")
    own = found.routers[0]
    assert own.apgr.value == pytest.approx(0.75)  # all of the gap from half of the calls on
    assert own.cpt50.value == pytest.approx(0.25)
    assert own.cpt80.value == pytest.approx(0.4)
    assert own.saving.value == pytest.approx(1 - (10 * 0.45 + 1 * 0.55) / 10)
    length, chance = found.routers[1:]
    assert chance.apgr.value == pytest.approx(0.5)
    assert chance.behind is not None
    assert chance.behind.low > 0.2
    assert length.behind is not None
    assert length.behind.low > 0.15


def test_who_knows_nothing_is_as_good_as_chance() -> None:
    own = measured(knows=False).routers[0]
    assert own.apgr.value == pytest.approx(0.5)
    assert own.cpt80.value == pytest.approx(0.8)


def test_a_bar_is_told_by_what_it_keeps_and_saves_and_the_best_safe_one_is_advised() -> None:
    found = measured(knows=True)
    bar = next(bar for bar in found.bars if bar.bar == 0.5)
    assert bar.shares == {"small": 0.5, "large": 0.5}
    assert bar.quality.value == 1.0
    assert bar.saving.value == pytest.approx(0.45)
    assert bar.saving.low < 0.45 < bar.saving.high
    best = advised(found)
    assert best is not None
    assert best.kept.low >= 0.95
    assert "`quality_bar: 0.3` would save 45.0%" in advice(found)


def test_no_bar_is_advised_where_none_is_safe() -> None:
    found = measured(knows=False)
    assert all(bar.saving.value == 0 or bar.kept.value == 0.5 for bar in found.bars)
    assert advised(found) is None
    assert "no `quality_bar` saves money and keeps 95%" in advice(found)


def test_a_bar_is_measured_as_serving_chooses() -> None:
    random = np.random.default_rng(0)
    predicted, expected = random.random((50, 3)), np.tile([3e-6, 1e-6, 2e-6], (50, 1)) * 256
    request = ChatRequest(Api.OPENAI_CHAT, "auto", {}, "", 10)
    targets = [
        Target(name, name, name, [Api.OPENAI_CHAT], price=Price(0.0, price))
        for name, price in (("a", 3e-6), ("b", 1e-6), ("c", 2e-6))
    ]
    matched = np.array([[False, True, False], [False, False, True], [False, False, False]])
    for bar, found in itertools.product((0.3, 0.8), (np.zeros((3, 3), bool), matched)):
        numbers = chosen_at(predicted, expected, bar, found).tolist()
        for row, number in zip(predicted, numbers, strict=True):
            forecasts = {name: Forecast(float(value)) for name, value in zip("abc", row, strict=True)}
            best = best_offer(offers_of(targets, request, forecasts, by_name("abc", found)), bar)
            assert best is not None
            assert best.model == targets[number].model


def test_text_and_page_tell_every_router_and_bar() -> None:
    found = report(measured(knows=True))
    text, page = as_text(found), as_page(None, found)
    for told in (text, page):
        assert "predicted quality" in told
        assert "prompt length" in told
        assert "0.750 [" in told
        assert "small 50.0%, large 50.0%" in told
    assert page.count("<svg") == 1
    assert "warning" not in text
    learnt = learnt_text(found.choosing, {"small": 400, "large": 400}, [], LEFT_OUT, 0.75, priced=False)
    assert "the trained head counts 75.0% there" in learnt
    assert "small 400, large 400" in learnt
    assert "prices are not known" in learnt


def test_equal_models_have_no_gap_to_recover() -> None:
    same = table(knows=True)
    flat = Table(same.texts, same.models, same.predicted, np.ones((400, 2)), same.costs, same.expected, APART)
    found = measure(flat)
    assert math.isnan(found.routers[0].apgr.value)
    assert as_page(None, report(found))


def test_each_bar_is_compared_with_the_best_model_that_alone_costs_no_more() -> None:
    bar = next(bar for bar in measured(knows=True).bars if bar.bar == 0.5)
    assert (bar.single, bar.lead.value) == ("small", pytest.approx(0.5))
    assert "0.500 [" in as_text(report(measured(knows=True)))


def test_a_bar_that_is_worse_than_one_model_of_its_cost_is_not_advised() -> None:
    same = table(knows=True)
    scores = np.tile([1.0, 0.99], (400, 1))  # `small` is the better one
    found = measure(
        Table(same.texts, same.models, same.predicted, scores, same.costs, same.costs * [50.0, 1.0], APART)
    )
    assert any(bar.lead.value < 0 for bar in found.bars)
    assert advised(found) is None
