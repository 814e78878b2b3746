"""What is wrong with a slice of the traffic, and how certain it is: the order of the report.

The severity of a concern is the share of answers that are certainly bad: the lower end of a 95 % interval,
not its middle. So a slice with few opinions does not come first by chance, and a bad slice comes first even
if it is small.
"""

import math
from collections.abc import Iterator, Sequence

import msgspec

from extproc.lab.measure.intervals import Interval, wilson

ENOUGH = 30  # samples; a share of fewer is too uncertain to be read
_MATERIAL = 0.05  # the smallest change of a share that is a concern


class Rate(msgspec.Struct, frozen=True):
    """A share, or a mean score in [0, 1], with its 95 % interval (Wilson, 1927; wide for scores)."""

    value: float | None  # null: no samples
    low: float
    high: float
    samples: int
    enough: bool  # whether there are `ENOUGH` samples


class TimeBucket(msgspec.Struct, frozen=True):
    """Hits among samples in one stretch of time."""

    number: int  # from the beginning of the window
    hits: float
    samples: int


class Concern(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    kind: str  # quality, error, fall, rise
    what: str  # feedback, judge, ... or error
    severity: float  # the share of answers that are certainly bad, (0, 1]
    since: int | None = None  # the first bucket after a fall or a rise
    before: float | None = None
    after: float | None = None


def rate(hits: float, samples: int) -> Rate:
    """``hits`` among ``samples``."""
    bounds = wilson(hits, samples)
    value = hits / samples if samples else None
    return Rate(value, bounds.low, bounds.high, samples, samples >= ENOUGH)


def of_quality(name: str, buckets: Sequence[TimeBucket]) -> Iterator[Concern]:
    """The concerns about the opinions of one name: they are bad, or they became worse."""
    total = rate(sum(b.hits for b in buckets), sum(b.samples for b in buckets))
    if total.enough and total.value is not None and total.high < 1:
        yield Concern("quality", name, 1 - total.high)
    yield from _change("fall", name, buckets)


def of_errors(buckets: Sequence[TimeBucket]) -> Iterator[Concern]:
    """The concerns about failures: there are many, or they became more."""
    total = rate(sum(b.hits for b in buckets), sum(b.samples for b in buckets))
    if total.enough and total.low > 0:
        yield Concern("error", "error", total.low)
    spared = [TimeBucket(b.number, b.samples - b.hits, b.samples) for b in buckets]
    for fall in _change("rise", "error", spared):
        yield msgspec.structs.replace(fall, before=_rest(fall.before), after=_rest(fall.after))


def _rest(share: float | None) -> float | None:
    return None if share is None else 1 - share


def _change(kind: str, what: str, buckets: Sequence[TimeBucket]) -> Iterator[Concern]:
    """The point in time of the largest certain fall; its severity is the share of bad answers after it."""
    worst: Concern | None = None
    deepest = 0.0
    for split in range(1, len(buckets)):
        before, after = _sum(buckets[:split]), _sum(buckets[split:])
        if min(before[1], after[1]) < ENOUGH:
            continue
        fall = _certain_fall(before, after)
        if fall > max(_MATERIAL, deepest):
            deepest = fall
            shares = before[0] / before[1], after[0] / after[1]
            worst = Concern(kind, what, 1 - wilson(*after).high, buckets[split].number, *shares)
    if worst is not None:
        yield worst


def _sum(buckets: Sequence[TimeBucket]) -> tuple[float, int]:
    return sum(b.hits for b in buckets), sum(b.samples for b in buckets)


def _certain_fall(before: tuple[float, int], after: tuple[float, int]) -> float:
    """The lower end of the interval of a difference of two independent shares (Newcombe, 1998, method 10)."""
    first, second = before[0] / before[1], after[0] / after[1]
    bounds: tuple[Interval, Interval] = wilson(*before), wilson(*after)
    unsure = math.hypot(first - bounds[0].low, bounds[1].high - second)
    return first - second - unsure
