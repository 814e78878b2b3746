"""The registry's cascades: which models are asked in turn, and when an answer is good enough."""

from typing import Annotated, Literal

from msgspec import Meta

from extproc.registry.section import Fraction, Positive, Seconds, Section

CASCADE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Retry(Section, frozen=True):
    """Envoy asks the same model again before its failure counts."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 1  # calls after the first one
    # Statuses that are tried again, besides broken connections.
    statuses: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = (429, 502, 503, 504)


class Band(Section, frozen=True):
    """The share of answers that a gate should refuse, as it was calibrated."""

    least: Fraction = 0.0  # least share that is expected
    most: Fraction = 1.0  # greatest share that is expected


class Tier(Section, frozen=True):
    """One model of a cascade, and the gate that its answer must pass."""

    model: str  # the public name of a model
    gate: str = ""  # the name of a gate; empty: every answer is kept
    # What is judged of a streamed answer: all of it (`hold`, the client waits), its beginning (`prefix`),
    # or nothing (`off`).
    stream: Literal["hold", "prefix", "off"] = "prefix"
    # The share of answers that the gate should refuse; a metric raises an alarm outside it. (default:
    # 5 points around the share that its artefact was fitted to)
    expected: Band | None = None
    # Seconds until the answer begins and, if a gate holds it, is judged. (default: no bound)
    timeout_s: Seconds | None = None
    retry: Retry | None = None  # asks this model again before the next tier (default: no retry)


class Cascade(Section, frozen=True):
    """Models that are asked in turn until an answer is good enough. The last one is not judged."""

    tiers: Annotated[list[Tier], Meta(min_length=1, max_length=8)]  # the models, cheapest first
    max_calls: Positive | None = None  # greatest number of calls per request (default: all tiers + default)
    deadline_s: Seconds | None = None  # seconds that all calls share until an answer begins (default: none)
