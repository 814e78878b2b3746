"""When to abstain: choose both floors on held-out rows, by costs of mistakes or for a share of wrong rows."""

import math

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import Floats, Labels, Truths

KNOWN_STRANGERS = 50  # rows out of scope from which on they are weighed and floors are learnt
STRANGERS = 0.15  # the share of traffic that belongs to no route; labelled rows have fewer
_LEAST_KEPT = 0.5  # of the rows in scope
_PRIOR_ROWS = (
    200  # known out of scope: with as many, learnt floors are drawn half the way to the default ones
)
_PRIOR_MADE = 2000  # the same for made rows, which are not what strangers will be
_TRIED = 60  # floors on P(in scope)


class Costs(msgspec.Struct, frozen=True):
    """What mistakes cost, relative to each other. A right decision costs nothing."""

    wrong: float = 2.0  # a row in scope that gets another route
    abstained: float = 1.0  # a row in scope that gets the default
    stranger: float = 2.0  # a row out of scope that gets a route


EQUAL_COSTS = Costs(1.0, 1.0, 1.0)  # the cost is then the share of rows not decided as labelled


class Aim(msgspec.Struct, frozen=True):
    """What floors are chosen for: the least cost, or a share of wrong rows."""

    costs: Costs = Costs()
    target_wrong: float | None = None  # of the kept rows; in place of costs


class Floors(msgspec.Struct, frozen=True):
    """Below either floor the default model answers."""

    margin: float
    in_scope: float


class ScoredRows(msgspec.Struct, frozen=True):
    """Held-out rows as a head decides them before floors."""

    margin: Floats
    in_scope: Floats
    right: Truths  # the most probable route is the true one
    inside: Truths

    def after(self, others: "ScoredRows") -> "ScoredRows":
        """These rows and the others."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(others), strict=True)
        return ScoredRows(*(np.concatenate(pair) for pair in pairs))


class Selected(msgspec.Struct, frozen=True):
    """Two floors, and their figures on held-out rows."""

    floors: Floors
    coverage: float  # share of rows kept
    wrong: float  # share of the kept rows that are wrong, as weighed below; NaN if no row is kept
    learnt: bool = True  # False: the default floors


def kept(margin: Floats, in_scope: Floats, floors: Floors) -> Truths:
    """Which rows pass both floors, as serving applies them."""
    passed: Truths = (margin >= floors.margin) & (in_scope >= floors.in_scope)
    return passed


def choose_floors(rows: ScoredRows, made: ScoredRows, aim: Aim, default: Floors) -> Selected:
    """The floors for ``aim``, or the default ones where those are no better.

    ``made`` has the rows in scope once more, as if their own route did not exist. They stand for strangers
    where ``rows`` has fewer than ``KNOWN_STRANGERS``. The best of many floors looks better on few rows than
    it is, so it is drawn towards the default. With costs it must also cost less. Floors that keep fewer than
    half of the rows in scope are never used.
    """
    default = moved(default, aim.costs)
    known = int((~rows.inside).sum())
    few = known < KNOWN_STRANGERS
    seen = _rounded(rows.after(made) if few else rows)
    weight = stranger_weights(seen.inside, made=few)
    share = len(made.inside) / (len(made.inside) + _PRIOR_MADE) if few else known / (known + _PRIOR_ROWS)
    floors = _drawn(_best(seen, weight, aim), default, share)
    learnt = share > 0 and _keeps_enough(seen, floors)
    if aim.target_wrong is None:
        learnt = learnt and _cost(seen, weight, aim, floors) < _cost(seen, weight, aim, default)
    floors = floors if learnt else default
    passed = kept(rows.margin, rows.in_scope, floors)
    coverage = float(passed.mean()) if len(passed) else math.nan
    return Selected(floors, coverage, _wrong(passed, rows.right, stranger_weights(rows.inside)), learnt)


def moved(default: Floors, costs: Costs) -> Floors:
    """The default floors where costs are not the usual ones, by Bayes' rule.

    A row is kept where its probability of being wrong, times that cost, is less than the cost of abstaining.
    So the odds of P(in scope) follow the cost of a stranger, and what the margin lacks of 1 falls as a wrong
    route costs more.
    """
    usual = Costs()
    wrong = (costs.wrong / costs.abstained) / (usual.wrong / usual.abstained)
    stranger = (costs.stranger / costs.abstained) / (usual.stranger / usual.abstained)
    odds = stranger * default.in_scope / max(1.0 - default.in_scope, 1e-9)
    margin = max(0.0, 1.0 - (1.0 - default.margin) / wrong) if wrong > 0 else 0.0
    return Floors(round(margin, 4), default.in_scope if stranger == 1 else round(odds / (1.0 + odds), 4))


def row_costs(passed: Truths, right: Truths, inside: Truths, costs: Costs) -> Floats:
    """What each row costs, as decided."""
    of_kept = np.where(inside, np.where(right, 0.0, costs.wrong), costs.stranger)
    return np.where(passed, of_kept, np.where(inside, costs.abstained, 0.0))


def stranger_weights(inside: Truths, *, made: bool = False) -> Floats:
    """1 for a row in scope. Rows out of scope weigh their share of traffic, if enough are known or made.

    If some are made they weigh no more than that, however many there are.
    """
    strangers = int((~inside).sum())
    if strangers == 0 or (strangers < KNOWN_STRANGERS and not made):
        return np.ones(len(inside))
    usual = STRANGERS / (1 - STRANGERS) * int(inside.sum()) / strangers
    return np.where(inside, 1.0, usual if made else max(1.0, usual))


def _best(rows: ScoredRows, weight: Floats, aim: Aim) -> Floors:
    """The best point of all risk-coverage curves (El-Yaniv and Wiener, 2010), one a floor on P(in scope)."""
    best, chosen = -math.inf, Floors(1.0, 1.0)
    for floor in _scope_floors(rows.in_scope):
        near = np.flatnonzero(rows.in_scope >= floor)
        order = near[np.argsort(-rows.margin[near], kind="stable")]
        last_of_tie = np.flatnonzero(np.append(np.diff(rows.margin[order]) != 0, True)[: len(order)])
        if not len(last_of_tie):
            continue
        merits = _merits(rows, order, weight, aim)[last_of_tie]
        if merits.max() > best:
            best = float(merits.max())
            chosen = Floors(_below(rows.margin[order], int(last_of_tie[merits.argmax()])), floor)
    return chosen


def _below(falling: Floats, place: int) -> float:
    """Halfway from the value at ``place`` to the next one; 0 if there is none, for no row needs a floor."""
    return float(falling[place] + falling[place + 1]) / 2 if place + 1 < len(falling) else 0.0


def _merits(rows: ScoredRows, order: Labels, weight: Floats, aim: Aim) -> Floats:
    """The merit of keeping the first row of ``order``, the first two, and so on.

    With costs, it is what is saved beside keeping no row. With a target it is the number of right rows where
    the target is met; elsewhere it is negative, and the lower the larger the share of wrong rows.
    """
    right, inside, weight = rows.right[order], rows.inside[order], weight[order]
    if aim.target_wrong is None:
        every = np.ones(len(order), bool)
        saved = row_costs(~every, right, inside, aim.costs) - row_costs(every, right, inside, aim.costs)
        return np.cumsum(saved * weight)
    wrong = np.cumsum(~right * weight) / np.cumsum(weight)
    return np.where(wrong <= aim.target_wrong, np.cumsum(right), -wrong)


def _cost(rows: ScoredRows, weight: Floats, aim: Aim, floors: Floors) -> float:
    passed = kept(rows.margin, rows.in_scope, floors)
    return float(np.average(row_costs(passed, rows.right, rows.inside, aim.costs), weights=weight))


def _keeps_enough(rows: ScoredRows, floors: Floors) -> bool:
    inside = rows.inside
    return bool(inside.any() and kept(rows.margin, rows.in_scope, floors)[inside].mean() >= _LEAST_KEPT)


def _wrong(passed: Truths, right: Truths, weight: Floats) -> float:
    """The share of the kept rows that are wrong; NaN if none is kept."""
    return float(np.average(~right[passed], weights=weight[passed])) if passed.any() else math.nan


def _drawn(learnt: Floors, default: Floors, share: float) -> Floors:
    return Floors(
        round(share * learnt.margin + (1 - share) * default.margin, 4),
        round(share * learnt.in_scope + (1 - share) * default.in_scope, 4),
    )


def _scope_floors(in_scope: Floats) -> list[float]:
    """The floors on P(in scope) to try, lowest first: 0 and values halfway between those of rows."""
    if not len(in_scope):
        return [0.0]
    values = np.unique(in_scope)
    between = np.quantile((values[:-1] + values[1:]) / 2, np.linspace(0, 1, _TRIED), method="lower")
    return [0.0, *np.unique(between).tolist()] if len(values) > 1 else [0.0]


def _rounded(rows: ScoredRows) -> ScoredRows:
    """Rounded down to four digits before floors are chosen, so that the printed floors decide alike."""
    margin, in_scope = (np.floor(values * 1e4) / 1e4 for values in (rows.margin, rows.in_scope))
    return msgspec.structs.replace(rows, margin=margin, in_scope=in_scope)
