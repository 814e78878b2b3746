"""What held-out scores decide: the calibration of a head, its scope score and its floors."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels
from extproc.lab.train.floors import Aim, Floors, ScoredRows, Selected, choose_floors, kept
from extproc.registry.schema import DEFAULT_MARGIN
from extproc.routing.calibration import Calibration, best_temperature, fit_isotonic
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.scope import SOFTENED, ScopeScore, fit_scope, measures
from extproc.routing.scorers import Matrix, margins

ISOTONIC_ROWS = 1000  # held out; with fewer, isotonic regression fits noise
_TURNS = 5  # of cross-validation


class HeldOut(msgspec.Struct, frozen=True):
    """Scores of rows by fits without them."""

    labels: Labels
    logits: Matrix
    likeness: Floats  # of `routing.scope`

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which rows belong to a route."""
        inside: NDArray[np.bool_] = self.labels != ABSTAIN
        return inside

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "HeldOut":
        """Some of the rows."""
        return HeldOut(self.labels[rows], self.logits[rows], self.likeness[rows])


class Settled(msgspec.Struct, frozen=True):
    """How a head's scores become decisions."""

    calibration: Calibration
    isotonic: bool
    scope: ScopeScore
    selected: Selected  # the floors, with their figures on held-out rows

    def judged(self, rows: HeldOut) -> ScoredRows:
        """The rows as decided before floors."""
        probabilities = self.calibration.probabilities(rows.logits)
        in_scope = self.scope.probability(rows.logits, rows.likeness)
        return ScoredRows(
            margins(probabilities), in_scope, probabilities.argmax(axis=1) == rows.labels, rows.inside
        )


def settle(held: HeldOut, made: HeldOut, centroids: Matrix, aim: Aim) -> Settled:
    """Calibrate, fit the scope score and choose the floors.

    ``made`` has the rows of ``held`` that are in scope as if their own route did not exist, out of scope, or
    no row if there is one route.
    """
    calibration, isotonic = _calibrate(held)
    scope = _fit_scope(held, made, centroids, calibration)
    default = Floors(DEFAULT_MARGIN, scope.floor)
    settled = Settled(calibration, isotonic, scope, Selected(default, 0.0, 0.0, learnt=False))
    selected = choose_floors(settled.judged(held), settled.judged(made), aim, default)
    return msgspec.structs.replace(settled, selected=selected)


def in_scope(meaning: Meaning, held: HeldOut) -> Floats:
    """P(in scope) of each row, as serving computes it."""
    assert meaning.scope is not None
    return meaning.scope.probability(held.logits, held.likeness)


def decisions(meaning: Meaning, held: HeldOut, floors: Floors) -> Labels:
    """The route of each row, `metrics.ABSTAIN` below a floor."""
    probabilities = meaning.calibration.probabilities(held.logits)
    passed = kept(margins(probabilities), in_scope(meaning, held), floors)
    return np.where(passed, probabilities.argmax(axis=1), ABSTAIN)


def _fit_scope(held: HeldOut, made: HeldOut, centroids: Matrix, calibration: Calibration) -> ScopeScore:
    temperature = SOFTENED * calibration.temperature

    def measured(rows: HeldOut) -> Floats:
        return measures(rows.logits, rows.likeness, temperature)

    known = held.take(~held.inside)
    return fit_scope(
        centroids, temperature, measured(held.take(held.inside)), measured(known), measured(made)
    )


def _calibrate(held: HeldOut) -> tuple[Calibration, bool]:
    """The temperature (Guo et al., 2017), and an isotonic map if it lowers the held-out log loss."""
    inside = held.inside
    logits, labels = held.logits[inside], held.labels[inside]
    plain = Calibration(best_temperature(logits, labels))
    probabilities = plain.probabilities(logits)
    top, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    if len(labels) < ISOTONIC_ROWS or logits.shape[1] < 2:
        return plain, False
    turn = np.arange(len(labels)) % _TURNS
    mapped = np.empty(len(labels))
    for fold in range(_TURNS):
        claimed, reached = fit_isotonic(top[turn != fold], right[turn != fold])
        mapped[turn == fold] = np.interp(top[turn == fold], claimed, reached)
    if _log_loss(mapped, right) >= _log_loss(top, right):
        return plain, False
    return Calibration(plain.temperature, *fit_isotonic(top, right)), True


def _log_loss(claimed: Floats, right: NDArray[np.bool_]) -> float:
    likely = np.where(right, claimed, 1.0 - claimed)
    return float(-np.log(np.maximum(likely, 1e-6)).mean())
