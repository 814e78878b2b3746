"""Intervals of figures (Wilson, bootstrap), and the exact McNemar test."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import Floats, Labels, Truths, confusion, per_route, ratio

RESAMPLES = 2000
LEVEL = 0.95
_Z = 1.959963984540054  # the two-sided normal quantile of LEVEL
_BLOCK = 2_000_000  # weights held at once: 16 MB

# How often each row was drawn, shape (resamples, rows) -> the statistic of each, shape (resamples,).
Statistic = Callable[[Floats], Floats]


class Interval(msgspec.Struct, frozen=True):
    """A 95 % interval."""

    low: float
    high: float


class Figure(msgspec.Struct, frozen=True):
    """A value with its 95 % interval; all NaN (null in JSON) if it cannot be computed."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, interval: Interval) -> "Figure":
        """A value that is NaN has no interval either."""
        return NO_FIGURE if math.isnan(value) else cls(value, interval.low, interval.high)


NO_FIGURE = Figure(math.nan, math.nan, math.nan)


def wilson(hits: float, rows: int) -> Interval:
    """The score interval of a share (Wilson, 1927), which holds near 0 and 1 and for few rows, too."""
    if rows == 0:
        return Interval(0.0, 1.0)
    share, unsure = hits / rows, _Z**2 / rows
    centre = (share + unsure / 2) / (1 + unsure)
    half = _Z / (1 + unsure) * math.sqrt(share * (1 - share) / rows + unsure / (4 * rows))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def share(hits: Truths) -> Figure:
    """The share of true entries, with Wilson's interval."""
    rows = len(hits)
    return Figure.of(float(hits.mean()) if rows else math.nan, wilson(int(hits.sum()), rows))


def bootstrap(statistic: Statistic, rows: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile interval (Efron, 1979) of a statistic of rows resampled with replacement.

    ``statistic`` gets the weights of many resamples and returns a value for each. For a paired interval it
    uses the same weights for both systems. Resamples whose value is NaN (without a row of a class) are
    ignored.
    """
    return percentile_interval(_resampled(statistic, rows, resamples, seed))


def bootstrap_distance(
    statistic: Statistic, value: float, rows: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The interval of a distance from zero, such as a calibration error, whose figure is ``value``.

    Resampling adds noise, which makes a distance larger. The mean increase is subtracted again, and the
    spread remains (the bias correction of Efron and Tibshirani, 1993, chapter 10).
    """
    found = _resampled(statistic, rows, resamples, seed)
    interval = percentile_interval(found)
    added = float(np.nanmean(found)) - value if len(found) else math.nan
    return Interval(max(0.0, interval.low - added), max(0.0, interval.high - added))


def _resampled(statistic: Statistic, rows: int, resamples: int, seed: int) -> Floats:
    """The statistic of each resample, in blocks that bound the memory."""
    if rows == 0:
        return np.empty(0)
    random = np.random.default_rng(seed)
    per_block = max(1, _BLOCK // rows)
    found: list[Floats] = []
    for start in range(0, resamples, per_block):
        count = min(per_block, resamples - start)
        drawn = random.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        found.append(statistic(weights.astype(np.float64)))
    return np.concatenate(found)


def percentile_interval(values: Floats) -> Interval:
    """The middle 95 % of the resamples' values; NaN if none is a number."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def mean_of(values: NDArray[np.floating] | Truths) -> Statistic:
    """The mean of ``values``; for differences of two systems on the same rows, a paired statistic."""
    numbers = values.astype(np.float64)
    return lambda weights: weights @ numbers / len(numbers)


def auroc_of(scores: Floats, inside: Truths) -> Statistic:
    """``classification_metrics.auroc`` of resampled rows; ``inside`` says which rows are in scope."""
    order = np.argsort(scores, kind="stable")
    ranked, is_inside = scores[order], inside[order].astype(np.float64)
    first_of_tie = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))

    def statistic(weights: Floats) -> Floats:
        drawn = weights[:, order]
        ins = np.add.reduceat(drawn * is_inside, first_of_tie, axis=1)
        outs = np.add.reduceat(drawn * (1 - is_inside), first_of_tie, axis=1)
        wins = (ins * (np.cumsum(outs, axis=1) - outs / 2)).sum(axis=1)
        pairs = ins.sum(axis=1) * outs.sum(axis=1)
        return ratio(wins, pairs)

    return statistic


def one_by_one(
    metric: Callable[[NDArray[np.intp]], float], order: NDArray[np.intp] | None = None
) -> Statistic:
    """A statistic that computes ``metric`` of the drawn row numbers, one resample after the other.

    For metrics that sort or bin their rows (calibration error). ``order`` sets the order of the rows.
    """

    def statistic(weights: Floats) -> Floats:
        turns = np.arange(weights.shape[1]) if order is None else order
        counts = weights[:, turns].astype(np.intp)
        return np.array([metric(np.repeat(turns, drawn)) for drawn in counts])

    return statistic


def bootstrap_macro_f1(
    truth: Labels, predicted: Labels, routes: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The bootstrap interval of macro F1.

    Rows in one cell of the confusion matrix are equal, so resampling rows is the same as drawing the cells'
    counts from a multinomial distribution. The time does not depend on the number of rows.
    """
    table = confusion(truth, predicted, routes)
    counted = ~np.isnan(per_route(table).f1)  # the same routes as in the figure itself
    if not counted.any():
        return Interval(math.nan, math.nan)
    truths, decisions = np.nonzero(table)  # of thousands of cells of many routes, most are empty
    counts = table[truths, decisions]
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    names = np.arange(routes)
    of_truth, of_decision = truths[:, None] == names, decisions[:, None] == names  # (cells, routes)
    hits = drawn @ (of_truth & of_decision).astype(np.float64)
    both = drawn @ (of_truth.astype(np.float64) + of_decision)
    f1 = np.divide(2 * hits, both, out=np.zeros(both.shape), where=both > 0)
    return percentile_interval(f1[:, counted].mean(axis=1))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two systems are right equally often (McNemar, 1947).

    The arguments count the rows that only one of the two decided rightly. Under the null hypothesis each of
    them is a fair coin, so this is the binomial test.
    """
    rows = only_first + only_second
    term = total = 1
    for k in range(min(only_first, only_second)):
        term = term * (rows - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**rows) if rows else 1.0
