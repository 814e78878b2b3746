"""The quality and cost of model choice by predicted quality: for two models, and at every bar.

Two simple routers are measured beside it: a random choice and the prompt's length. Costs are those of the
answers' tokens where the data has them, else those that serving expects.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from extproc.lab.measure import cost_quality
from extproc.lab.measure.classification_metrics import Floats, Labels, Truths, debiased_ece
from extproc.lab.measure.dominance import dominators
from extproc.lab.measure.intervals import NO_FIGURE, Figure, bootstrap, bootstrap_distance, one_by_one

BARS = tuple(round(0.05 * step, 2) for step in range(6, 20))
ENOUGH = 0.95  # of the strong model's quality
_SLOW_RESAMPLES = 500  # of figures that sort every resample
_POINTS = 100
ROUTERS = ("predicted quality", "prompt length", "random")


class Table(msgspec.Struct, frozen=True):
    """Texts that every model answered, a row each."""

    texts: tuple[str, ...]
    models: tuple[str, ...]
    predicted: Floats  # (n, models) P(good), by fits without the row
    scores: Floats  # (n, models) of each answer, 0 to 1
    costs: Floats  # (n, models) US dollars, or calls to the strong model where prices are not known
    expected: Floats  # (n, models) costs that serving expects
    matched: Truths  # (models, models) whether m does not exceed the quality of k: see `dominance`

    def take(self, rows: Labels) -> "Table":
        """Some of the rows."""
        return Table(
            tuple(self.texts[row] for row in rows.tolist()), self.models, self.predicted[rows],
            self.scores[rows], self.costs[rows], self.expected[rows], self.matched,
        )  # fmt: skip


class ModelFigures(msgspec.Struct, frozen=True):
    """One model that answers every request."""

    name: str
    quality: Figure
    cost: float  # mean a request
    calibration: Figure  # debiased error of its predicted quality


class RouterFigures(msgspec.Struct, frozen=True):
    """A choice between the weak and the strong model, over all thresholds."""

    name: str
    apgr: Figure
    cpt50: Figure
    cpt80: Figure
    saving: Figure  # of the all-strong cost, at `ENOUGH` of its quality
    behind: Figure | None  # the lead of predicted quality's APGR, paired; None: itself
    share: list[float]  # of calls to the strong model
    quality: list[float]
    cost: list[float]


class BarFigures(msgspec.Struct, frozen=True):
    """The cheapest model whose predicted quality reaches the bar, else the strongest."""

    bar: float
    quality: Figure
    kept: Figure  # of the strong model's quality
    saving: Figure  # of the all-strong cost
    shares: dict[str, float]  # of requests, by model
    single: str  # the best model that alone costs no more; "": each costs more
    lead: Figure  # of the quality over that of the single model, paired


class Choosing(msgspec.Struct, frozen=True):
    """All figures of a choice between models."""

    rows: int
    models: list[ModelFigures]
    weak: str
    strong: str
    routers: list[RouterFigures]
    bars: list[BarFigures]


class OutcomeReport(msgspec.Struct, frozen=True):
    """Predicted quality on one file of outcomes."""

    registry: str
    version: str
    encoder: str
    data: str
    data_version: str  # 12 hexadecimal digits of the file's SHA-256
    rows: int
    seen: bool  # the model was trained on these rows: the figures are too good
    priced: bool  # costs are US dollars; else calls to the strong model
    choosing: Choosing


def measure(table: Table) -> Choosing:
    """Every figure. The strong model has the best mean score; the weak one is the cheapest of the others."""
    weak, strong = ends(table)
    return Choosing(
        rows=len(table.texts),
        models=[_model(table, m) for m in range(len(table.models))],
        weak=table.models[weak],
        strong=table.models[strong],
        routers=_routers(table, weak, strong),
        bars=[bar_figures(table, strong, bar) for bar in BARS],
    )


def ends(table: Table) -> tuple[int, int]:
    """The weak and the strong model."""
    strong = int(np.argmax(table.scores.mean(axis=0)))
    others = [m for m in range(len(table.models)) if m != strong]
    return min(others, key=lambda m: float(table.costs[:, m].mean())), strong


def chosen_at(predicted: Floats, expected: Floats, bar: float, matched: Truths) -> Labels:
    """The model that `routing.model_choice.best_offer` takes for each row if all models can take it."""
    worthwhile = ~dominators(expected, matched).any(axis=2)
    predicted = np.where(worthwhile, predicted, -1.0)
    good = predicted >= bar
    cheapest = np.where(good, expected, np.inf).argmin(axis=1)
    highest = predicted.max(axis=1, keepdims=True)
    strongest = np.where(predicted == highest, expected, np.inf).argmin(axis=1)
    found: Labels = np.where(good.any(axis=1), cheapest, strongest)
    return found


def advised(choosing: Choosing) -> BarFigures | None:
    """The bar that saves most; the lower end of its kept quality is at least `ENOUGH`.

    A bar at which one model alone is better for the same cost is not advised.
    """
    safe = [
        bar
        for bar in choosing.bars
        if bar.kept.low >= ENOUGH and bar.saving.value > 0 and not bar.lead.value < 0
    ]
    return max(safe, key=lambda bar: bar.saving.value, default=None)


def _model(table: Table, m: int) -> ModelFigures:
    scores, predicted = table.scores[:, m], table.predicted[:, m]
    good = scores >= 0.5

    def error(drawn: Labels) -> float:
        return debiased_ece(predicted[drawn], good[drawn])

    every = np.arange(len(scores), dtype=np.intp)
    off = error(every)
    return ModelFigures(
        name=table.models[m],
        quality=_mean(scores),
        cost=float(table.costs[:, m].mean()),
        calibration=Figure.of(
            off, bootstrap_distance(one_by_one(error), off, len(scores), resamples=_SLOW_RESAMPLES)
        ),
    )


def _routers(table: Table, weak: int, strong: int) -> list[RouterFigures]:
    gain = table.predicted[:, strong] - table.predicted[:, weak]
    lengths = np.array([len(text) for text in table.texts], np.float64)
    # Requests with equal scores move together, so equal scores give the expectation of a random choice.
    scores = dict(zip(ROUTERS, (gain, lengths, np.zeros(len(gain))), strict=True))
    return [_router(name, score, gain, table, weak, strong) for name, score in scores.items()]


def _router(name: str, score: Floats, own: Floats, table: Table, weak: int, strong: int) -> RouterFigures:
    rows = len(score)
    low, high = table.scores[:, weak], table.scores[:, strong]
    low_cost, high_cost = table.costs[:, weak], table.costs[:, strong]

    def curve(drawn: Labels) -> cost_quality.CostQuality:
        return cost_quality.cost_quality(
            score[drawn], low[drawn], high[drawn], low_cost[drawn], high_cost[drawn]
        )

    def slow(metric: Callable[[cost_quality.CostQuality], float]) -> Figure:
        statistic = one_by_one(lambda drawn: metric(curve(drawn)))
        return Figure.of(metric(whole), bootstrap(statistic, rows, resamples=_SLOW_RESAMPLES))

    whole = curve(np.arange(rows, dtype=np.intp))
    ours, theirs = (cost_quality.apgr_of(each, low, high) for each in (own, score))
    lead = cost_quality.apgr(cost_quality.cost_quality(own, low, high)) - cost_quality.apgr(whole)
    points = np.unique(np.linspace(0, rows, _POINTS).astype(int)).tolist()
    return RouterFigures(
        name=name,
        apgr=Figure.of(cost_quality.apgr(whole), bootstrap(theirs, rows)),
        cpt50=slow(lambda found: cost_quality.cpt(found, 0.5)),
        cpt80=slow(lambda found: cost_quality.cpt(found, 0.8)),
        saving=slow(lambda found: cost_quality.saving_at(found, ENOUGH)),
        behind=None
        if name == ROUTERS[0]
        else Figure.of(lead, bootstrap(lambda weights: ours(weights) - theirs(weights), rows)),
        share=[float(whole.strong_share[i]) for i in points],
        quality=[float(whole.quality[i]) for i in points],
        cost=[float(whole.cost[i]) for i in points],
    )


def bar_figures(table: Table, strong: int, bar: float) -> BarFigures:
    """What the choice at one bar gives."""
    chosen = chosen_at(table.predicted, table.expected, bar, table.matched)
    rows = np.arange(len(chosen))
    score, cost = table.scores[rows, chosen], table.costs[rows, chosen]
    share = np.bincount(chosen, minlength=len(table.models)) / len(chosen)
    single = _best_single(table, float(cost.mean()))
    return BarFigures(
        bar=bar,
        quality=_mean(score),
        kept=_ratio(score, table.scores[:, strong]),
        saving=_less(_ratio(cost, table.costs[:, strong])),
        shares=dict(zip(table.models, share.tolist(), strict=True)),
        single="" if single is None else table.models[single],
        lead=NO_FIGURE if single is None else _mean(score - table.scores[:, single]),
    )


def _best_single(table: Table, cost: float) -> int | None:
    """The model with the best mean score of those whose mean cost is at most ``cost``."""
    means, costs = table.scores.mean(axis=0), table.costs.mean(axis=0)
    affordable = [m for m in range(len(table.models)) if costs[m] <= cost * (1 + 1e-9)]
    return max(affordable, key=lambda m: float(means[m]), default=None)


def _mean(values: Floats) -> Figure:
    return _ratio(values, np.ones(len(values)))


def _ratio(part: Floats, whole: Floats) -> Figure:
    """A ratio of sums over the same rows, resampled together (ratio estimator, Cochran, 1977)."""
    total = float(whole.sum())
    if total <= 0:
        return NO_FIGURE

    def statistic(weights: Floats) -> Floats:
        below = weights @ whole
        found: Floats = np.divide(weights @ part, below, out=np.full(len(below), np.nan), where=below > 0)
        return found

    return Figure.of(float(part.sum()) / total, bootstrap(statistic, len(part)))


def _less(share: Figure) -> Figure:
    """The saving where ``share`` is spent."""
    return Figure(1 - share.value, 1 - share.high, 1 - share.low)


def answered_by_all(scores: Floats) -> Labels:
    """The rows that every model answered."""
    return np.flatnonzero(~np.isnan(scores).any(axis=1))
