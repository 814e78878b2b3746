"""The cost and quality of a choice between a weak and a strong model, by the measures of RouteLLM.

Ong et al. (2024), "RouteLLM: Learning to Route LLMs with Preference Data". A score says how much
each request needs the strong model; a lower threshold sends it more calls. Figures of requests with
equal scores are expectations over their order, so they do not depend on how the file is sorted. A random
router (equal scores) has APGR .5 and CPT(x) = x.
"""

import math

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import Floats, Labels, ratio
from extproc.lab.measure.intervals import Statistic


class CostQuality(msgspec.Struct, frozen=True):
    """Entry k: the k requests that need it most go to the strong model. Arrays of rows + 1 entries."""

    strong_share: Floats  # of calls, 0 to 1
    quality: Floats  # mean over all requests
    cost: Floats  # mean a request, in the unit of the costs given; else the share of strong calls

    @property
    def weak_quality(self) -> float:
        """Quality with every request at the weak model."""
        return float(self.quality[0])

    @property
    def strong_quality(self) -> float:
        """Quality with every request at the strong model."""
        return float(self.quality[-1])


def cost_quality(
    score: Floats,
    weak: Floats,
    strong: Floats,
    weak_cost: Floats | float = 0.0,
    strong_cost: Floats | float = 1.0,
) -> CostQuality:
    """The curve over all thresholds. ``weak`` and ``strong`` are each request's quality, 0 to 1."""
    order, group = _ranked(score)
    rows = len(order)
    weak_costs, strong_costs = np.broadcast_to(weak_cost, rows), np.broadcast_to(strong_cost, rows)
    gains = _shared_out((strong - weak)[order], group)
    extra = _shared_out((strong_costs - weak_costs)[order], group)
    return CostQuality(
        strong_share=np.arange(rows + 1) / rows,
        quality=weak.mean() + np.append(0.0, np.cumsum(gains)) / rows,
        cost=weak_costs.mean() + np.append(0.0, np.cumsum(extra)) / rows,
    )


def gap_recovered(curve: CostQuality) -> Floats:
    """Performance gap recovered, PGR = (quality - weak) / (strong - weak), at each threshold.

    NaN if the strong model is not better than the weak one.
    """
    gap = curve.strong_quality - curve.weak_quality
    if gap <= 1e-12:
        return np.full(len(curve.quality), np.nan)
    recovered: Floats = (curve.quality - curve.weak_quality) / gap
    return recovered


def apgr(curve: CostQuality) -> float:
    """Average PGR over the share of calls to the strong model, by the trapezoidal rule.

    RouteLLM samples ten shares; this integrates over all of them.
    """
    recovered = gap_recovered(curve)
    return float((recovered[1:] + recovered[:-1]).sum() / 2 / (len(recovered) - 1))


def cpt(curve: CostQuality, recovered: float) -> float:
    """Call-performance threshold, CPT(x): the least share of strong calls whose PGR is x (``recovered``)."""
    pgr = gap_recovered(curve)
    enough = np.flatnonzero(pgr >= recovered - 1e-9)
    return float(curve.strong_share[enough[0]]) if len(enough) else math.nan


def saving_at(curve: CostQuality, fraction: float = 0.95) -> float:
    """The share of the all-strong cost saved at ``fraction`` of the strong model's quality.

    It is that of the cheapest point of the curve that is good enough. Sending all to the strong model saves
    0.
    """
    good = curve.cost[curve.quality >= fraction * curve.strong_quality - 1e-9]
    spent = float(curve.cost[-1])
    return 1 - float(good.min()) / spent if spent > 0 else math.nan


def apgr_of(score: Floats, weak: Floats, strong: Floats) -> Statistic:
    """`apgr` of resampled requests, for `intervals.bootstrap`.

    A paired interval of two scores is that of the difference of their statistics.
    """
    order, group = _ranked(score)
    first_of_tie = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    gains = (strong - weak)[order]

    def statistic(weights: Floats) -> Floats:
        drawn = weights[:, order]
        calls = np.add.reduceat(drawn, first_of_tie, axis=1)
        gained = np.add.reduceat(drawn * gains, first_of_tie, axis=1)
        reached = np.cumsum(gained, axis=1)
        area = (calls * (reached - gained / 2)).sum(axis=1) / drawn.sum(axis=1)
        gap = reached[:, -1]
        return ratio(area, np.where(gap > 1e-12, gap, 0.0))

    return statistic


def _ranked(score: Floats) -> tuple[Labels, Labels]:
    """Row numbers, the highest score first, and the number of each one's run of equal scores."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    return order, np.cumsum(np.append(False, ranked[1:] != ranked[:-1]))


def _shared_out(values: Floats, group: Labels) -> Floats:
    means: Floats = np.bincount(group, weights=values) / np.bincount(group)
    return means[group]
