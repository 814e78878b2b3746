"""Chooses the cheapest candidate of a route that can take the request and answers it well enough.

Filter (`can_take`), score (`offer`), pick (`pick`). Tokens are estimated from characters, because each
provider counts them differently. The estimate is good enough to compare prices and to respect context
windows, but not for billing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from extproc.routing.predicted_quality import Forecast
from extproc.vocabulary import Api, ChatRequest, ClusterName, ModelName, Offer, UpstreamName

Forecasts = Mapping[ModelName, Forecast]
# For each model, the models whose quality it did not exceed on held-out outcomes.
Matched = Mapping[ModelName, Collection[ModelName]]

CHARS_PER_TOKEN = 4  # of English prose
# An answer's length where none is predicted and the client sets no limit; the same for every candidate.
USUAL_TOKENS = 256
_NOTHING: Forecasts = {}
_NO_MATCH: Matched = {}


class Price(msgspec.Struct, frozen=True):
    """US dollars per token."""

    input: float
    output: float


class Target(msgspec.Struct, frozen=True):
    """A model as a decision names it."""

    model: ModelName
    upstream_model: UpstreamName
    cluster: ClusterName  # that serves it
    apis: Collection[Api]  # what it speaks
    provider: str = "openai"
    pinnable: bool = True
    price: Price | None = None
    context_window: int | None = None  # tokens of prompt and answer; None: takes any request


def pick(candidates: Iterable[Target], request: ChatRequest) -> Target | None:
    """The cheapest candidate that can take the request; None if none can. Among equals, the first."""
    able = [target for target in candidates if can_take(target, request)]
    return min(able, key=lambda target: expected_cost(target, request), default=None)


def best_offer(offers: Sequence[Offer], bar: float) -> Offer | None:
    """The cheapest offer whose predicted quality reaches the bar; None if there are no offers.

    If none reaches it, the offer with the highest quality; among equals, the cheaper one. Dominated
    candidates are left out.
    """
    worthwhile = [each for each in offers if not each.dominated_by]
    good = [each for each in worthwhile if _quality(each) >= bar]
    if good:
        return min(good, key=lambda each: each.cost)
    return max(worthwhile, key=lambda each: (_quality(each), -each.cost), default=None)


def offers_of(
    candidates: Iterable[Target],
    request: ChatRequest,
    forecasts: Forecasts = _NOTHING,
    matched: Matched = _NO_MATCH,
) -> tuple[Offer, ...]:
    """The candidates that can take the request, and by which other one each is dominated."""
    offers = [offer(target, request, forecasts) for target in candidates if can_take(target, request)]
    return tuple(replace(each, dominated_by=_dominating(each, offers, matched)) for each in offers)


def _dominating(one: Offer, offers: Iterable[Offer], matched: Matched) -> ModelName:
    """The cheapest offer that costs no more than ``one`` and whose quality ``one`` does not exceed.

    Two models of equal cost that do not exceed each other both stay.
    """
    better = [other for other in offers if _dominates(other, one, matched)]
    return min(better, key=lambda other: other.cost).model if better else ModelName("")


def _dominates(other: Offer, one: Offer, matched: Matched) -> bool:
    if other.model not in matched.get(one.model, ()):
        return False
    mutual = one.model in matched.get(other.model, ())
    return other.cost < one.cost or (other.cost == one.cost and not mutual)


def offer(target: Target, request: ChatRequest, forecasts: Forecasts = _NOTHING) -> Offer:
    """The predicted quality and the expected cost of a candidate."""
    forecast = forecasts.get(target.model)
    tokens = forecast.tokens if forecast else None
    return Offer(target.model, forecast.quality if forecast else None, expected_cost(target, request, tokens))


def can_take(target: Target, request: ChatRequest) -> bool:
    """Whether the model speaks the request's API, and prompt and answer are likely to fit its window."""
    if request.api not in target.apis:
        return False
    if target.context_window is None:
        return True
    return prompt_tokens(request) + (request.max_tokens or 0) <= target.context_window


def expected_cost(target: Target, request: ChatRequest, answer_tokens: float | None = None) -> float:
    """US dollars that the request would cost; 0 for a model without a price.

    ``answer_tokens`` is the predicted length of its answer, which the client's limit cuts.
    """
    if target.price is None:
        return 0.0
    if answer_tokens is None:
        answer: float = request.max_tokens or USUAL_TOKENS
    else:
        answer = min(answer_tokens, request.max_tokens or answer_tokens)
    return prompt_tokens(request) * target.price.input + answer * target.price.output


def prompt_tokens(request: ChatRequest) -> int:
    """About how many tokens the model will read."""
    return request.prompt_chars // CHARS_PER_TOKEN


def _quality(offered: Offer) -> float:
    return 0.0 if offered.quality is None else offered.quality
