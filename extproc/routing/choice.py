"""Model choice: of a route's candidates, the cheapest that can take the request.

Filter, score, pick. Tokens are estimated from characters, since every provider counts its own:
good enough to compare prices and to keep a novel away from a small window, not to bill by.
"""

from collections.abc import Collection, Iterable

import msgspec

from extproc.vocabulary import Api, ChatRequest

_CHARS_PER_TOKEN = 4  # of English prose
# What an answer is taken to cost where the client sets no limit; the same for every candidate.
_ANSWER_TOKENS = 256


class Price(msgspec.Struct, frozen=True):
    """US dollars per token."""

    input: float
    output: float


class Target(msgspec.Struct, frozen=True):
    """A model as a decision names it."""

    model: str  # the registry's public name
    upstream_model: str  # what its provider calls it
    cluster: str  # the Envoy cluster that serves it
    apis: Collection[Api]  # what it speaks
    provider: str = "openai"
    pinnable: bool = True
    price: Price | None = None
    context_window: int | None = None  # tokens of prompt and answer; None: takes any request


def pick(candidates: Iterable[Target], request: ChatRequest) -> Target | None:
    """The cheapest candidate that can take the request, the first of equals; None when none can."""
    able = [target for target in candidates if can_take(target, request)]
    return min(able, key=lambda target: expected_cost(target, request), default=None)


def can_take(target: Target, request: ChatRequest) -> bool:
    """Whether the model speaks the request's API, and prompt and answer are likely to fit its window."""
    if request.api not in target.apis:
        return False
    if target.context_window is None:
        return True
    return prompt_tokens(request) + (request.max_tokens or 0) <= target.context_window


def expected_cost(target: Target, request: ChatRequest) -> float:
    """US dollars that the request would cost; 0 for a model without a price."""
    if target.price is None:
        return 0.0
    answer = request.max_tokens or _ANSWER_TOKENS
    return prompt_tokens(request) * target.price.input + answer * target.price.output


def prompt_tokens(request: ChatRequest) -> int:
    """About how many tokens the model will read."""
    return request.prompt_chars // _CHARS_PER_TOKEN
