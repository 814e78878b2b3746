"""Hints that answers were not good, known from the first day on, without anybody's opinion.

None of them is quality: a refusal may be right, an answer cut short may have been wanted short, and who
asks again may have forgotten. They stand beside what people and judges said, and they are no cause
for a concern by themselves; where there are no opinions yet, they say where to look first.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.lab.traffic.concerns import Rate, rate

TITLE = "Proxies, not quality"
HEAD = ("cut short", "refused", "asks again", "asked again after")
EXPLAINED = (
    "Cut short: ended by a limit of tokens. Refused: by the API's own word; one in plain prose is not seen. "
    "Asks again: requests that repeat an earlier turn of their conversation. Asked again after: answers "
    "whose conversation went on with such a request; where conversations have an id."
)


class Proxies(msgspec.Struct, frozen=True):
    """Of one route and model. Each share is of the exchanges where the hint could be seen at all."""

    cut_short: Rate  # of answers whose end was seen
    refused: Rate  # of the same, by the model, not by the router
    asks_again: Rate  # of requests with an earlier turn: what others answered before may be why
    asked_again_after: Rate  # of answers after which the same conversation went on

    @property
    def rates(self) -> tuple[Rate, ...]:
        """In the order of ``HEAD``."""
        return self.cut_short, self.refused, self.asks_again, self.asked_again_after

    @property
    def seen(self) -> bool:
        """Whether there is anything to tell."""
        return any(found.samples for found in self.rates)


def proxies_of(row: Mapping[str, Any], followed: Mapping[str, Any] | None) -> Proxies:
    """Of a row of ``traffic_queries.SLICES``, and the row of ``REASKED`` of the same slice, if it has one."""
    after = (int(followed["repeated"]), int(followed["followed"])) if followed else (0, 0)
    return Proxies(
        cut_short=rate(int(row["cut"]), int(row["ended"])),
        refused=rate(int(row["declined"]), int(row["seen"])),
        asks_again=rate(int(row["repeating"]), int(row["conversing"])),
        asked_again_after=rate(*after),
    )
