"""When to abstain: both floors from held-out rows, and how far a text is from every route."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import Floats, Truths
from extproc.routing.calibration import Calibration
from extproc.routing.scorers import Matrix
from extproc.routing.trained_heads import log_softmax

SOFTENED = 3.0  # the calibrated temperature, so many times over, when asked about scope
_SIMILARITIES = 60  # floors tried
_RARELY_SO_FAR = 0.01  # of rows in scope lie below the similarity floor where no stranger was seen


class Floors(msgspec.Struct, frozen=True):
    """Below either one the default model answers."""

    margin: float
    similarity: float


class Selected(msgspec.Struct, frozen=True):
    """What two floors do to held-out rows."""

    floors: Floors
    coverage: float  # share of rows kept
    wrong: float  # share of the rows kept that are wrong; NaN where none is


def kept(margin: Floats, similarity: Floats, floors: Floors) -> Truths:
    """Which rows pass both floors, as serving applies them."""
    passed: Truths = (margin >= floors.margin) & (similarity >= floors.similarity)
    return passed


def choose_floors(
    margin: Floats, similarity: Floats, right: Truths, inside: Truths, target: float
) -> Selected:
    """The floors that keep most rows in scope while at most ``target`` of the rows kept are wrong.

    A point on the risk-coverage curve of each similarity floor (El-Yaniv and Wiener, 2010). Rows out
    of scope are wrong whenever they are kept. Where there are none, nothing is known of strangers, and
    the similarity floor keeps out what is farther away than nearly every row. Where no floors reach
    the target, those with the least wrong are taken.
    """
    margin, similarity = _rounded(margin), _rounded(similarity)
    best: tuple[float, float, float] | None = None  # reached or not, then right rows kept
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
    """Floors to try: values that occur, or 0."""
    if not len(similarity):
        return [0.0]
    if inside.all():
        return [max(0.0, float(np.quantile(similarity, _RARELY_SO_FAR, method="lower")))]
    tried = np.quantile(similarity, np.linspace(0, 0.95, _SIMILARITIES), method="lower")
    return [float(floor) for floor in np.unique(np.maximum(np.append(tried, 0.0), 0.0))]


def _rounded(values: Floats) -> Floats:
    """Down to four digits, before floors are chosen: what an operator reads is then what holds."""
    rounded: Floats = np.floor(values * 1e4) / 1e4
    return rounded


class ScopeScore(msgspec.Struct, frozen=True):
    """How much a text belongs to any route: higher is more. Standardised on held-out rows in scope.

    The log-probability of the best route tells what lies between routes, the similarity to the
    nearest example what lies far from all. A temperature above the calibrated one lets the size of
    the logits count, not only their lead (ODIN, Liang et al., 2018).
    """

    temperature: float
    log_centre: float
    log_scale: float
    similarity_centre: float
    similarity_scale: float

    def score(self, logits: Matrix, similarity: NDArray[np.floating]) -> Floats:
        """Shape (n,)."""
        logs = log_softmax(logits / np.float32(self.temperature)).max(axis=1).astype(np.float64)
        found: Floats = (logs - self.log_centre) / self.log_scale
        return found + (similarity - self.similarity_centre) / self.similarity_scale


def fit_scope(logits: Matrix, similarity: Floats, calibration: Calibration) -> ScopeScore:
    """Standardised on the rows given, which are in scope and fitted nothing else."""
    temperature = SOFTENED * calibration.temperature
    logs = log_softmax(logits / np.float32(temperature)).max(axis=1).astype(np.float64)
    return ScopeScore(
        temperature,
        float(logs.mean()),
        max(float(logs.std()), 1e-6),
        float(similarity.mean()),
        max(float(similarity.std()), 1e-6),
    )
