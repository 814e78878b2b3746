"""Computes what an exchange costs, in US dollars, when its row is written.

A record keeps the cost at the prices of its time. A later change of prices does not change it. If a price or
the usage is not known, the cost is null, never 0.
"""

from collections.abc import Mapping
from typing import Self

import msgspec

from extproc.registry.model_settings import PriceSettings
from extproc.registry.releases import Release, prices_of
from extproc.registry.schema import Registry
from extproc.telemetry.rows import AttemptRow, ExchangeRow, ShadowRow
from extproc.vocabulary import ModelName

_TOKENS = 1e6  # prices are per million

# Estimates for an answer without usage: bytes per token of a request and a plain answer, and bytes of events
# per token of a stream. See docs/observe.md.
_BYTES_A_TOKEN = 4
_STREAMED_BYTES_A_TOKEN = 200


class PriceList(msgspec.Struct, frozen=True):
    """The prices of a registry's models, by public name, and the model that savings refer to."""

    prices: Mapping[ModelName, PriceSettings]
    reference: ModelName = ModelName("")  # empty: there is none, and no reference cost

    @classmethod
    def of(cls, registry: Registry) -> Self:
        """What the models of ``registry`` cost."""
        return cls(prices_of(registry), ModelName(registry.reference))

    @classmethod
    def of_release(cls, release: Release) -> Self:
        """What the models of ``release`` cost."""
        return cls(release.prices, release.reference)

    def cost(self, model: ModelName, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """US dollars for these tokens of ``model``, or None when a price or a count is not known.

        Cached input counts in full, because a registry has no price for it.
        """
        price = self.prices.get(model)
        if price is None or input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * price.input + output_tokens * price.output) / _TOKENS

    def of_exchange(self, row: ExchangeRow) -> ExchangeRow:
        """``row`` with its cost, and its cost at the prices of the reference and of the decided model.

        A cost that is set already stays: for a cascade, it is the sum of its attempts. ``with_doubt`` adds
        what an LLM cost that was asked for the route.
        """
        tokens = row.input_tokens, row.output_tokens
        cost = self.cost(row.served_by or row.model, *tokens) if row.cost_usd is None else row.cost_usd
        return msgspec.structs.replace(
            row,
            cost_usd=cost,
            estimated_cost_usd=self._estimated(row) if cost is None else None,
            reference_cost_usd=self.cost(self.reference, *tokens),
            would_cost_usd=self.cost(row.would_model, *tokens),
        )

    def with_doubt(self, row: ExchangeRow) -> ExchangeRow:
        """``row`` with the cost of the LLM that was asked for its route, which its own cost then includes.

        If the cost of the answer is not known, the sum is not known either.
        """
        asked = self.cost(row.llm_model, row.llm_input_tokens, row.llm_output_tokens)
        if asked is None:
            return row
        total = None if row.cost_usd is None else row.cost_usd + asked
        return msgspec.structs.replace(row, llm_cost_usd=asked, cost_usd=total)

    def _estimated(self, row: ExchangeRow) -> float | None:
        """A rough cost by the sizes of the bodies, for an answer that reported no usage."""
        if row.usage_source != "unknown" or row.refused or row.failed or not row.status:
            return None
        streamed = _STREAMED_BYTES_A_TOKEN if row.stream else _BYTES_A_TOKEN
        read, written = (row.request_bytes or 0) // _BYTES_A_TOKEN, (row.response_bytes or 0) // streamed
        return self.cost(row.served_by or row.model, read, written)

    def of_attempt(self, row: AttemptRow) -> AttemptRow:
        """``row`` with its cost. If the gate refused the answer, all of it was wasted.

        The cost of a second answer is separate.
        """
        second = self.cost(row.second_model, row.second_input_tokens, row.second_output_tokens)
        row = msgspec.structs.replace(row, second_cost_usd=second)
        cost = self.cost(row.model, row.input_tokens, row.output_tokens)
        if row.verdict != "escalate":
            return msgspec.structs.replace(row, cost_usd=cost)
        tokens = (row.input_tokens, row.output_tokens)
        wasted = None if None in tokens else sum(count or 0 for count in tokens)
        return msgspec.structs.replace(row, cost_usd=cost, wasted_tokens=wasted, wasted_cost_usd=cost)

    def of_shadow(self, row: ShadowRow) -> ShadowRow:
        """``row`` with its cost."""
        return msgspec.structs.replace(
            row, cost_usd=self.cost(row.model, row.input_tokens, row.output_tokens)
        )
