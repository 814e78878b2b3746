from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from extproc.registry.model_settings import PriceSettings
from extproc.registry.schema import Registry
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import AttemptRow, ExchangeRow, ShadowRow

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
PRICES = PriceList(
    {"small": PriceSettings(input=0.10, output=0.30), "large": PriceSettings(input=3.0, output=9.0)},
    reference="large",
)


def exchange(
    model: str, tokens: tuple[int | None, int | None], would: str = "", cost: float | None = None
) -> ExchangeRow:
    return ExchangeRow(
        time=NOON, request_id="r", model=model, input_tokens=tokens[0], output_tokens=tokens[1],
        would_model=would, cost_usd=cost, bypassed=False, refused=False,
    )  # fmt: skip


def test_an_exchange_costs_what_its_tokens_do_and_is_compared_with_the_reference() -> None:
    row = PRICES.of_exchange(exchange("small", (1_000_000, 2_000_000)))
    assert (row.cost_usd, row.reference_cost_usd, row.would_cost_usd) == (pytest.approx(0.7), 21.0, None)


def test_an_observed_exchange_tells_what_routing_would_have_cost() -> None:
    row = PRICES.of_exchange(exchange("large", (1_000_000, 0), would="small"))
    assert (row.cost_usd, row.would_cost_usd) == (3.0, pytest.approx(0.1))


def test_no_tokens_cost_nothing_and_unknown_tokens_an_unknown_sum() -> None:
    assert PRICES.of_exchange(exchange("small", (0, 0))).cost_usd == 0.0
    for tokens in ((None, 5), (5, None), (None, None)):
        row = PRICES.of_exchange(exchange("small", tokens))
        assert (row.cost_usd, row.reference_cost_usd) == (None, None)


@pytest.mark.parametrize(
    ("stream", "estimated"),
    [
        (False, (1_000_000 * 0.10 + 500_000 * 0.30) / 1e6),  # 4 bytes a token both ways
        (True, (1_000_000 * 0.10 + 10_000 * 0.30) / 1e6),  # 200 bytes of events for a token of the answer
    ],
)
def test_an_answer_that_told_no_usage_has_an_estimate_and_no_cost(stream: bool, estimated: float) -> None:
    row = replace(
        exchange("small", (None, None)), status=200, stream=stream, request_bytes=4_000_000,
        response_bytes=2_000_000,
    )  # fmt: skip
    priced = PRICES.of_exchange(row)
    assert (priced.cost_usd, priced.reference_cost_usd) == (None, None)
    assert priced.estimated_cost_usd == pytest.approx(estimated)
    told = replace(row, input_tokens=1, output_tokens=1, usage_source="answer")
    assert PRICES.of_exchange(told).estimated_cost_usd is None


@pytest.mark.parametrize(
    "fields", [{"refused": True}, {"failed": True}, {"status": None}, {"model": "free"}, {"cost_usd": 0.1}]
)
def test_what_gave_no_answer_or_has_no_price_has_no_estimate(fields: dict[str, Any]) -> None:
    sizes = {"status": 200, "request_bytes": 4_000, "response_bytes": 4_000}
    row = replace(exchange("small", (None, None)), **{**sizes, **fields})
    assert PRICES.of_exchange(row).estimated_cost_usd is None


def test_a_model_without_a_price_costs_an_unknown_sum_and_without_a_reference_there_is_none() -> None:
    row = PRICES.of_exchange(exchange("free", (1, 1)))
    assert row.cost_usd is None
    assert row.reference_cost_usd is not None
    assert PriceList(PRICES.prices).of_exchange(exchange("small", (1, 1))).reference_cost_usd is None


def test_the_model_that_answered_is_paid_not_the_one_that_was_decided() -> None:
    row = replace(exchange("small", (1_000_000, 0)), served_by="large")
    assert PRICES.of_exchange(row).cost_usd == 3.0


def test_the_cost_of_a_cascade_is_kept() -> None:
    assert PRICES.of_exchange(exchange("large", (10, 10), cost=0.5)).cost_usd == 0.5


@pytest.mark.parametrize(
    ("verdict", "wasted"), [("escalate", (1_000_000, pytest.approx(0.1))), ("accept", (None, None))]
)
def test_an_attempt_whose_answer_was_not_shown_is_wasted(verdict: str, wasted: tuple[object, object]) -> None:
    row = PRICES.of_attempt(
        AttemptRow(
            time=NOON, request_id="r", attempt=1, model="small", verdict=verdict,
            input_tokens=1_000_000, output_tokens=0,
        )
    )  # fmt: skip
    assert row.cost_usd == pytest.approx(0.1)
    assert (row.wasted_tokens, row.wasted_cost_usd) == wasted


@pytest.mark.parametrize(("tokens", "cost"), [((1_000_000, 0), 0.1), ((None, None), None)])
def test_the_second_answer_of_a_gate_is_paid_apart(tokens: tuple[Any, Any], cost: float | None) -> None:
    row = PRICES.of_attempt(
        AttemptRow(
            time=NOON, request_id="r", attempt=1, model="large", input_tokens=0, output_tokens=1_000_000,
            second_model="small", second_input_tokens=tokens[0], second_output_tokens=tokens[1],
        )
    )  # fmt: skip
    assert (row.cost_usd, row.second_cost_usd) == (9.0, cost)


def test_a_shadow_has_its_own_cost() -> None:
    row = ShadowRow(time=NOON, request_id="r", model="large", input_tokens=0, output_tokens=1_000_000)
    assert PRICES.of_shadow(row).cost_usd == 9.0


def registry(**changes: object) -> Registry:
    models = {
        "small": {"base_url": "http://h", "price": {"input": 0.1, "output": 0.3}},
        "free": {"base_url": "http://h"},
    }
    return msgspec.convert({"models": models, "default": "small", **changes}, Registry)


def test_the_prices_are_those_of_the_registry() -> None:
    assert PriceList.of(registry()) == PriceList({"small": PriceSettings(input=0.1, output=0.3)})
    assert PriceList.of(registry(reference="small")).reference == "small"


def test_the_llm_that_is_asked_in_doubt_is_part_of_an_exchanges_cost() -> None:
    row = PRICES.of_exchange(exchange("small", (1_000_000, 0)))
    asked = replace(row, llm_model="large", llm_input_tokens=1_000_000, llm_output_tokens=0)
    whole = PRICES.with_doubt(asked)
    assert (whole.llm_cost_usd, whole.cost_usd) == (3.0, pytest.approx(3.1))
    unknown = PRICES.with_doubt(replace(asked, cost_usd=None))
    assert (unknown.llm_cost_usd, unknown.cost_usd) == (3.0, None)
    assert PRICES.with_doubt(row) == row
