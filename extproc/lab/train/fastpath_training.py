"""Learning the lexical fast path: when are the words alone as good as the whole head?

The words' head is held out on the same rows as the whole one, so that neither has seen what they are
compared on. Agreement is with what would be served: a text that the whole head abstains from is one
that the words must not decide.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels, Truths
from extproc.lab.train.head_fitting import fit_words
from extproc.lab.train.route_training import Corpus, HeldOut, TrainedRoutes, decisions, margins
from extproc.routing.calibration import best_temperature
from extproc.routing.fastpath import Words
from extproc.routing.scorers import Matrix, softmax

AGREEMENT = 0.99  # with the whole head, above the lead
LEAST_ROWS = 50  # that must be above it, or chance would choose it

Progress = Callable[[str], None]


class Measured(msgspec.Struct, frozen=True):
    """What the fast path does to some rows; NaN where it decides none of them."""

    rows: int
    coverage: float  # share that it decides
    agreement: float  # of these, with what the whole head makes of them
    right: float  # of these, share that is decided rightly
    whole_right: float  # of these, share that the whole head decides rightly


class LearntFastPath(msgspec.Struct, frozen=True):
    """The head, and what was seen of it on rows that it was not fitted on."""

    words: Words
    held: Measured


def learn(rows: Corpus, outcome: TrainedRoutes, progress: Progress) -> LearntFastPath:
    """Fit on the rows that ``outcome`` was trained on; a lead above 1 where the words are never enough."""
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
    """On other rows, of which ``held`` is what the whole head said."""
    assert rows.inputs.words is not None
    chances = words.probabilities(rows.inputs.words)
    return _compare(chances, words.lead, _served(outcome, held), held.labels)


def choose_lead(lead: Floats, agreed: Truths, target: float = AGREEMENT) -> float:
    """The least lead above which ``target`` of the rows agree; more than 1, so never, where none does."""
    order = np.argsort(-lead, kind="stable")
    shares = np.cumsum(agreed[order]) / np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(lead[order]) != 0, True)
    enough = np.flatnonzero((shares >= target) & last_of_tie & (np.arange(1, len(order) + 1) >= LEAST_ROWS))
    return float(lead[order[enough[-1]]]) if len(enough) else 2.0


def _chances(logits: Matrix, temperature: float) -> Matrix:
    return softmax(logits / np.float32(temperature))


def _served(outcome: TrainedRoutes, held: HeldOut) -> Labels:
    """What the whole head would make of the rows, abstentions included."""
    chances = outcome.meaning.calibration.probabilities(held.logits)
    return decisions(chances, held.similarity, outcome.selected.floors)


def _compare(chances: Matrix, lead: float, served: Labels, truth: Labels) -> Measured:
    taken, said = margins(chances) >= lead, chances.argmax(axis=1)

    def share(hits: Truths) -> float:
        return float(hits[taken].mean()) if taken.any() else float("nan")

    coverage = float(taken.mean()) if len(taken) else float("nan")
    return Measured(
        rows=len(taken),
        coverage=coverage,
        agreement=share(said == served),
        right=share(said == truth),
        whole_right=share(served == truth),
    )
