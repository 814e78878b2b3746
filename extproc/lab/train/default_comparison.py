"""Is a trained head better than what the registry decides without it?

Both are judged on the same held-out rows. For each split, the default scorer is fitted on the registry's
examples among the fitted rows, as `extproc serve` fits it, with its default floors. The trained head's
calibration and floors are chosen on the other held-out rows, so that no row judges what it has chosen.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Truths, ratio
from extproc.lab.measure.intervals import Figure, Statistic, bootstrap
from extproc.lab.train.floors import (
    EQUAL_COSTS,
    KNOWN_STRANGERS,
    STRANGERS,
    Aim,
    Costs,
    kept,
    row_costs,
)
from extproc.lab.train.held_out_scores import ISOTONIC_ROWS, HeldOut, Settled, settle
from extproc.registry.schema import DEFAULT_MARGIN, DEFAULT_SIMILARITY
from extproc.routing.embedding_scorer import Meaning, fit_vectors
from extproc.routing.scope import are_few, likeness_of, without_own_route
from extproc.routing.scorers import Fit, Labels, Matrix, margins
from extproc.routing.trained_heads import Inputs

_TURNS = 5


class Compared(msgspec.Struct, frozen=True):
    """A figure of the trained head, of the default scorer, and the lead of the trained head (paired)."""

    trained: Figure
    default: Figure
    lead: Figure


class Comparison(msgspec.Struct, frozen=True):
    """The trained head beside the default scorer."""

    rows: int  # held out, in scope
    strangers: int  # held out, out of scope
    made: bool  # rows in scope count as strangers once more, each without its route
    few: bool  # too few rows to judge by
    right: Compared  # the share of rows decided as labelled; strangers weigh their share of traffic
    cost: Compared  # of a request; its lead is what the trained head saves

    @property
    def better(self) -> bool:
        """Whether the trained head costs less, on enough rows to say so."""
        return not self.few and self.cost.lead.value > 0


class Verdicts(msgspec.Struct, frozen=True):
    """Which rows pass the floors and which get their route, also of rows in scope without their route."""

    passed: Truths
    right: Truths
    made_passed: Truths  # False for rows out of scope


class Rows(msgspec.Struct, frozen=True):
    """Held-out rows with their vectors, and the numbers of the registry's examples."""

    vectors: Matrix  # of all rows
    labels: Labels
    examples: NDArray[np.intp]


def compare(
    rows: Rows,
    turns: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
    held: HeldOut,
    made: HeldOut,
    settled: Settled,
    aim: Aim,
    fit: Fit,
) -> Comparison | None:
    """Compare on the rows of ``held``; ``turns`` has the fitted rows and the held-out rows of each split.

    None if the registry has no example of some route, and so decides nothing without a trained head.
    """
    routes = held.logits.shape[1]
    if len(set(rows.labels[rows.examples].tolist())) < routes:
        return None
    trained = _of_trained(held, made, settled, aim)
    default, judged = _of_default(rows, turns, routes, fit)
    scored = np.sort(np.concatenate([out for _, out in turns]))
    used = judged[scored]
    return _compared(
        held.inside[used],
        _chosen(trained, used),
        _chosen(default, scored[used]),
        aim.costs,
        routes,
        with_made=len(made.labels) > 0,
    )


def _of_trained(held: HeldOut, made: HeldOut, settled: Settled, aim: Aim) -> Verdicts:
    """By floors and a calibration of the other rows; with many rows, one row more changes neither."""
    inside = np.flatnonzero(held.inside)
    place = np.full(len(held.labels), -1)
    place[inside[: len(made.labels)]] = np.arange(min(len(inside), len(made.labels)))
    verdicts = _empty(len(held.labels))
    fold = np.arange(len(held.labels)) % _TURNS
    many = len(inside) >= ISOTONIC_ROWS
    for turn in range(1 if many else _TURNS):
        out = np.flatnonzero((fold == turn) | many)
        others = np.flatnonzero(fold != turn)
        chosen = settled
        if not many and (held.labels[others] != ABSTAIN).any():
            part = place[others]
            chosen = settle(held.take(others), made.take(part[part >= 0]), settled.scope.centroids, aim)
        rows = chosen.judged(held.take(out))
        verdicts.passed[out] = kept(rows.margin, rows.in_scope, chosen.selected.floors)
        verdicts.right[out] = rows.right
        known = out[place[out] >= 0]
        rows = chosen.judged(made.take(place[known]))
        verdicts.made_passed[known] = kept(rows.margin, rows.in_scope, chosen.selected.floors)
    return verdicts


def _of_default(
    rows: Rows, turns: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], routes: int, fit: Fit
) -> tuple[Verdicts, Truths]:
    """By fits on examples that were not held out, and which rows these can judge.

    Where all examples of a route are held out, the fit has all examples, and judges only the other rows.
    """
    verdicts, judged = _empty(len(rows.labels)), np.zeros(len(rows.labels), bool)
    for fitted, out in turns:
        examples = np.intersect1d(rows.examples, fitted)
        if len(set(rows.labels[examples].tolist())) < routes:
            examples = rows.examples
        examples = examples[np.argsort(rows.labels[examples], kind="stable")]
        meaning = fit_vectors(
            tuple(map(str, range(routes))),
            ("",) * len(examples),
            np.ascontiguousarray(rows.vectors[examples]),
            rows.labels[examples],
            fit,
        )
        seen = np.setdiff1d(out, examples)
        judged[seen] = True
        vectors, labels = rows.vectors[seen], rows.labels[seen]
        logits = meaning.head.logits(Inputs(vectors))
        verdicts.passed[seen] = passes_default_floors(meaning, vectors, logits)
        verdicts.right[seen] = logits.argmax(axis=1) == labels
        inside = labels != ABSTAIN
        if routes > 1:
            hidden = without_own_route(logits[inside], labels[inside])
            verdicts.made_passed[seen[inside]] = passes_default_floors(meaning, vectors[inside], hidden)
    return verdicts, judged


def passes_default_floors(meaning: Meaning, vectors: Matrix, logits: Matrix) -> Truths:
    """Whether the rows pass the floors that serving sets without an artefact."""
    scope = meaning.scope
    to_centroids = np.zeros_like(logits) if scope is None else vectors @ scope.centroids.T
    likeness = likeness_of(vectors, logits, meaning.examples, meaning.of_example, to_centroids)
    passed = margins(meaning.calibration.probabilities(logits)) >= DEFAULT_MARGIN
    if scope is not None:
        passed &= scope.probability(logits, likeness) >= scope.floor
    if scope is None or are_few(len(meaning.texts), len(meaning.routes)):
        passed &= likeness[:, 0] >= DEFAULT_SIMILARITY
    return passed


def _compared(
    inside: Truths, trained: Verdicts, default: Verdicts, costs: Costs, routes: int, *, with_made: bool
) -> Comparison:
    known = int((~inside).sum())
    made = with_made and known < KNOWN_STRANGERS

    def mean(of_rows: Floats, of_made: Floats) -> Figure:
        statistic = _mean_cost(inside, of_rows, of_made, made=made)
        value = float(statistic(np.ones((1, len(inside))))[0])
        return Figure.of(value, bootstrap(statistic, len(inside)))

    def compared(worth: Costs, turned: Callable[[Figure], Figure]) -> Compared:
        of_trained, of_default = (
            (
                row_costs(each.passed, each.right, inside, worth),
                worth.stranger * each.made_passed.astype(float),
            )
            for each in (trained, default)
        )
        lead = mean(of_default[0] - of_trained[0], of_default[1] - of_trained[1])
        return Compared(turned(mean(*of_trained)), turned(mean(*of_default)), lead)

    return Comparison(
        rows=int(inside.sum()),
        strangers=known,
        made=made,
        few=are_few(int(inside.sum()), routes),
        right=compared(EQUAL_COSTS, _one_less),
        cost=compared(costs, lambda figure: figure),
    )


def _mean_cost(inside: Truths, of_rows: Floats, of_made: Floats, *, made: bool) -> Statistic:
    """The mean cost of a request, where strangers are their share of traffic."""
    outside = (~inside).astype(np.float64)
    known = float(outside.mean())
    share = max(STRANGERS, known) if outside.sum() >= KNOWN_STRANGERS else STRANGERS

    def statistic(weights: Floats) -> Floats:
        drawn_inside, drawn_outside = weights @ inside, weights @ outside
        within = ratio(weights @ (of_rows * inside), drawn_inside)
        if not made and not outside.any():
            return within
        strangers = weights @ (of_rows * outside) + made * (weights @ (of_made * inside))
        without = ratio(strangers, drawn_outside + made * drawn_inside)
        mean: Floats = (1 - share) * within + share * without
        return mean

    return statistic


def _one_less(cost: Figure) -> Figure:
    return Figure(1 - cost.value, 1 - cost.high, 1 - cost.low)


def _chosen(verdicts: Verdicts, rows: NDArray[np.intp] | Truths) -> Verdicts:
    return Verdicts(*(values[rows] for values in msgspec.structs.astuple(verdicts)))


def _empty(rows: int) -> Verdicts:
    return Verdicts(np.zeros(rows, bool), np.zeros(rows, bool), np.zeros(rows, bool))
