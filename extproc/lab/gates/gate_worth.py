"""The quality and cost of a cascade with a gate, beside simpler ways to choose what to escalate."""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.gates.answer_rows import Pair
from extproc.lab.measure.classification_metrics import Floats, auroc, ece, ratio
from extproc.lab.measure.cost_quality import CostQuality, cost_quality
from extproc.lab.measure.intervals import (
    Figure,
    auroc_of,
    bootstrap,
    bootstrap_distance,
    one_by_one,
    wilson,
)

FRACTIONS = (0.95, 0.99)  # of the large model's quality
RESAMPLES = 300  # of figures that sort every resample


class Way(msgspec.Struct, frozen=True):
    """One way to choose the answers to escalate, each at its best threshold."""

    name: str
    costs: tuple[Figure, ...]  # share of always-large's cost at each of FRACTIONS


class Worth(msgspec.Struct, frozen=True):
    """One gate on one set of rows."""

    small: str
    large: str
    second: str
    rows: int
    auroc: Figure  # of P(good) as a classifier of good answers
    ece: Figure
    threshold: float
    configured: float  # escalation
    realised: Figure
    small_quality: float
    large_quality: float
    quality: Figure  # the cascade's, as a share of the large model's
    cost: Figure  # the cascade's, as a share of always-large's
    break_even: float  # escalation above which the large model alone is cheaper
    ways: tuple[Way, ...]

    @property
    def pays(self) -> bool:
        """Whether it costs less than the large model alone."""
        return self.cost.value < 1.0


def worth_of(pair: Pair, likely: Floats, threshold: float, configured: float) -> Worth:
    """``likely`` is P(good) of each row; those below ``threshold`` are escalated."""
    rows, good = len(pair.prompts), pair.good
    up = likely < threshold
    quality = np.where(up, pair.large_score, pair.small_score)
    spent = pair.first_cost + np.where(up, pair.large_cost, 0.0)
    return Worth(
        small=pair.small,
        large=pair.large,
        second=pair.second,
        rows=rows,
        auroc=Figure.of(auroc(likely[good], likely[~good]), bootstrap(auroc_of(likely, good), rows)),
        ece=_ece(pair, likely),
        threshold=threshold,
        configured=configured,
        realised=Figure.of(float(up.mean()), wilson(float(up.sum()), rows)),
        small_quality=float(pair.small_score.mean()),
        large_quality=float(pair.large_score.mean()),
        quality=share_of(quality, pair.large_score),
        cost=share_of(spent, pair.large_cost),
        break_even=break_even(pair),
        ways=tuple(
            _way(name, score, pair if name == "gate" else without_second(pair))
            for name, score in (
                ("gate", -likely),
                ("answer length", pair.length),
                ("random", np.zeros(rows)),
            )
        ),
    )


def break_even(pair: Pair) -> float:
    """The escalation rate e at which first + e * large = large (mean costs); below 0 no gate can pay.

    This is the cost of FrugalGPT's cascade (Chen, Zaharia and Zou, 2023) set equal to that of the large
    model.
    """
    return 1.0 - float(pair.first_cost.mean() / pair.large_cost.mean())


def without_second(pair: Pair) -> Pair:
    """The same rows without second answers."""
    return msgspec.structs.replace(pair, second="", second_cost=np.zeros(len(pair.prompts)))


def cost_at(curve: CostQuality, large_quality: float, fraction: float) -> float:
    """The least cost at which a curve reaches ``fraction`` of the large model's quality."""
    return float(curve.cost[curve.quality >= fraction * large_quality - 1e-9].min())


def _way(name: str, score: Floats, pair: Pair) -> Way:
    return Way(name, tuple(cheapest(score, pair, fraction) for fraction in FRACTIONS))


def cheapest(score: Floats, pair: Pair, fraction: float) -> Figure:
    """The least share of always-large's cost that reaches ``fraction`` of its quality.

    Rows with the highest ``score`` are escalated first. The large model alone is always possible, so no
    figure is above 1.
    """
    first = pair.first_cost

    def share(rows: NDArray[np.intp]) -> float:
        large, cost = pair.large_score[rows], pair.large_cost[rows]
        curve = cost_quality(score[rows], pair.small_score[rows], large, first[rows], first[rows] + cost)
        return min(1.0, cost_at(curve, float(large.mean()), fraction) / float(cost.mean()))

    rows = len(score)
    return Figure.of(share(np.arange(rows)), bootstrap(one_by_one(share), rows, resamples=RESAMPLES))


def share_of(part: Floats, whole: Floats) -> Figure:
    """The ratio of two means over the same rows."""
    statistic: Callable[[Floats], Floats] = lambda weights: ratio(weights @ part, weights @ whole)  # noqa: E731
    return Figure.of(float(part.mean() / whole.mean()), bootstrap(statistic, len(part)))


def _ece(pair: Pair, likely: Floats) -> Figure:
    good = pair.good
    value = ece(likely, good)
    statistic = one_by_one(lambda rows: ece(likely[rows], good[rows]))
    return Figure.of(value, bootstrap_distance(statistic, value, len(good), resamples=RESAMPLES))
