"""When to abstain: choose both floors on held-out rows."""

import math

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import Floats, Truths

_LEAST_KEPT = 0.5  # of the rows in scope
_KNOWN_STRANGERS = 50  # rows out of scope from which on they are weighed and the floors are drawn
_PRIOR_ROWS = 200  # out of scope: with as many, learnt floors are drawn half the way to the default ones
_TRIED = 60  # floors on P(in scope)
_RARELY_SO_FAR = 0.01  # the share of rows in scope below the floor on P(in scope), without rows out of scope
_STRANGERS = 0.15  # the share of traffic that belongs to no route; labelled rows have fewer


class Floors(msgspec.Struct, frozen=True):
    """Below either floor the default model answers."""

    margin: float
    in_scope: float


class Selected(msgspec.Struct, frozen=True):
    """Two floors, and their figures on held-out rows."""

    floors: Floors
    coverage: float  # share of rows kept
    wrong: float  # share of the kept rows that are wrong, as weighed below; NaN if no row is kept
    learnt: bool = True  # False: the default floors, which decide at least as many held-out rows as labelled


def kept(margin: Floats, in_scope: Floats, floors: Floors) -> Truths:
    """Which rows pass both floors, as serving applies them."""
    passed: Truths = (margin >= floors.margin) & (in_scope >= floors.in_scope)
    return passed


def choose_floors(
    margin: Floats, in_scope: Floats, right: Truths, inside: Truths, target: float, default: Floors
) -> Selected:
    """The floors that keep most right rows while at most ``target`` of the kept rows are wrong.

    Each floor on P(in scope) has a risk-coverage curve over the margin floors (El-Yaniv and Wiener, 2010);
    the result is the best point of all curves. A kept row out of scope is wrong, and such rows count as the
    share of traffic that they usually are. If no floors reach the target, the least share of wrong rows
    decides. The best of many floors looks better on few rows out of scope than it is, so the result is drawn
    towards ``default``. Without such rows, the floor on P(in scope) is a low quantile of the rows in scope.
    """
    margin, in_scope = _rounded(margin), _rounded(in_scope)
    weight = _weights(inside)
    best: tuple[float, float, float] | None = None  # (target reached, right rows kept or share wrong, -floor)
    chosen = Floors(1.0, 1.0)
    for floor in _scope_floors(in_scope, inside):
        near = np.flatnonzero(in_scope >= floor)
        order = near[np.argsort(-margin[near], kind="stable")]
        if not len(order):
            continue
        wrong = np.cumsum(~right[order] * weight[order]) / np.cumsum(weight[order])
        gained = np.cumsum(right[order])
        last_of_tie = np.append(np.diff(margin[order]) != 0, True)
        for reached in (True, False):
            places = np.flatnonzero(last_of_tie & ((wrong <= target) == reached))
            if not len(places):
                continue
            place = places[np.argmax(gained[places])] if reached else places[np.argmin(wrong[places])]
            merit = (float(reached), gained[place] if reached else -wrong[place], -floor)
            if best is None or merit > best:
                best, chosen = merit, Floors(max(0.0, float(margin[order[place]])), floor)
    chosen = _drawn(chosen, default, int((~inside).sum()))
    passed = kept(margin, in_scope, chosen)
    return Selected(chosen, float(passed.mean()) if len(passed) else math.nan, _wrong(passed, right, weight))


def unless_default_is_better(
    learnt: Selected, default: Floors, margin: Floats, in_scope: Floats, right: Truths, inside: Truths
) -> Selected:
    """``learnt``, or the default floors where these decide at least as many rows as labelled.

    A row out of scope is decided as labelled if it is not kept. Learnt floors that keep fewer than half of
    the rows in scope are never used.
    """
    of_learnt, of_default = kept(margin, in_scope, learnt.floors), kept(margin, in_scope, default)
    enough = float(of_learnt[inside].mean()) >= _LEAST_KEPT if inside.any() else False
    if enough and _as_labelled(of_learnt, right, inside) > _as_labelled(of_default, right, inside):
        return learnt
    share = _wrong(of_default, right, _weights(inside))
    return Selected(default, float(of_default.mean()), share, learnt=False)


def _as_labelled(passed: Truths, right: Truths, inside: Truths) -> float:
    return float(np.average(np.where(inside, passed & right, ~passed), weights=_weights(inside)))


def _wrong(passed: Truths, right: Truths, weight: Floats) -> float:
    """The share of the kept rows that are wrong; NaN if none is kept."""
    return float(np.average(~right[passed], weights=weight[passed])) if passed.any() else math.nan


def _weights(inside: Truths) -> Floats:
    """1 for a row in scope. Rows out of scope weigh their share of traffic, if enough are known."""
    strangers = int((~inside).sum())
    if strangers < _KNOWN_STRANGERS:
        return np.ones(len(inside))
    least = _STRANGERS / (1 - _STRANGERS) * int(inside.sum()) / max(strangers, 1)
    return np.where(inside, 1.0, max(1.0, least))


def _drawn(learnt: Floors, default: Floors, strangers: int) -> Floors:
    share = strangers / (strangers + _PRIOR_ROWS) if strangers >= _KNOWN_STRANGERS else 1.0
    return Floors(
        round(share * learnt.margin + (1 - share) * default.margin, 4),
        round(share * learnt.in_scope + (1 - share) * default.in_scope, 4),
    )


def _scope_floors(in_scope: Floats, inside: Truths) -> list[float]:
    """The floors on P(in scope) to try: values of rows, or 0."""
    if not len(in_scope):
        return [0.0]
    if inside.all():
        return [max(0.0, float(np.quantile(in_scope, _RARELY_SO_FAR, method="lower")))]
    tried = np.quantile(in_scope, np.linspace(0, 0.95, _TRIED), method="lower")
    return [float(floor) for floor in np.unique(np.maximum(np.append(tried, 0.0), 0.0))]


def _rounded(values: Floats) -> Floats:
    """Rounded down to four digits before floors are chosen, so that the printed floors decide alike."""
    rounded: Floats = np.floor(values * 1e4) / 1e4
    return rounded
