"""When to abstain: choose both floors on held-out rows, and score how far a text is from all routes."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import Floats, Truths
from extproc.routing.calibration import Calibration
from extproc.routing.scorers import Matrix
from extproc.routing.trained_heads import log_softmax

SOFTENED = 3.0  # times the calibrated temperature, for the scope score
_SIMILARITIES = 60  # floors tried
_RARELY_SO_FAR = 0.01  # the share of rows in scope below the similarity floor, without rows out of scope


class Floors(msgspec.Struct, frozen=True):
    """Below either floor the default model answers."""

    margin: float
    similarity: float


class Selected(msgspec.Struct, frozen=True):
    """Two floors, and their figures on held-out rows."""

    floors: Floors
    coverage: float  # share of rows kept
    wrong: float  # share of the kept rows that are wrong; NaN if no row is kept


def kept(margin: Floats, similarity: Floats, floors: Floors) -> Truths:
    """Which rows pass both floors, as serving applies them."""
    passed: Truths = (margin >= floors.margin) & (similarity >= floors.similarity)
    return passed


def choose_floors(
    margin: Floats, similarity: Floats, right: Truths, inside: Truths, target: float
) -> Selected:
    """The floors that keep most right rows while at most ``target`` of the kept rows are wrong.

    Each similarity floor has a risk-coverage curve over the margin floors (El-Yaniv and Wiener, 2010); the
    result is the best point of all curves. A kept row out of scope is wrong. Without rows out of scope, the
    similarity floor is a low quantile of the rows in scope. If no floors reach the target, the result has the
    least share of wrong rows.
    """
    margin, similarity = _rounded(margin), _rounded(similarity)
    best: tuple[float, float, float] | None = None  # (target reached, right rows kept or share wrong, -floor)
    chosen = Floors(1.0, 1.0)
    for floor in _similarity_floors(similarity, inside):
        near = np.flatnonzero(similarity >= floor)
        order = near[np.argsort(-margin[near], kind="stable")]
        if not len(order):
            continue
        wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
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
    passed = kept(margin, similarity, chosen)
    share = float((~right[passed]).mean()) if passed.any() else math.nan
    return Selected(chosen, float(passed.mean()) if len(passed) else math.nan, share)


def _similarity_floors(similarity: Floats, inside: Truths) -> list[float]:
    """The similarity floors to try: values of rows, or 0."""
    if not len(similarity):
        return [0.0]
    if inside.all():
        return [max(0.0, float(np.quantile(similarity, _RARELY_SO_FAR, method="lower")))]
    tried = np.quantile(similarity, np.linspace(0, 0.95, _SIMILARITIES), method="lower")
    return [float(floor) for floor in np.unique(np.maximum(np.append(tried, 0.0), 0.0))]


def _rounded(values: Floats) -> Floats:
    """Rounded down to four digits before floors are chosen, so that the printed floors decide alike."""
    rounded: Floats = np.floor(values * 1e4) / 1e4
    return rounded


class ScopeScore(msgspec.Struct, frozen=True):
    """A score that is higher for texts in scope: the sum of two measures, standardised on held-out rows.

    The log-probability of the best route is low for texts between routes. The similarity to the nearest
    example is low for texts far from all routes. With a high temperature, the size of the logits counts and
    not only their lead (ODIN, Liang, Li and Srikant, 2018).
    """

    temperature: float
    log_centre: float
    log_scale: float
    similarity_centre: float
    similarity_scale: float

    def score(self, logits: Matrix, similarity: NDArray[np.floating]) -> Floats:
        """One score for each row."""
        logs = log_softmax(logits / np.float32(self.temperature)).max(axis=1).astype(np.float64)
        found: Floats = (logs - self.log_centre) / self.log_scale
        return found + (similarity - self.similarity_centre) / self.similarity_scale


def fit_scope(logits: Matrix, similarity: Floats, calibration: Calibration) -> ScopeScore:
    """The scope score, standardised on these rows, which are in scope and held out."""
    temperature = SOFTENED * calibration.temperature
    logs = log_softmax(logits / np.float32(temperature)).max(axis=1).astype(np.float64)
    return ScopeScore(
        temperature,
        float(logs.mean()),
        max(float(logs.std()), 1e-6),
        float(similarity.mean()),
        max(float(similarity.std()), 1e-6),
    )
