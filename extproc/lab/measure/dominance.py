"""Finds the models that are no better than others on held-out outcomes: they are not worth a higher price."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import Floats, Truths
from extproc.lab.measure.intervals import Figure, bootstrap, mean_of
from extproc.routing.model_choice import Matched
from extproc.vocabulary import ModelName

# The lead in quality, 0 to 1, that the interval must exclude; few rows cannot exclude it.
MARGIN = 0.05


class Dominated(msgspec.Struct, frozen=True):
    """A candidate that is left out, and the one that costs no more."""

    model: str
    by: str
    lead: Figure  # of the model's quality over the other's, paired


class CandidatePool(msgspec.Struct, frozen=True):
    """The candidates that routes choose from, and those of them that training leaves out."""

    routes: tuple[str, ...]
    candidates: tuple[str, ...]
    dominated: tuple[Dominated, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """The candidates that are chosen from."""
        out = {each.model for each in self.dominated}
        return tuple(model for model in self.candidates if model not in out)


def matched_of(predicted: Floats, scores: Floats) -> Truths:
    """Shape (models, models): whether model m (row) does not exceed the quality of model k (column).

    The mean lead of m over k is at most 0, and its 95 % interval excludes a lead of ``MARGIN`` (a test of
    non-inferiority). A model that surely gains where it is predicted to be the better one does exceed it.
    """
    models = scores.shape[1]
    found = np.zeros((models, models), bool)
    for m in range(models):
        for k in range(models):
            found[m, k] = m != k and _matched(predicted, scores, m, k)
    return found


def _matched(predicted: Floats, scores: Floats, m: int, k: int) -> bool:
    lead = scores[:, m] - scores[:, k]
    if lead.mean() > 0 or bootstrap(mean_of(lead), len(lead)).high >= MARGIN:
        return False
    gained = np.where(predicted[:, m] > predicted[:, k], lead, 0.0)
    return bootstrap(mean_of(gained), len(lead)).low <= 0


def dominators(costs: Floats, matched: Truths) -> Truths:
    """Shape (..., models, models): whether column k dominates row m at these costs, as serving decides it."""
    own, other = costs[..., :, None], costs[..., None, :]
    found: Truths = matched & ((other < own) | ((other == own) & ~matched.T))
    return found


def dominated_in(
    pool: Sequence[str], models: Sequence[str], scores: Floats, costs: Floats, matched: Truths
) -> list[Dominated]:
    """The candidates of a pool that are left out at their mean costs, each with its cheapest dominator."""
    places = [models.index(name) for name in pool if name in models]
    mean = costs.mean(axis=0)
    dominated = dominators(mean, matched)
    found = []
    for m in places:
        by = [k for k in places if dominated[m, k]]
        if by:
            k = min(by, key=lambda each: float(mean[each]))
            lead = scores[:, m] - scores[:, k]
            figure = Figure.of(float(lead.mean()), bootstrap(mean_of(lead), len(lead)))
            found.append(Dominated(models[m], models[k], figure))
    return found


def by_name(models: Sequence[str], matched: Truths) -> Mapping[str, tuple[str, ...]]:
    """The models that match each model; models that no other matches are absent."""
    return {
        name: tuple(models[k] for k in np.flatnonzero(row).tolist())
        for name, row in zip(models, matched, strict=True)
        if row.any()
    }


def by_place(models: Sequence[ModelName], matched: Matched) -> Truths:
    """The inverse of `by_name`."""
    return np.array([[other in matched.get(name, ()) for other in models] for name in models], bool)
