"""Train the lexical fast path: when do the words alone decide as the whole head does?

Both heads are compared on the same held-out rows, which neither is fitted on. Agreement is with the served
decision: the words must not decide a text from which the whole head abstains.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels, Truths
from extproc.lab.train.head_fitting import fit_words
from extproc.lab.train.held_out_scores import HeldOut, decisions, margins
from extproc.lab.train.route_training import Corpus, TrainedRoutes
from extproc.routing.calibration import best_temperature
from extproc.routing.fastpath import Words
from extproc.routing.scorers import Matrix, softmax

AGREEMENT = 0.99  # with the whole head, of rows at or above the lead
LEAST_ROWS = 50  # at or above the lead, at least; fewer could agree by chance

Progress = Callable[[str], None]


class Measured(msgspec.Struct, frozen=True):
    """Figures of the fast path on some rows; NaN if it decides none of them."""

    rows: int
    coverage: float  # the share that it decides
    agreement: float  # of these, the share decided as the whole head does
    right: float  # of these, the share decided rightly
    whole_right: float  # of these, the share that the whole head decides rightly


class LearntFastPath(msgspec.Struct, frozen=True):
    """The head, and its figures on held-out rows."""

    words: Words
    held: Measured


def learn(rows: Corpus, outcome: TrainedRoutes, progress: Progress) -> LearntFastPath:
    """Fit on the rows that ``outcome`` was trained on; the lead is above 1 if the words are never enough."""
    routes = len(rows.routes)
    logits = np.zeros((len(rows.labels), routes), np.float32)
    scored = np.zeros(len(rows.labels), bool)
    for turn in outcome.turns:
        progress(f"fast path: {len(turn.fitted)} rows")
        part, seen = rows.take(turn.fitted).inputs.words, rows.take(turn.out).inputs.words
        assert part is not None
        assert seen is not None
        lexicon, bias = fit_words(part, rows.labels[turn.fitted], routes)
        logits[turn.out], scored[turn.out] = lexicon.logits(seen) + bias, True
    inside = scored & (rows.labels != ABSTAIN)
    temperature = best_temperature(logits[inside], rows.labels[inside])
    chances = _chances(logits[scored], temperature)
    served = _served(outcome, outcome.held)
    lead = choose_lead(margins(chances), chances.argmax(axis=1) == served)
    fitted = rows.take(np.flatnonzero(rows.labels != ABSTAIN))
    assert fitted.inputs.words is not None
    words = Words(rows.routes, *fit_words(fitted.inputs.words, fitted.labels, routes), temperature, lead)
    return LearntFastPath(words, _compare(chances, lead, served, outcome.held.labels))


def measure(words: Words, outcome: TrainedRoutes, rows: Corpus, held: HeldOut) -> Measured:
    """The figures on other rows; ``held`` has the whole head's scores of them."""
    assert rows.inputs.words is not None
    chances = words.probabilities(rows.inputs.words)
    return _compare(chances, words.lead, _served(outcome, held), held.labels)


def choose_lead(lead: Floats, agreed: Truths, target: float = AGREEMENT) -> float:
    """The least lead from which on ``target`` of the rows agree; above 1 (never) if there is none."""
    order = np.argsort(-lead, kind="stable")
    shares = np.cumsum(agreed[order]) / np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(lead[order]) != 0, True)
    enough = np.flatnonzero((shares >= target) & last_of_tie & (np.arange(1, len(order) + 1) >= LEAST_ROWS))
    return float(lead[order[enough[-1]]]) if len(enough) else 2.0


def _chances(logits: Matrix, temperature: float) -> Matrix:
    return softmax(logits / np.float32(temperature))


def _served(outcome: TrainedRoutes, held: HeldOut) -> Labels:
    """The whole head's decisions on the rows, with abstentions."""
    return decisions(outcome.meaning, held, outcome.selected.floors)


def _compare(chances: Matrix, lead: float, served: Labels, truth: Labels) -> Measured:
    taken, decided = margins(chances) >= lead, chances.argmax(axis=1)

    def share(hits: Truths) -> float:
        return float(hits[taken].mean()) if taken.any() else float("nan")

    coverage = float(taken.mean()) if len(taken) else float("nan")
    return Measured(
        rows=len(taken),
        coverage=coverage,
        agreement=share(decided == served),
        right=share(decided == truth),
        whole_right=share(served == truth),
    )
