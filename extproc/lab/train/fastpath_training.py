"""Train the lexical fast path: when do the words alone decide as the whole head does?

Both heads are compared on the same held-out rows, which neither is fitted on. Agreement is with the served
decision: the words must not decide a text from which the whole head abstains. The probability of agreement is
fitted to these rows, and the least that is enough is chosen on them, each scored by a fit without it.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels, Truths
from extproc.lab.train.floors import stranger_weights
from extproc.lab.train.head_fitting import take
from extproc.lab.train.held_out_scores import HeldOut, decisions
from extproc.lab.train.linear_fitting import fit_linear
from extproc.lab.train.optimisers import Loss, minimise
from extproc.lab.train.route_training import Corpus, TrainedRoutes
from extproc.routing.calibration import best_temperature
from extproc.routing.fastpath import MEASURES, NEVER, Agreement, Words, measures
from extproc.routing.scorers import Matrix, Prototypes, fit_prototypes
from extproc.routing.trained_heads import Inputs, Trained

AGREEMENT = 0.99  # with the whole head, of rows that the words decide
LEAST_ROWS = 50  # that the words decide, at least; fewer could agree by chance
PROTOTYPES = 6  # a route
_FOLDS = 5  # of the fit of the agreement
_PRIOR_ROWS = 4.0  # precision of the prior on the agreement's weights, chosen by held-out rows
_STEPS = 100
_LEAST_SCALE = 0.01  # measures that differ by less are equal

Progress = Callable[[str], None]


class Measured(msgspec.Struct, frozen=True):
    """Figures of the fast path on some rows; NaN where there are no rows to count."""

    rows: int
    decided: int
    coverage: float  # the share of the rows in scope that it decides
    strangers: float  # the share of the rows out of scope that it decides
    agreement: float  # of those decided, the share decided as the whole head does
    right: float  # of these, the share decided rightly
    whole_right: float  # of these, the share that the whole head decides rightly


class LearntFastPath(msgspec.Struct, frozen=True):
    """The head, and its figures on held-out rows."""

    words: Words
    held: Measured


def learn(rows: Corpus, outcome: TrainedRoutes, progress: Progress) -> LearntFastPath:
    """Fit on the rows that ``outcome`` was trained on. The words may turn out never to be enough."""
    inside, scored = rows.labels != ABSTAIN, np.zeros(len(rows.labels), bool)
    for turn in outcome.turns:
        scored[turn.out] = True
    inputs, routes = inputs_of(rows), len(rows.routes)
    logits = np.zeros((len(rows.labels), routes), np.float32)
    turns = []
    for turn in outcome.turns:
        progress(f"fast path: {len(turn.fitted)} rows")
        head, prototypes = _fit(take(inputs, turn.fitted), rows.labels[turn.fitted], routes)
        turns.append((turn, prototypes))
        logits[turn.out] = head.logits(take(inputs, turn.out))
    start = head if len(turns) == 1 else None
    known = scored & inside
    temperature = best_temperature(logits[known], rows.labels[known])
    found = np.zeros((len(rows.labels), len(MEASURES)))
    for turn, prototypes in turns:
        found[turn.out] = measures(logits[turn.out], temperature, prototypes, inputs.vectors[turn.out])
    served, decided = _served(outcome, outcome.held), logits[scored].argmax(axis=1)
    agreed, weight = decided == served, stranger_weights(outcome.held.inside)
    chances = _held_out_agreement(found[scored], decided, agreed, weight, routes)
    least = choose_least(chances, agreed, weight)
    agreement = fit_agreement(found[scored], decided, agreed, weight, routes)
    progress(f"fast path: {int(inside.sum())} rows")
    head, prototypes = _fit(take(inputs, np.flatnonzero(inside)), rows.labels[inside], routes, start)
    words = Words(rows.routes, head, temperature, prototypes, agreement, least)
    return LearntFastPath(words, _compare(chances >= least, decided, served, outcome.held.labels))


def measure(words: Words, outcome: TrainedRoutes, rows: Corpus, held: HeldOut) -> Measured:
    """The figures on other rows; ``held`` has the whole head's scores of them."""
    inputs = inputs_of(rows)
    logits = words.head.logits(inputs)
    taken = words.agrees(logits, inputs.vectors) >= words.least
    return _compare(taken, logits.argmax(axis=1), _served(outcome, held), held.labels)


def inputs_of(rows: Corpus) -> Inputs:
    """What the fast path reads of the rows, which need static vectors."""
    assert rows.inputs.static is not None
    return Inputs(rows.inputs.static, words=rows.inputs.words)


def choose_least(chances: Floats, agreed: Truths, weight: Floats, target: float = AGREEMENT) -> float:
    """The least chance from which on ``target`` of the rows agree; above 1 (never) if there is none."""
    order = np.argsort(-chances, kind="stable")
    shares = np.cumsum((weight * agreed)[order]) / np.cumsum(weight[order])
    last_of_tie = np.append(np.diff(chances[order]) != 0, True)
    enough = np.flatnonzero((shares >= target) & last_of_tie & (np.arange(1, len(order) + 1) >= LEAST_ROWS))
    return float(chances[order[enough[-1]]]) if len(enough) else NEVER


def fit_agreement(found: Floats, decided: Labels, agreed: Truths, weight: Floats, routes: int) -> Agreement:
    """Logistic regression of ``agreed`` on measures and on the route that the words decide for.

    Weights and the differences between routes have a normal prior (Hoerl and Kennard, 1970), so that a route
    of few rows has nearly the common bias.
    """
    blank = Agreement(
        centres=np.average(found, axis=0, weights=weight),
        scales=np.maximum(found.std(axis=0), _LEAST_SCALE),
        weights=np.zeros(found.shape[1]),
        biases=np.zeros(routes),
    )
    inputs = blank.standard(found).astype(np.float32)
    size = inputs.shape[1]
    start = np.zeros((size + 1 + routes, 1), np.float32)
    loss = _agreement_loss(inputs, decided, agreed, weight)
    theta = minimise(loss, start, np.ones_like(start), _STEPS)[:, 0].astype(np.float64)
    return msgspec.structs.replace(blank, weights=theta[:size], biases=theta[size] + theta[size + 1 :])


def _agreement_loss(inputs: Matrix, decided: Labels, agreed: Truths, weight: Floats) -> Loss:
    """The penalised mean loss, of the measures' weights, the common bias and each route's own in one."""
    size = inputs.shape[1]
    share = (weight / weight.sum()).astype(np.float32)
    penalty, yes = np.float32(_PRIOR_ROWS / len(inputs)), int(agreed.sum())
    # Never quite 1 or 0 (Platt, 1999), so that rows that all agree have a finite fit.
    truth = np.where(agreed, (yes + 1) / (yes + 2), 1 / (len(agreed) - yes + 2)).astype(np.float32)

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        own = theta[size + 1 :, 0]
        total = inputs @ theta[:size, 0] + theta[size, 0] + own[decided]
        error = share * (1.0 / (1.0 + np.exp(-total)) - truth)
        gradient = penalty * theta
        gradient[size] = 0
        value = float(np.vdot(theta, gradient)) / 2
        gradient[:size, 0] += inputs.T @ error
        gradient[size, 0] = error.sum()
        gradient[size + 1 :, 0] += np.bincount(decided, error, len(own)).astype(np.float32)
        lost = np.logaddexp(0.0, total) - truth * total
        return value + float((share * lost).sum()), gradient

    return loss


def _held_out_agreement(
    found: Floats, decided: Labels, agreed: Truths, weight: Floats, routes: int
) -> Floats:
    """The chance of agreement of each row, by a fit without its fold."""
    fold, chances = np.arange(len(found)) % _FOLDS, np.zeros(len(found))
    for each in range(_FOLDS):
        out, rest = fold == each, fold != each
        if out.any() and rest.any():
            fitted = fit_agreement(found[rest], decided[rest], agreed[rest], weight[rest], routes)
            chances[out] = fitted.probability(found[out], decided[out])
    return chances


def _fit(
    inputs: Inputs, labels: Labels, routes: int, start: Trained | None = None
) -> tuple[Trained, Prototypes]:
    """The head and the prototypes of rows in scope."""
    prototypes = fit_prototypes(PROTOTYPES)(inputs.vectors, labels, routes)
    assert isinstance(prototypes, Prototypes)
    return fit_linear(inputs, labels, routes, start), prototypes


def _served(outcome: TrainedRoutes, held: HeldOut) -> Labels:
    """The whole head's decisions on the rows, with abstentions."""
    return decisions(outcome.meaning, held, outcome.selected.floors)


def _compare(taken: NDArray[np.bool_], decided: Labels, served: Labels, truth: Labels) -> Measured:
    inside = truth != ABSTAIN

    def share(hits: Truths) -> float:
        return float(hits.mean()) if len(hits) else float("nan")

    return Measured(
        rows=len(taken),
        decided=int(taken.sum()),
        coverage=share(taken[inside]),
        strangers=share(taken[~inside]),
        agreement=share((decided == served)[taken]),
        right=share((decided == truth)[taken]),
        whole_right=share((served == truth)[taken]),
    )
