"""Train routes on labelled texts.

Rows are split by content. `test` rows are only measured. Heads are fitted on the other rows, and each of
these is also scored by a fit without it and its near-duplicates (cross-fitting). These held-out scores choose
the scorer, calibrate its probabilities and set its floors. With many rows, one fifth is held out once; with
few, each fifth in turn.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import OperatorError
from extproc.lab.figures.number_formats import bar
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels
from extproc.lab.train.example_copies import Copies
from extproc.lab.train.floors import Floors, Selected, choose_floors, kept, unless_default_is_better
from extproc.lab.train.head_fitting import (
    BLEND,
    ENOUGH_ROWS,
    NOT_OF_FEW,
    NOT_OF_MANY,
    SCORERS,
    blend,
    take,
)
from extproc.lab.train.splits import folds_of, groups_of, places
from extproc.registry.schema import DEFAULT_MARGIN
from extproc.routing.calibration import Calibration, best_temperature, fit_isotonic
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.lexical_features import Sparse, lexical
from extproc.routing.scope import (
    LIKENESS,
    SOFTENED,
    ScopeScore,
    fit_scope,
    likeness_of,
    measures,
    without_own_route,
)
from extproc.routing.scorers import Matrix, fit_centroids, spherical_k_means
from extproc.routing.trained_heads import Head, Inputs, Trained, mean_of_logs

FOLDS = 5
HELD_ONCE = 2000  # rows in scope; with as many, one fifth is enough to calibrate on
KEPT_EXAMPLES = 200  # per route, for the similarity to the nearest example
ISOTONIC_ROWS = 1000  # held out; with fewer, isotonic regression fits noise

Progress = Callable[[str], None]


class Corpus(msgspec.Struct, frozen=True):
    """Labelled texts with their features."""

    texts: tuple[str, ...]
    labels: Labels  # numbers of routes; `metrics.ABSTAIN` for null
    inputs: Inputs
    routes: tuple[str, ...]
    copies: Copies | None = None  # of rows in scope; only fitted, never scored

    def take(self, rows: NDArray[np.intp]) -> "Corpus":
        """Some of the rows, with their copies."""
        texts = tuple(self.texts[row] for row in rows.tolist())
        copies = None if self.copies is None else self.copies.take(rows)
        return Corpus(texts, self.labels[rows], take(self.inputs, rows), self.routes, copies)

    def to_fit(self) -> tuple[Inputs, Labels]:
        """The rows and their copies, with labels."""
        if self.copies is None:
            return self.inputs, self.labels
        return self.copies.after(self.inputs), np.concatenate([self.labels, self.labels[self.copies.of]])


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


class Turn(msgspec.Struct, frozen=True):
    """The rows that a head is fitted on, and the rows that it then scores."""

    fitted: NDArray[np.intp]
    out: NDArray[np.intp]


class TrainedRoutes(msgspec.Struct, frozen=True):
    """The trained routes, and the figures of their training."""

    scorer: str
    meaning: Meaning
    selected: Selected  # the floors, with their figures on held-out rows
    tried: Mapping[str, tuple[float, float]]  # accuracy and log loss of each scorer on held-out rows
    held: HeldOut  # of the scorer chosen
    turns: Sequence[Turn]  # the splits of ``held``
    isotonic: bool


def corpus(texts: Sequence[str], labels: Labels, routes: Sequence[str], deep: Matrix, width: int) -> Corpus:
    """``deep`` has the rows of a ``DeepEncoder``; their first ``width`` columns are the embedding."""
    inner = deep[:, width:] if deep.shape[1] > width else None
    return Corpus(tuple(texts), labels, Inputs(deep[:, :width], inner, lexical(texts)), tuple(routes))


def set_apart(rows: Corpus, groups: Labels, share: float, seed: int) -> NDArray[np.bool_]:
    """The test rows: a share of all, by content, near-duplicates together."""
    return places(rows.texts, groups, seed) < share


def train(rows: Corpus, *, target_wrong: float, seed: int, scorer: str, progress: Progress) -> TrainedRoutes:
    """Choose the scorer, fit it and calibrate it. ``scorer`` is a name of `SCORERS`, `blend` or `auto`.

    Raises ``OperatorError`` if a route has no rows.
    """
    _check(rows)
    inside = int((rows.labels != ABSTAIN).sum())
    names = _candidates(inside) if scorer == "auto" else [scorer]
    turns = held_out(rows, groups_of(_words(rows)), seed)
    logits, fits = _cross_fit(rows, turns, names, seed, progress)
    scored = np.sort(np.concatenate([turn.out for turn in turns]))
    tried = {name: _figures(found[scored], rows.labels[scored]) for name, found in logits.items()}
    chosen = min(tried, key=lambda name: tried[name][1])
    progress(f"fitting {chosen} on all {inside} rows")
    head = _fit(chosen, rows, seed, fits.get(chosen))
    likeness = _likeness(rows, turns, logits[chosen])
    held = HeldOut(rows.labels[scored], logits[chosen][scored], likeness[scored])
    calibration, isotonic = _calibrate(held)
    scope = _fit_scope(rows, turns, logits[chosen], likeness, calibration)
    meaning = _meaning(rows, head, calibration, scope)
    probabilities = calibration.probabilities(held.logits)
    seen = (
        *(margins(probabilities), in_scope(meaning, held)),
        *(probabilities.argmax(axis=1) == held.labels, held.inside),
    )
    default = Floors(DEFAULT_MARGIN, scope.floor)
    selected = unless_default_is_better(choose_floors(*seen, target_wrong, default), default, *seen)
    return TrainedRoutes(
        scorer=chosen,
        meaning=meaning,
        selected=selected,
        tried=tried,
        held=held,
        turns=turns,
        isotonic=isotonic,
    )


def _candidates(inside: int) -> list[str]:
    """The scorers to try on so many rows in scope."""
    left_out = NOT_OF_FEW if inside < ENOUGH_ROWS else NOT_OF_MANY if inside >= HELD_ONCE else ()
    return [name for name in (*SCORERS, BLEND) if name not in left_out]


def measure(meaning: Meaning, rows: Corpus) -> HeldOut:
    """The trained head's scores of test rows."""
    logits = meaning.head.logits(rows.inputs)
    assert meaning.scope is not None
    vectors = rows.inputs.vectors
    to_centroids = vectors @ meaning.scope.centroids.T
    likeness = likeness_of(vectors, logits, meaning.examples, meaning.of_example, to_centroids)
    return HeldOut(rows.labels, logits, likeness)


def margins(probabilities: Matrix) -> Floats:
    """The lead of the most probable route over the second; 1 if there is only one route."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    best = np.partition(probabilities, -2, axis=1)[:, -2:].astype(np.float64)
    lead: Floats = best[:, 1] - best[:, 0]
    return lead


def in_scope(meaning: Meaning, held: HeldOut) -> Floats:
    """P(in scope) of each row, as serving computes it."""
    assert meaning.scope is not None
    return meaning.scope.probability(held.logits, held.likeness)


def decisions(meaning: Meaning, held: HeldOut, floors: Floors) -> Labels:
    """The route of each row, `metrics.ABSTAIN` below a floor."""
    probabilities = meaning.calibration.probabilities(held.logits)
    passed = kept(margins(probabilities), in_scope(meaning, held), floors)
    return np.where(passed, probabilities.argmax(axis=1), ABSTAIN)


def data_hash(texts: Sequence[str], labels: Labels, routes: Sequence[str]) -> str:
    """The SHA-256 of the rows, which does not depend on their order."""
    lines = sorted(
        msgspec.json.encode(
            (text.encode("utf-8", "surrogatepass").hex(), routes[label] if label >= 0 else None)
        )
        for text, label in zip(texts, labels.tolist(), strict=True)
    )
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _check(rows: Corpus) -> None:
    counts = np.bincount(rows.labels[rows.labels != ABSTAIN], minlength=len(rows.routes))
    for route, count in zip(rows.routes, counts.tolist(), strict=True):
        if count == 0:
            raise OperatorError(f"there is no row of the route `{route}` to train on (expected 5 or more)")


def held_out(rows: Corpus, groups: Labels, seed: int) -> list[Turn]:
    """With many rows one turn that holds out a fifth of them, else a turn for each fifth.

    ``HeldOut`` has the rows of all turns, in the order of the rows. A route with a single text cannot be held
    out, so a turn without it is left out. Raises ``OperatorError`` if no turn is left.
    """
    once = int((rows.labels != ABSTAIN).sum()) >= HELD_ONCE
    folds = folds_of(places(rows.texts, groups, seed), rows.labels, groups, FOLDS)
    turns = []
    for fold in range(1 if once else FOLDS):
        fitted = np.flatnonzero((folds != fold) & (rows.labels != ABSTAIN))
        out = np.flatnonzero((folds == fold) | ((rows.labels == ABSTAIN) & once))
        if len(set(rows.labels[fitted].tolist())) == len(rows.routes) and len(out):
            turns.append(Turn(fitted, out))
    if not turns:
        raise OperatorError("too few rows to hold any out (expected 2 or more of each route, 5 to be sure)")
    return turns


def _cross_fit(
    rows: Corpus, turns: Sequence[Turn], names: Sequence[str], seed: int, progress: Progress
) -> tuple[dict[str, Matrix], dict[str, tuple[float, float]]]:
    """The held-out logits of each scorer for all rows, and the temperatures of a blend's parts."""
    logits: dict[str, Matrix] = {
        name: np.zeros((len(rows.labels), len(rows.routes)), np.float32) for name in _parts(names)
    }
    scored = np.zeros(len(rows.labels), bool)
    parts = _parts(names)
    fits = len(turns) * len(parts)
    for number, turn in enumerate(turns):
        scored[turn.out] = True
        (inputs, labels), seen = rows.take(turn.fitted).to_fit(), take(rows.inputs, turn.out)
        for place, name in enumerate(parts, start=number * len(parts)):
            progress(f"fitting {bar(place, fits)}: {name} on {len(turn.fitted)} rows")
            head = SCORERS[name](inputs, labels, len(rows.routes), seed)
            logits[name][turn.out] = head.logits(seen)
    temperatures: dict[str, tuple[float, float]] = {}
    inside = scored & (rows.labels != ABSTAIN)
    if BLEND in names:
        pair = (
            best_temperature(logits["lexical"][inside], rows.labels[inside]),
            best_temperature(logits["perceptron"][inside], rows.labels[inside]),
        )
        temperatures[BLEND] = pair
        logits[BLEND] = mean_of_logs(logits["lexical"], logits["perceptron"], pair)
    return {name: logits[name] for name in names}, temperatures


def _parts(names: Sequence[str]) -> list[str]:
    """The scorers to fit for these names: a blend has two parts."""
    needed = {part for name in names for part in (("lexical", "perceptron") if name == BLEND else (name,))}
    return [name for name in SCORERS if name in needed]


def _fit(name: str, rows: Corpus, seed: int, temperatures: tuple[float, float] | None) -> Head:
    inputs, labels = rows.take(np.flatnonzero(rows.labels != ABSTAIN)).to_fit()
    if name != BLEND:
        return SCORERS[name](inputs, labels, len(rows.routes), seed)
    heads = [SCORERS[each](inputs, labels, len(rows.routes), seed) for each in ("lexical", "perceptron")]
    linear, perceptron = heads
    assert isinstance(linear, Trained)
    assert isinstance(perceptron, Trained)
    assert temperatures is not None
    return blend(linear, perceptron, temperatures)


def _calibrate(held: HeldOut) -> tuple[Calibration, bool]:
    """The temperature (Guo et al., 2017), and an isotonic map if it lowers the held-out log loss."""
    inside = held.inside
    logits, labels = held.logits[inside], held.labels[inside]
    plain = Calibration(best_temperature(logits, labels))
    probabilities = plain.probabilities(logits)
    top, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    if len(labels) < ISOTONIC_ROWS or logits.shape[1] < 2:
        return plain, False
    turn = np.arange(len(labels)) % FOLDS
    mapped = np.empty(len(labels))
    for fold in range(FOLDS):
        claimed, reached = fit_isotonic(top[turn != fold], right[turn != fold])
        mapped[turn == fold] = np.interp(top[turn == fold], claimed, reached)
    if _log_loss(mapped, right) >= _log_loss(top, right):
        return plain, False
    return Calibration(plain.temperature, *fit_isotonic(top, right)), True


def _log_loss(claimed: Floats, right: NDArray[np.bool_]) -> float:
    likely = np.where(right, claimed, 1.0 - claimed)
    return float(-np.log(np.maximum(likely, 1e-6)).mean())


def _figures(logits: Matrix, labels: Labels) -> tuple[float, float]:
    """Accuracy and log loss of the rows in scope, at the best temperature."""
    inside = labels != ABSTAIN
    logits, labels = logits[inside], labels[inside]
    chances = Calibration(best_temperature(logits, labels)).probabilities(logits)
    likely = np.maximum(chances[np.arange(len(labels)), labels].astype(np.float64), 1e-12)
    return float((chances.argmax(axis=1) == labels).mean()), float(-np.log(likely).mean())


def _fit_scope(
    rows: Corpus, turns: Sequence[Turn], logits: Matrix, likeness: Floats, calibration: Calibration
) -> ScopeScore:
    """Fit on the held-out rows, and on those in scope once more as if their own route did not exist."""
    scored = np.sort(np.concatenate([turn.out for turn in turns]))
    inside, known = scored[rows.labels[scored] != ABSTAIN], scored[rows.labels[scored] == ABSTAIN]
    temperature = SOFTENED * calibration.temperature
    masked, others = logits.copy(), inside if len(rows.routes) > 1 else inside[:0]
    masked[others] = without_own_route(logits[others], rows.labels[others])
    made = _likeness(rows, turns, masked)
    members = np.flatnonzero(rows.labels != ABSTAIN)
    centroids = fit_centroids(rows.inputs.vectors[members], rows.labels[members], len(rows.routes)).centroids
    return fit_scope(
        centroids,
        temperature,
        inside=measures(logits[inside], likeness[inside], temperature),
        known=measures(logits[known], likeness[known], temperature),
        made=measures(masked[others], made[others], temperature),
    )


def _likeness(rows: Corpus, turns: Sequence[Turn], logits: Matrix) -> Floats:
    """The likeness of held-out rows to the rows that were fitted in their turn; 0 for other rows."""
    found, vectors = np.zeros((len(rows.labels), len(LIKENESS))), rows.inputs.vectors
    for turn in turns:
        examples, labels = _examples(rows, turn.fitted), rows.labels[turn.fitted]
        centroids = fit_centroids(vectors[turn.fitted], labels, len(rows.routes)).centroids
        found[turn.out] = likeness_of(
            vectors[turn.out],
            logits[turn.out],
            vectors[examples],
            rows.labels[examples],
            vectors[turn.out] @ centroids.T,
        )
    return found


def _meaning(rows: Corpus, head: Head, calibration: Calibration, scope: ScopeScore) -> Meaning:
    examples = _examples(rows, np.flatnonzero(rows.labels != ABSTAIN))
    sizes = np.bincount(rows.labels[examples], minlength=len(rows.routes))
    return Meaning(
        routes=rows.routes,
        head=head,
        calibration=calibration,
        examples=np.ascontiguousarray(rows.inputs.vectors[examples]),
        texts=tuple(rows.texts[row] for row in examples.tolist()),
        starts=np.cumsum([0, *sizes[:-1]]).astype(np.intp),
        scope=scope,
    )


def _examples(rows: Corpus, among: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most ``KEPT_EXAMPLES`` rows of each route, in the routes' order, spread over the route.

    Of a larger route, these are the rows nearest to the centres of as many clusters.
    """
    chosen = []
    for route in range(len(rows.routes)):
        members = among[rows.labels[among] == route]
        if len(members) > KEPT_EXAMPLES:
            vectors = rows.inputs.vectors[members]
            centres = spherical_k_means(vectors, KEPT_EXAMPLES)
            members = members[np.unique((centres @ vectors.T).argmax(axis=1))]
        chosen.append(members)
    return np.concatenate(chosen)


def _words(rows: Corpus) -> Sparse:
    words = rows.inputs.words
    assert words is not None
    return words
