"""Of a route's candidates, the cheapest that can take the request."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.model_choice import (
    Forecasts,
    Matched,
    Price,
    Target,
    best_offer,
    can_take,
    expected_cost,
    offer,
    offers_of,
    pick,
)
from extproc.routing.predicted_quality import Forecast
from extproc.vocabulary import Api, ChatRequest

SMALL = Target("small", "s", "model-small", [Api.OPENAI_CHAT], price=Price(1e-7, 4e-7), context_window=1000)
MID = Target("mid", "m", "model-mid", [Api.OPENAI_CHAT], price=Price(8e-7, 3e-6), context_window=8000)
LARGE = Target("large", "l", "model-large", [Api.OPENAI_CHAT], price=Price(3e-6, 1.5e-5))


def request(prompt_chars: int = 40, max_tokens: int | None = None) -> ChatRequest:
    return ChatRequest(Api.OPENAI_CHAT, "auto", {}, "", 10, prompt_chars=prompt_chars, max_tokens=max_tokens)


def chosen(
    candidates: list[Target],
    asked: ChatRequest,
    forecasts: Forecasts,
    bar: float,
    matched: Matched | None = None,
) -> str | None:
    best = best_offer(offers_of(candidates, asked, forecasts, matched or {}), bar)
    return best.model if best else None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(), SMALL),
        (request(prompt_chars=4 * 1000), SMALL),
        (request(prompt_chars=4 * 1001), MID),
        (request(prompt_chars=4 * 900, max_tokens=200), MID),
        (request(prompt_chars=4 * 900, max_tokens=8000), LARGE),
    ],
)
def test_the_cheapest_whose_window_holds_prompt_and_answer_is_chosen(
    asked: ChatRequest, expected: Target
) -> None:
    assert pick([LARGE, MID, SMALL], asked) is expected


def test_a_long_answer_may_turn_the_order_of_prices() -> None:
    cheap_to_read = Target("reader", "r", "model-r", [Api.OPENAI_CHAT], price=Price(1e-7, 9e-6))
    cheap_to_write = Target("writer", "w", "model-w", [Api.OPENAI_CHAT], price=Price(1e-6, 1e-6))
    pair = [cheap_to_read, cheap_to_write]
    assert pick(pair, request(prompt_chars=400_000, max_tokens=10)) is cheap_to_read
    assert pick(pair, request(prompt_chars=40, max_tokens=1000)) is cheap_to_write


def test_of_equals_the_first_listed_is_chosen() -> None:
    twin = msgspec.structs.replace(SMALL, model="twin")
    assert pick([twin, SMALL], request()) is twin


def test_a_model_that_does_not_speak_the_requests_api_is_no_candidate() -> None:
    other = msgspec.structs.replace(request(), api=Api.ANTHROPIC_MESSAGES)
    speaker = msgspec.structs.replace(LARGE, apis=frozenset(Api))
    assert pick([SMALL, speaker], other) is speaker
    assert pick([SMALL, MID], other) is None


def test_none_is_chosen_when_none_can_take_the_request() -> None:
    assert pick([SMALL, MID], request(prompt_chars=10**9)) is None


@given(st.integers(0, 10**7), st.none() | st.integers(1, 10**6), st.permutations([SMALL, MID, LARGE]))
def test_nothing_cheaper_that_could_take_it_is_passed_over(
    prompt_chars: int, max_tokens: int | None, candidates: list[Target]
) -> None:
    asked = request(prompt_chars, max_tokens)
    found = pick(candidates, asked)
    assert found is not None
    assert can_take(found, asked)
    for other in candidates:
        assert not can_take(other, asked) or expected_cost(other, asked) >= expected_cost(found, asked)


def test_with_a_bar_the_cheapest_that_clears_it_is_chosen() -> None:
    forecasts = {"small": Forecast(0.6), "mid": Forecast(0.8), "large": Forecast(0.9)}
    trio = [LARGE, MID, SMALL]
    assert chosen(trio, request(), forecasts, 0.6) == "small"
    assert chosen(trio, request(), forecasts, 0.7) == "mid"
    assert chosen(trio, request(), forecasts, 0.85) == "large"
    assert pick(trio, request()) is SMALL


def test_where_none_clears_the_bar_the_strongest_is_chosen_and_the_cheaper_of_equals() -> None:
    assert chosen([SMALL, MID], request(), {"small": Forecast(0.4), "mid": Forecast(0.3)}, 0.9) == "small"
    assert chosen([LARGE, MID], request(), {"large": Forecast(0.4), "mid": Forecast(0.4)}, 0.9) == "mid"


def test_a_model_that_cannot_take_the_request_is_not_chosen_for_its_quality() -> None:
    forecasts = {"small": Forecast(0.99), "mid": Forecast(0.1)}
    assert chosen([SMALL, MID], request(prompt_chars=4 * 1001), forecasts, 0.9) == "mid"
    assert chosen([SMALL], request(prompt_chars=4 * 1001), forecasts, 0.9) is None


def test_a_model_that_is_no_better_than_a_cheaper_one_is_left_out() -> None:
    forecasts = {"small": Forecast(0.6), "mid": Forecast(0.8), "large": Forecast(0.9)}
    matched = {"large": ("mid",)}
    assert chosen([LARGE, MID, SMALL], request(), forecasts, 0.85, matched) == "mid"
    by = {
        each.model: each.dominated_by
        for each in offers_of([LARGE, MID, SMALL], request(), forecasts, matched)
    }
    assert by == {"large": "mid", "mid": "", "small": ""}


def test_a_model_is_chosen_from_again_where_the_one_that_dominates_it_cannot_take_the_request() -> None:
    forecasts = {"mid": Forecast(0.8), "large": Forecast(0.9)}
    asked = request(prompt_chars=4 * 8001)
    assert chosen([LARGE, MID], asked, forecasts, 0.85, {"large": ("mid",)}) == "large"


def test_a_cheaper_model_is_not_left_out_for_a_better_one() -> None:
    forecasts = {"small": Forecast(0.6), "large": Forecast(0.9)}
    assert chosen([LARGE, SMALL], request(), forecasts, 0.5, {"small": ("large",)}) == "small"


def test_of_two_models_of_one_price_that_match_each_other_both_stay() -> None:
    twin = msgspec.structs.replace(SMALL, model="twin")
    both = {"small": ("twin",), "twin": ("small",)}
    assert not any(each.dominated_by for each in offers_of([SMALL, twin], request(), {}, both))
    one = {"small": ("twin",)}
    assert [each.dominated_by for each in offers_of([SMALL, twin], request(), {}, one)] == ["twin", ""]


def test_a_predicted_length_makes_the_cost_and_the_clients_limit_cuts_it() -> None:
    talks, terse = {"mid": Forecast(0.5, tokens=1000.0)}, {"mid": Forecast(0.5, tokens=10.0)}
    assert offer(MID, request(), talks).cost == pytest.approx(10 * 8e-7 + 1000 * 3e-6)
    assert offer(MID, request(max_tokens=100), talks).cost == pytest.approx(10 * 8e-7 + 100 * 3e-6)
    assert offer(MID, request(max_tokens=100), terse).cost == pytest.approx(10 * 8e-7 + 10 * 3e-6)
    assert offer(MID, request()).quality is None
