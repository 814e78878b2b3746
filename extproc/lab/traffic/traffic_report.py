"""The report on recorded traffic: what it says of each route and model. Its JSON has these fields."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from extproc.lab.traffic.concerns import Concern, Rate

BUCKETS = 14  # of the window's trend


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds; null when none was measured."""

    samples: int
    p50: float | None
    p90: float | None
    p99: float | None


class Money(msgspec.Struct, frozen=True):
    """US dollars, of the exchanges whose price and tokens are known.

    The saving compares only those that have a cost and a reference cost.
    """

    priced: int  # exchanges
    cost_usd: float | None
    compared: int
    compared_cost_usd: float | None
    reference_cost_usd: float | None
    saving_usd: float | None
    saving_share: float | None  # of the reference cost


class Tokens(msgspec.Struct, frozen=True):
    """Of the exchanges whose usage is known."""

    counted: int
    input: int
    output: int
    cached: int


class Trend(msgspec.Struct, frozen=True):
    """One bucket of time; what was not measured in it is null."""

    bucket: int
    requests: int
    margin: float | None
    abstained: float | None  # share
    quality: Mapping[str, float]  # mean score by the opinion's name


class Proxies(msgspec.Struct, frozen=True):
    """Hints that answers of one route and model were not good, known without anybody's opinion.

    They do not measure quality: a refusal may be right, a short answer may have been wanted, and a user who
    asks again may have forgotten the answer. So the report shows them beside opinions, and they cause no
    concern. Each share is of the exchanges where the hint can be seen.
    """

    cut_short: Rate  # of answers whose end was seen
    refused: Rate  # of the same, by the model, not by the router
    asks_again: Rate  # of requests with an earlier turn, which another model may have answered
    asked_again_after: Rate  # of answers after which the same conversation went on

    @property
    def rates(self) -> tuple[Rate, ...]:
        """All of them, in the order of the report's columns."""
        return self.cut_short, self.refused, self.asks_again, self.asked_again_after

    @property
    def seen(self) -> bool:
        """Whether any hint can be seen."""
        return any(found.samples for found in self.rates)


class SliceReport(msgspec.Struct, frozen=True):
    """One route and model. An empty route means that no route was chosen; an empty model, Envoy's default."""

    route: str
    model: str
    requests: int
    share: float
    bypassed: int
    quality: Mapping[str, Rate]  # by the opinion's name: feedback, judge, ...
    proxies: Proxies
    errors: Rate
    duration_ms: Latency
    first_token_ms: Latency
    tokens: Tokens
    money: Money
    margin: float | None
    severity: float
    concerns: Sequence[Concern]  # the gravest first


class Unanswered(msgspec.Struct, frozen=True):
    """Requests without a call to a model: the router refused them, or the client left before a decision."""

    why: str  # the label of the error that the client got, e.g. denied; or "client left"
    rule: str  # the rule that denied them; empty: none
    requests: int
    share: float  # of all requests


class RouteReport(msgspec.Struct, frozen=True):
    """One route over time, the requests that abstained but leaned to it included."""

    route: str
    requests: int
    abstained: Rate
    trend: Sequence[Trend]


class CascadeReport(msgspec.Struct, frozen=True):
    """One cascade: how often it asked another model, and what that cost."""

    cascade: str
    requests: int
    attempts_each: float
    escalated: Rate
    thrashed: Rate  # paid for three
    cost_usd: float | None
    wasted_cost_usd: float | None
    wasted_tokens: int | None
    saved_usd: float | None  # against the reference model at once; null where nothing could be compared


class ShadowReport(msgspec.Struct, frozen=True):
    """One model that saw mirrored traffic."""

    route: str
    primary_model: str
    model: str
    requests: int
    errors: Rate
    duration_ms: Latency
    cost_usd: float | None


class Difference(msgspec.Struct, frozen=True):
    """What routing would have saved, in US dollars, for the exchanges with both costs.

    It assumes that a routed request uses the same tokens. A negative saving is what routing costs.
    """

    compared: int
    cost_usd: float | None
    would_cost_usd: float | None
    saving_usd: float | None
    saving_share: float | None  # of the cost


class ObservedReport(msgspec.Struct, frozen=True):
    """Where traffic would have gone that was only observed, and what that would have saved."""

    route: str
    model: str  # empty: nothing was decided, or the request would have been refused
    refusal: str  # the label of the error that the client would have got
    requests: int
    share: float  # of what was observed
    margin: float | None
    money: Difference


class Observation(msgspec.Struct, frozen=True):
    """All requests that were observed and not routed."""

    requests: int
    share: float  # of all requests
    money: Difference
    parts: Sequence[ObservedReport]  # the most requests first


class TrafficReport(msgspec.Struct, frozen=True):
    """The whole report. Times are UTC."""

    begin: datetime
    end: datetime
    bucket_s: float
    requests: int
    errors: Rate
    abstained: Rate
    money: Money
    estimated: int  # exchanges without usage
    estimated_cost_usd: float | None  # of these, roughly; not included in ``money``
    opinions: int
    stray: int  # opinions whose exchange is not in the store
    unanswered: Sequence[Unanswered]  # the most requests first; they are in no slice
    slices: Sequence[SliceReport]  # the worst first
    routes: Sequence[RouteReport]  # in the same order
    cascades: Sequence[CascadeReport]
    shadows: Sequence[ShadowReport]
    observed: Observation | None  # None: everything was routed
