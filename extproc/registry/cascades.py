"""The registry's cascades: which models are asked in turn, and when an answer is good enough."""

from typing import Annotated, Literal

from msgspec import Meta

from extproc.registry.section import Fraction, Positive, Seconds, Section

CASCADE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Retry(Section, frozen=True):
    """How often Envoy asks the same model again before its failure counts."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 1  # beside the first
    statuses: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = (429, 502, 503, 504)


class Band(Section, frozen=True):
    """Between which shares of its answers a gate should refuse, as it was calibrated."""

    least: Fraction = 0.0
    most: Fraction = 1.0


class Tier(Section, frozen=True):
    """One model of a cascade, and what its answer must pass for the client to get it."""

    model: str
    gate: str = ""  # of `gates`; empty: whatever it answers is good enough
    # Of streamed answers is judged: all of it (the client gets nothing before), its beginning, nothing.
    stream: Literal["hold", "prefix", "off"] = "prefix"
    expected: Band | None = None  # escalation; a metric tells when it is another. None: whatever it is
    timeout_s: Seconds | None = None  # until its answer begins and, where a gate holds it, is judged
    retry: Retry | None = None


class Cascade(Section, frozen=True):
    """Models asked in turn until one gives an answer that is good enough. The last is never judged."""

    tiers: Annotated[list[Tier], Meta(min_length=1, max_length=8)]
    max_calls: Positive | None = None  # of models for one request; None: the tiers and the default
    deadline_s: Seconds | None = None  # that all calls share, until an answer begins
