"""Numbers out of bursts: percentiles over all rounds, ratios within each round."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from benchmarks.load import Result


class Summary(msgspec.Struct, frozen=True):
    """One row at one concurrency, over all of its bursts together."""

    p50_ms: float
    p99_ms: float
    per_second: float  # answers
    answers: int
    outcomes: dict[str, int]  # answers by `Response.outcome`
    generator_cpu: float  # of one core, the highest of any burst


class Ratio(msgspec.Struct, frozen=True):
    """How many times a baseline: the median over the rounds, and its spread."""

    median: float
    low: float
    high: float


def summarise(bursts: Sequence[Result]) -> Summary:
    """Pools the bursts. Raises ValueError when they have no answer at all."""
    latencies = np.concatenate([burst.latencies for burst in bursts])
    if not latencies.size:
        raise ValueError("not one answer came while answers counted: bursts are too short")
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    outcomes: Counter[str] = Counter()
    for burst in bursts:
        outcomes.update(burst.outcomes)
    return Summary(
        p50_ms=float(p50),
        p99_ms=float(p99),
        per_second=latencies.size / sum(burst.seconds for burst in bursts),
        answers=latencies.size,
        outcomes=dict(outcomes),
        generator_cpu=max(burst.cpu for burst in bursts),
    )


def latency_ratio(row: Sequence[Result], baseline: Sequence[Result]) -> Ratio:
    """Median latency as a multiple of the baseline's in the same round.

    The two stood seconds apart, so what the machine did meanwhile to both of them cancels out,
    as it would not in a ratio of medians over all rounds. Both have one burst per round.
    """
    ratios = [
        float(np.median(burst.latencies) / np.median(base.latencies))
        for burst, base in zip(row, baseline, strict=True)
    ]
    return Ratio(float(np.median(ratios)), min(ratios), max(ratios))
