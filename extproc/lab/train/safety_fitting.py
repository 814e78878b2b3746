"""Fit a safety head, and choose its thresholds by a budget of false positives on ordinary traffic.

Near-duplicates stay together: known attacks are copied with small changes, and a random split would measure
how well the copies are known. Every figure is of rows of groups that fitted nothing and, for the measured
figures, chose no threshold.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.datasets import SafetyRow
from extproc.lab.measure.safety_figures import ORDINARY, figures, sets_of
from extproc.lab.train.head_fitting import fit_dense, take
from extproc.lab.train.splits import groups_of
from extproc.routing.lexical_features import lexical
from extproc.routing.safety_head import PIECES, pieces_of_text, probabilities
from extproc.routing.trained_heads import Inputs, Trained
from extproc.vocabulary import Encoder

FOLDS = 5
_AHEAD = 8  # ordinary rows that one step of the search may give up at once

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class SafetyData(msgspec.Struct, frozen=True):
    """Rows with the inputs of their pieces."""

    classes: tuple[str, ...]
    labels: Indices  # (rows,) 0 is ordinary, then the classes in their order
    sets: tuple[str, ...]  # (rows,)
    groups: Indices  # (rows,) equal for near-duplicates
    inputs: Inputs  # of all pieces
    owners: Indices  # (pieces,) the row of each


class SafetyFit(msgspec.Struct, frozen=True):
    """A head with its thresholds, and what was measured."""

    head: Trained
    thresholds: tuple[float, ...]
    metrics: Mapping[str, object]


def prepare(rows: Sequence[SafetyRow], encoder: Encoder, dimensions: int) -> SafetyData:
    """Embed the pieces of all rows. ``encoder`` gives the inner layers behind ``dimensions`` numbers."""
    classes = tuple(sorted({row.label for row in rows if row.label is not None}))
    pieces = [pieces_of_text(row.text)[:PIECES] or (row.text,) for row in rows]
    encoded = encoder.encode([piece for each in pieces for piece in each])
    return SafetyData(
        classes=classes,
        labels=np.array([0 if row.label is None else 1 + classes.index(row.label) for row in rows], np.intp),
        sets=tuple(row.set for row in rows),
        groups=groups_of(lexical([row.text for row in rows])),
        inputs=Inputs(vectors=encoded[:, :dimensions], inner=encoded[:, dimensions:]),
        owners=np.repeat(np.arange(len(rows)), [len(each) for each in pieces]),
    )


def fit_safety(data: SafetyData, false_positives: float, seed: int) -> SafetyFit:
    """The head of all rows, thresholds from cross-fitted probabilities, and honest figures."""
    folds = _folds(data.groups, seed)
    found = np.zeros((len(data.labels), len(data.classes)))
    for fold in range(FOLDS):
        head = _fitted(data, np.flatnonzero(folds != fold))
        here = np.flatnonzero(folds == fold)
        found[here] = surest(head, data, here)
    metrics = _measured(data, found, folds, false_positives)
    thresholds = thresholds_for(data, found, false_positives)
    return SafetyFit(_fitted(data, np.arange(len(data.labels))), thresholds, metrics)


def surest(head: Trained, data: SafetyData, rows: Indices) -> Floats:
    """Of each row and class, the probability of the surest piece; shape (rows, classes)."""
    taken = np.flatnonzero(np.isin(data.owners, rows))
    of_pieces = probabilities(head, take(data.inputs, taken))
    found = np.zeros((len(data.labels), of_pieces.shape[1]))
    np.maximum.at(found, data.owners[taken], of_pieces)
    return found[rows]


def thresholds_for(data: SafetyData, found: Floats, false_positives: float) -> tuple[float, ...]:
    """The thresholds with the greatest mean recall whose false positives keep the budget on every set.

    It begins where no ordinary row is above a threshold. Each step lowers the threshold of one class past the
    next few ordinary rows, for the greatest gain of recall per row.
    """
    ordinary = data.labels == ORDINARY
    rates = [
        np.flatnonzero(ordinary & (np.array(data.sets) == name)) for name in sets_of(data.sets, ordinary)
    ]
    thresholds = found[ordinary].max(axis=0, initial=0.0)
    while True:
        best: tuple[float, int, float] | None = None
        for place in range(len(data.classes)):
            mine = found[data.labels == place + 1, place]
            below = np.unique(found[ordinary & (found[:, place] <= thresholds[place]), place])[::-1]
            for step, lower in enumerate(below[1 : 1 + _AHEAD], start=1):
                tried = thresholds.copy()
                tried[place] = lower
                if not _keeps(found, tried, rates, false_positives):
                    break
                gain = float((mine > lower).mean() - (mine > thresholds[place]).mean()) / step
                if gain > 0 and (best is None or gain > best[0]):
                    best = gain, place, float(lower)
        if best is None:
            return tuple(map(float, thresholds))
        thresholds[best[1]] = best[2]


def _keeps(found: Floats, thresholds: Floats, sets: Sequence[Indices], false_positives: float) -> bool:
    return all((found[rows] > thresholds).any(axis=1).mean() <= false_positives for rows in sets)


def _folds(groups: Indices, seed: int) -> Indices:
    """The fold of each row; equal for near-duplicates."""
    distinct, inverse = np.unique(groups, return_inverse=True)
    folds: Indices = np.random.default_rng(seed).permutation(len(distinct))[inverse] % FOLDS
    return folds


def _fitted(data: SafetyData, rows: Indices) -> Trained:
    """A head on the pieces of these rows."""
    taken = np.flatnonzero(np.isin(data.owners, rows))
    return fit_dense(take(data.inputs, taken), data.labels[data.owners[taken]], 1 + len(data.classes), 0)


def _measured(data: SafetyData, found: Floats, folds: Indices, false_positives: float) -> dict[str, object]:
    """Recall by class and false positives by set, each fold with thresholds that the others chose."""
    above = np.zeros_like(found, bool)
    for fold in range(FOLDS):
        others, here = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        kept = msgspec.structs.replace(
            data, labels=data.labels[others], sets=tuple(data.sets[row] for row in others)
        )
        above[here] = found[here] > thresholds_for(kept, found[others], false_positives)
    return figures(data.labels, data.classes, data.sets, above)
