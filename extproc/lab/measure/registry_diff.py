"""Compare two registries on the same rows: what changes, for which rows, and is it within budget?"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from extproc.lab.datasets import labels_of, read_routes
from extproc.lab.measure import classification_metrics
from extproc.lab.measure.classification_metrics import Floats, Labels, Truths
from extproc.lab.measure.flip_rates import flips_of
from extproc.lab.measure.intervals import Interval, Statistic, bootstrap, mcnemar, mean_of
from extproc.lab.measure.replay import CandidateRegistry, decide_all
from extproc.registry.labelled_rows import RouteRow

# How much worse each measure may get, as a difference. `recall` and `precision` apply to every route;
# `recall:ROUTE` and `precision:ROUTE` to one, and override them; so do `flips` and `flips:CHANGE`.
DEFAULT_BUDGETS: Mapping[str, float] = {
    "accuracy": 0.01,
    "outside_kept": 0.05,
    "recall": 0.05,
    "precision": 0.05,
    "flips": 0.05,
}
_LISTED = 20  # broken rows that are shown
_ABSTAINED = ""


class Side(msgspec.Struct, frozen=True):
    """One of the two registries."""

    registry: str
    version: str
    encoder: str
    routes: tuple[str, ...]


class Change(msgspec.Struct, frozen=True):
    """One measure, before and after; NaN (null in JSON) without rows."""

    name: str  # accuracy, outside_kept, flips:CHANGE, recall:ROUTE, precision:ROUTE
    rows: int  # that the new value is measured on
    old: float
    new: float
    low: float  # of new - old: the paired 95 % bootstrap interval
    high: float
    budget: float

    @property
    def worse_by(self) -> float:
        """How much worse NEW is; negative where it is better."""
        lower_is_better = self.name.partition(":")[0] in ("outside_kept", "flips")
        return self.new - self.old if lower_is_better else self.old - self.new

    @property
    def of_one_route(self) -> bool:
        """Whether it measures a single route."""
        return self.name.partition(":")[0] in ("recall", "precision")

    @property
    def over_budget(self) -> bool:
        """Whether it got worse by more than its budget."""
        return self.worse_by > self.budget + 1e-9


class Move(msgspec.Struct, frozen=True):
    """Rows that OLD sent to one route and NEW to another; an empty name is abstaining."""

    old: str
    new: str
    rows: int
    mended: int  # wrong before, right now
    broken: int  # right before, wrong now


class BrokenRow(msgspec.Struct, frozen=True):
    """A row that OLD decided as labelled and NEW does not."""

    text: str
    route: str
    old: str
    new: str


class RegistryComparison(msgspec.Struct, frozen=True):
    """The whole report of `extproc diff`."""

    old: Side
    new: Side
    data: str
    data_version: str
    rows: int
    only_old: int  # rows that only OLD decides as labelled
    only_new: int
    p_value: float  # exact McNemar: how probable such a difference is by chance
    changes: list[Change]
    moves: list[Move]  # the largest first
    routes: list[str]
    confusion_change: list[list[int]]  # NEW's confusion matrix minus OLD's
    broken: list[BrokenRow]

    @property
    def over_budget(self) -> list[Change]:
        """The measures that got worse by more than their budget."""
        return [change for change in self.changes if change.over_budget]


def routes_of(old: CandidateRegistry, new: CandidateRegistry) -> tuple[str, ...]:
    """The routes of both registries: OLD's, then those that NEW adds."""
    return (*old.routes, *(route for route in new.routes if route not in old.routes))


def compare(
    old: CandidateRegistry,
    new: CandidateRegistry,
    data: Path,
    budgets: Mapping[str, float],
    *,
    flips: bool = False,
) -> RegistryComparison:
    """Decide every row with both. If only one registry has a row's route, the other decides the row wrongly.

    With ``flips``, both also decide each row as other people would write it. ``budgets`` has the keys of
    `DEFAULT_BUDGETS` and may have those of single routes and changes. Raises ``DataError``,
    ``EncoderFailed``, ``OperatorError``.
    """
    routes = routes_of(old, new)
    rows = read_routes(data, routes)
    texts = [row.text for row in rows]
    truth = labels_of(rows, routes)
    before = decide_all(old.snapshot, old.encoder, texts, routes).route
    after = decide_all(new.snapshot, new.encoder, texts, routes).route
    right_before, right_after = before == truth, after == truth
    only_old, only_new = int((right_before & ~right_after).sum()), int((right_after & ~right_before).sum())
    flipped: list[Change] = []
    if flips:
        flipped = _flip_changes(
            flips_of(old, texts, before, routes), flips_of(new, texts, after, routes), budgets
        )
    tables = [classification_metrics.confusion(truth, decided, len(routes)) for decided in (before, after)]
    return RegistryComparison(
        old=_side(old),
        new=_side(new),
        data=str(data),
        data_version=hashlib.sha256(data.read_bytes()).hexdigest()[:12],
        rows=len(rows),
        only_old=only_old,
        only_new=only_new,
        p_value=mcnemar(only_old, only_new),
        changes=[
            *_overall_changes(truth, before, after, budgets),
            *flipped,
            *_route_changes(routes, truth, before, after, budgets),
        ],
        moves=_moves(routes, truth, before, after),
        routes=list(routes),
        confusion_change=(tables[1] - tables[0]).tolist(),
        broken=_broken(rows, routes, before, after, right_before & ~right_after),
    )


def _overall_changes(
    truth: Labels, before: Labels, after: Labels, budgets: Mapping[str, float]
) -> list[Change]:
    outside = truth < 0
    return [
        _change("accuracy", before == truth, after == truth, budgets["accuracy"]),
        _change("outside_kept", (before >= 0)[outside], (after >= 0)[outside], budgets["outside_kept"]),
    ]


def _flip_changes(
    before: Mapping[str, Truths], after: Mapping[str, Truths], budgets: Mapping[str, float]
) -> list[Change]:
    return [
        _change(f"flips:{change}", rows, after[change], budgets.get(f"flips:{change}", budgets["flips"]))
        for change, rows in before.items()
    ]


def _route_changes(
    routes: Sequence[str], truth: Labels, before: Labels, after: Labels, budgets: Mapping[str, float]
) -> list[Change]:
    changes = []
    for i, name in enumerate(routes):
        of_route, recall, precision = truth == i, f"recall:{name}", f"precision:{name}"
        recalled = (before == i)[of_route], (after == i)[of_route]
        changes += [
            _change(recall, *recalled, budgets.get(recall, budgets["recall"])),
            _precision(
                precision, of_route, before == i, after == i, budgets.get(precision, budgets["precision"])
            ),
        ]
    return changes


def _change(name: str, before: Truths, after: Truths, budget: float) -> Change:
    """A share of the same rows before and after."""
    gains = after.astype(np.float64) - before
    interval = bootstrap(mean_of(gains), len(gains)) if gains.any() else _unmoved(len(gains))
    return Change(name, len(gains), _mean(before), _mean(after), interval.low, interval.high, budget)


def _precision(name: str, of_route: Truths, before: Truths, after: Truths, budget: float) -> Change:
    """A share of the rows that the route took, which are not the same before and after."""
    taken = before | after
    hit, old, new = (column[taken].astype(np.float64) for column in (of_route, before, after))
    moved = bool((old != new).any())
    interval = bootstrap(_precision_gain(hit, old, new), len(hit)) if moved else _unmoved(len(hit))
    return Change(
        name=name,
        rows=int(after.sum()),
        old=_mean(of_route[before]),
        new=_mean(of_route[after]),
        low=interval.low,
        high=interval.high,
        budget=budget,
    )


def _precision_gain(hit: Floats, old: Floats, new: Floats) -> Statistic:
    return lambda weights: (
        classification_metrics.ratio(weights @ (hit * new), weights @ new)
        - classification_metrics.ratio(weights @ (hit * old), weights @ old)
    )


def _unmoved(rows: int) -> Interval:
    return Interval(0.0, 0.0) if rows else Interval(math.nan, math.nan)


def _mean(values: Truths) -> float:
    return float(values.mean()) if len(values) else math.nan


def _moves(routes: Sequence[str], truth: Labels, before: Labels, after: Labels) -> list[Move]:
    names = [*routes, _ABSTAINED]  # ABSTAIN is the last place
    counts: Counter[tuple[int, int]] = Counter()
    mended: Counter[tuple[int, int]] = Counter()
    broken: Counter[tuple[int, int]] = Counter()
    for i in np.flatnonzero(before != after).tolist():
        move = int(before[i]), int(after[i])
        counts[move] += 1
        mended[move] += int(after[i] == truth[i])
        broken[move] += int(before[i] == truth[i])
    return [
        Move(names[move[0]], names[move[1]], rows, mended[move], broken[move])
        for move, rows in counts.most_common()
    ]


def _broken(
    rows: Sequence[RouteRow], routes: Sequence[str], before: Labels, after: Labels, chosen: Truths
) -> list[BrokenRow]:
    names = [*routes, _ABSTAINED]
    return [
        BrokenRow(rows[i].text, rows[i].route or _ABSTAINED, names[before[i]], names[after[i]])
        for i in np.flatnonzero(chosen)[:_LISTED].tolist()
    ]


def _side(candidate: CandidateRegistry) -> Side:
    loaded = candidate.loaded
    return Side(str(loaded.path), loaded.version, candidate.encoder_name, candidate.routes)
