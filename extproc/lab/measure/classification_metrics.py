"""Measures of decisions: accuracy, out-of-scope detection, calibration and selective risk.

Arrays have one entry for each row. Labels are route numbers; `ABSTAIN` is a truth out of scope or a decision
that abstained. What cannot be computed (a class without rows) is NaN. `intervals` has the intervals of
these measures.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]
Labels = NDArray[np.intp]

ABSTAIN = -1
BINS = 15  # of calibration error and reliability curves
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class PerRoute(msgspec.Struct, frozen=True):
    """Arrays of one entry a route; NaN where a denominator is 0."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: NDArray[np.int64]  # rows whose truth is the route


class Reliability(msgspec.Struct, frozen=True):
    """One entry a bin of equally many rows, least confident first."""

    confidence: Floats  # mean of the bin
    accuracy: Floats
    count: NDArray[np.int64]


class RiskCoverage(msgspec.Struct, frozen=True):
    """The share of wrong rows among those that are kept, when the least confident rows are dropped first.

    Entry k keeps the k + 1 most confident rows; ``threshold`` is the confidence of the last of them.
    """

    coverage: Floats
    risk: Floats
    threshold: Floats


def accuracy(truth: Labels, predicted: Labels) -> float:
    """The share of rows decided as labelled; out of scope, abstaining is right."""
    return float((truth == predicted).mean()) if len(truth) else math.nan


def confusion(truth: Labels, predicted: Labels, routes: int) -> NDArray[np.int64]:
    """Counts, shape (routes + 1, routes + 1): truths down, decisions across.

    The last row is out of scope, the last column abstained.
    """
    size = routes + 1
    cells = np.where(truth < 0, routes, truth) * size + np.where(predicted < 0, routes, predicted)
    return np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.int64)


def per_route(table: NDArray[np.int64]) -> PerRoute:
    """Precision, recall and F1 of each route from a `confusion` matrix.

    F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen, 1979). Out-of-scope rows taken by a route count
    against its precision, abstentions on its rows against its recall.
    """
    hits = np.diag(table)[:-1].astype(np.float64)
    taken, support = table.sum(axis=0)[:-1], table.sum(axis=1)[:-1]
    return PerRoute(
        precision=ratio(hits, taken),
        recall=ratio(hits, support),
        f1=ratio(2 * hits, taken + support),
        support=support,
    )


def macro_f1(table: NDArray[np.int64]) -> float:
    """Mean F1 over the routes that have rows or were decided for (Sokolova and Lapalme, 2009)."""
    f1 = per_route(table).f1
    known = f1[~np.isnan(f1)]
    return float(known.mean()) if len(known) else math.nan


def auroc(inside: Floats, outside: Floats) -> float:
    """P(a row from inside scores above one from outside), ties counting half.

    The Mann-Whitney form of the area under the ROC curve (Hanley and McNeil, 1982).
    """
    if not len(inside) or not len(outside):
        return math.nan
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    not_above = np.searchsorted(ordered, inside, side="right")
    return float((below + not_above).mean() / (2 * len(outside)))


def fpr_at_tpr(inside: Floats, outside: Floats, tpr: float = 0.95) -> float:
    """Share of outside rows accepted at the highest threshold that accepts ``tpr`` of the inside ones.

    A row is accepted when its score is at or above the threshold (Liang et al., 2018).
    """
    if not len(inside) or not len(outside):
        return math.nan
    needed = math.ceil(tpr * len(inside) - 1e-9)
    threshold = np.sort(inside)[::-1][max(needed, 1) - 1]
    return float((outside >= threshold).mean())


def reliability(confidence: Floats, right: Truths, bins: int = BINS) -> Reliability:
    """Mean confidence beside accuracy in bins of equal mass (Nguyen and O'Connor, 2015)."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return Reliability(
        confidence=np.array([confidence[part].mean() for part in parts]),
        accuracy=np.array([right[part].mean() for part in parts]),
        count=np.array([len(part) for part in parts], np.int64),
    )


def ece(confidence: Floats, right: Truths, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al., 2015) over bins of equal mass."""
    curve = reliability(confidence, right, bins)
    return _weighed(np.abs(curve.confidence - curve.accuracy), curve.count)


def debiased_ece(confidence: Floats, right: Truths, bins: int = BINS) -> float:
    """`ece` less an estimate of what chance adds to it; at least 0.

    A perfectly calibrated model has a positive `ece` on any finite set. Kumar, Liang and Ma (2019)
    take 2 ECE - E[ECE of accuracies drawn anew around those seen]. Each bin's accuracy is drawn
    from a normal of its binomial width, so that its gap |d + s Z| is a folded normal, whose mean
    is known: s sqrt(2 / pi) exp(-d^2 / 2 s^2) + d erf(d / (s sqrt 2)).
    """
    curve = reliability(confidence, right, bins)
    gaps = np.abs(curve.confidence - curve.accuracy)
    widths = np.sqrt(curve.accuracy * (1 - curve.accuracy) / curve.count)
    redrawn = np.array([_folded_mean(d, s) for d, s in zip(gaps.tolist(), widths.tolist(), strict=True)])
    return max(0.0, _weighed(2 * gaps - redrawn, curve.count))


def risk_coverage(confidence: Floats, right: Truths) -> RiskCoverage:
    """The risk-coverage curve (El-Yaniv and Wiener, 2010).

    For rows of equal confidence the curve is the expectation over their order, so it does not depend on how
    the file is sorted.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    wrong = _mean_within_ties(ranked, (~right[order]).astype(np.float64))
    kept = np.arange(1, len(order) + 1)
    return RiskCoverage(coverage=kept / len(order), risk=np.cumsum(wrong) / kept, threshold=ranked)


def aurc(curve: RiskCoverage) -> float:
    """Area under the risk-coverage curve: mean risk over all coverages (Geifman et al., 2019)."""
    return float(curve.risk.mean()) if len(curve.risk) else math.nan


def coverage_at_risk(curve: RiskCoverage, risk: float) -> tuple[float, float]:
    """The largest coverage at which at most ``risk`` of what is kept is wrong, and its threshold.

    A threshold keeps or drops rows of equal confidence together. (0, inf) if even the most confident rows are
    wrong too often.
    """
    last_of_tie = np.append(curve.threshold[1:] != curve.threshold[:-1], True)[: len(curve.risk)]
    good = np.flatnonzero((curve.risk <= risk + 1e-12) & last_of_tie)
    if not len(good):
        return 0.0, math.inf
    return float(curve.coverage[good[-1]]), float(curve.threshold[good[-1]])


def quantiles(values: Floats, at: tuple[float, ...] = QUANTILES) -> tuple[float, ...]:
    """Quantiles by linear interpolation (Hyndman and Fan, 1996, type 7)."""
    if not len(values):
        return tuple(math.nan for _ in at)
    return tuple(float(value) for value in np.quantile(values, at))


def ratio(above: NDArray[np.floating], below: NDArray[np.floating] | NDArray[np.integer]) -> Floats:
    """``above / below``, entry by entry; NaN where ``below`` is 0."""
    result: Floats = np.full(above.shape, np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _weighed(values: Floats, count: NDArray[np.int64]) -> float:
    return float((values * count).sum() / count.sum()) if count.sum() else math.nan


def _folded_mean(gap: float, width: float) -> float:
    if width == 0.0:
        return gap
    relative = gap / width
    return width * math.sqrt(2 / math.pi) * math.exp(-(relative**2) / 2) + gap * math.erf(
        relative / math.sqrt(2)
    )


def _mean_within_ties(ranked: Floats, values: Floats) -> Floats:
    """Each value replaced by the mean over the run of equal ``ranked`` keys that it is in."""
    if not len(ranked):
        return values
    run = np.cumsum(np.append(False, ranked[1:] != ranked[:-1]))
    means: Floats = (np.bincount(run, weights=values) / np.bincount(run))[run]
    return means
