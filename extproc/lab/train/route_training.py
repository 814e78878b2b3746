"""Train routes on labelled texts.

Rows are split by content. `test` rows are only measured. Heads are fitted on the other rows, and each of
these is also scored by a fit without it and its near-duplicates (cross-fitting). These held-out scores choose
the scorer, calibrate its probabilities and set its floors. With many rows, one fifth is held out once; with
few, each fifth in turn.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import OperatorError
from extproc.lab.figures.number_formats import bar
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels
from extproc.lab.train.default_comparison import Comparison, Rows, compare
from extproc.lab.train.example_copies import Copies
from extproc.lab.train.floors import Aim, Costs, Selected
from extproc.lab.train.head_fitting import (
    BLEND,
    NOT_OF_FEW,
    NOT_OF_MANY,
    SCORERS,
    blend,
    take,
)
from extproc.lab.train.held_out_scores import HeldOut, settle
from extproc.lab.train.linear_fitting import ENOUGH_ROWS
from extproc.lab.train.splits import folds_of, groups_of, places
from extproc.routing.calibration import Calibration, best_temperature
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.lexical_features import Sparse, lexical
from extproc.routing.scope import (
    LIKENESS,
    ScopeScore,
    likeness_of,
    to_centroids_without_self,
    without_own_route,
)
from extproc.routing.scorers import Fit, Matrix, fit_centroids, spherical_k_means
from extproc.routing.trained_heads import Head, Inputs, Trained, mean_of_logs
from extproc.routing.turn_reading import StaticEncoder

FOLDS = 5
HELD_ONCE = 2000  # rows in scope; with as many, one fifth is enough to calibrate on
ON_EMBEDDING = ("centroid", "prototypes", "logistic")  # scorers that a registry can name
KEPT_EXAMPLES = 200  # per route, for the similarity to the nearest example

Progress = Callable[[str], None]


class Corpus(msgspec.Struct, frozen=True):
    """Labelled texts with their features."""

    texts: tuple[str, ...]
    labels: Labels  # numbers of routes; `metrics.ABSTAIN` for null
    inputs: Inputs
    routes: tuple[str, ...]
    copies: Copies | None = None  # of rows in scope; only fitted, never scored
    examples: NDArray[np.intp] = np.zeros(0, np.intp)  # the rows that are examples of the registry

    def take(self, rows: NDArray[np.intp]) -> "Corpus":
        """Some of the rows, with their copies."""
        texts = tuple(self.texts[row] for row in rows.tolist())
        copies = None if self.copies is None else self.copies.take(rows)
        examples = np.flatnonzero(np.isin(rows, self.examples))
        return Corpus(texts, self.labels[rows], take(self.inputs, rows), self.routes, copies, examples)

    def to_fit(self) -> tuple[Inputs, Labels]:
        """The rows and their copies, with labels."""
        if self.copies is None:
            return self.inputs, self.labels
        return self.copies.after(self.inputs), np.concatenate([self.labels, self.labels[self.copies.of]])


class Turn(msgspec.Struct, frozen=True):
    """The rows that a head is fitted on, and the rows that it then scores."""

    fitted: NDArray[np.intp]
    out: NDArray[np.intp]


class _CrossFit(msgspec.Struct, frozen=True):
    """Fits that did not have the rows that they score."""

    logits: Mapping[str, Matrix]  # of each scorer, for all rows
    temperatures: tuple[float, float] | None  # of the parts of a blend
    heads: Mapping[str, Head]  # of each part, where there is one turn


class TrainedRoutes(msgspec.Struct, frozen=True):
    """The trained routes, and the figures of their training."""

    scorer: str
    meaning: Meaning
    selected: Selected  # the floors, with their figures on held-out rows
    tried: Mapping[str, tuple[float, float]]  # accuracy and log loss of each scorer on held-out rows
    held: HeldOut  # of the scorer chosen
    made: HeldOut  # those in scope as if their own route did not exist
    turns: Sequence[Turn]  # the splits of ``held``
    isotonic: bool
    comparison: Comparison | None = None  # with the default scorer; None if the registry has none


def corpus(
    texts: Sequence[str],
    labels: Labels,
    routes: Sequence[str],
    deep: Matrix,
    width: int,
    static: StaticEncoder | None = None,
) -> Corpus:
    """``deep`` has the rows of a ``DeepEncoder``; their first ``width`` columns are the embedding.

    A fast path can be learnt of the rows only with ``static``.
    """
    inputs = Inputs(
        vectors=deep[:, :width],
        inner=deep[:, width:] if deep.shape[1] > width else None,
        words=lexical(texts),
        static=None if static is None else static.encode(texts),
    )
    return Corpus(tuple(texts), labels, inputs, tuple(routes))


def set_apart(rows: Corpus, groups: Labels, share: float, seed: int) -> NDArray[np.bool_]:
    """The test rows: a share of all, by content, near-duplicates together."""
    return places(rows.texts, groups, seed) < share


def train(
    rows: Corpus,
    *,
    costs: Costs = Costs(),  # noqa: B008 frozen
    target_wrong: float | None = None,
    seed: int,
    scorer: str,
    progress: Progress,
    default: Fit | None = None,
) -> TrainedRoutes:
    """Choose the scorer, fit it and calibrate it. ``scorer`` is a name of `SCORERS`, `blend` or `auto`.

    With ``default``, the scorer of the registry, the result is compared with what the registry decides
    without it.
    Raises ``OperatorError`` if a route has no rows.
    """
    _check(rows)
    inside = int((rows.labels != ABSTAIN).sum())
    names = [scorer]
    if scorer == "auto":
        names = _candidates(inside, all_known=default is not None and 2 * len(rows.examples) > inside)
    turns = held_out(rows, groups_of(_words(rows)), seed)
    fits = _cross_fit(rows, turns, names, seed, progress)
    scored = np.sort(np.concatenate([turn.out for turn in turns]))
    tried = {name: _figures(found[scored], rows.labels[scored]) for name, found in fits.logits.items()}
    chosen = min(tried, key=lambda name: tried[name][1])
    progress(f"fitting {chosen} on all {inside} rows")
    head = _fit(chosen, rows, seed, fits)
    once = len(turns) == 1 and len(scored) < len(rows.labels)
    by_turns = partial(_likeness, rows, turns)
    # As serving does, each row is compared with all others, where all rows are held out in turn.
    likeness = by_turns if once else partial(_to_others, rows)
    held, made = _held_and_made(rows, fits.logits[chosen], scored, likeness)
    members = np.flatnonzero(rows.labels != ABSTAIN)
    centroids = fit_centroids(rows.inputs.vectors[members], rows.labels[members], len(rows.routes)).centroids
    aim = Aim(costs, target_wrong)
    settled = settle(held, made, centroids, aim)
    comparison = None
    if default is not None and len(rows.examples) < HELD_ONCE:
        progress("comparing with the default scorer")
        splits = [(turn.fitted, turn.out) for turn in turns]
        known = Rows(rows.inputs.vectors, rows.labels, rows.examples)
        of_turns, by_those = (held, made), settled
        if not once:
            of_turns = _held_and_made(rows, fits.logits[chosen], scored, by_turns)
            by_those = settle(*of_turns, centroids, aim)
        comparison = compare(known, splits, *of_turns, by_those, aim, default)
    return TrainedRoutes(
        scorer=chosen,
        meaning=_meaning(rows, head, settled.calibration, settled.scope),
        selected=settled.selected,
        tried=tried,
        held=held,
        made=made,
        turns=turns,
        isotonic=settled.isotonic,
        comparison=comparison,
    )


def _candidates(inside: int, *, all_known: bool) -> list[str]:
    """The scorers to try on so many rows in scope.

    Where most rows are the registry's own examples, the head is compared with the registry's scorer, and
    others that read no more than the embedding are not tried: on few rows they win by chance.
    """
    left_out = NOT_OF_FEW if inside < ENOUGH_ROWS else NOT_OF_MANY if inside >= HELD_ONCE else ()
    known = ON_EMBEDDING if all_known else ()
    return [name for name in (*SCORERS, BLEND) if name not in {*left_out, *known}]


def measure(meaning: Meaning, rows: Corpus) -> HeldOut:
    """The trained head's scores of test rows."""
    logits = meaning.head.logits(rows.inputs)
    assert meaning.scope is not None
    vectors = rows.inputs.vectors
    to_centroids = vectors @ meaning.scope.centroids.T
    likeness = likeness_of(vectors, logits, meaning.examples, meaning.of_example, to_centroids)
    return HeldOut(rows.labels, logits, likeness)


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
) -> _CrossFit:
    logits: dict[str, Matrix] = {
        name: np.zeros((len(rows.labels), len(rows.routes)), np.float32) for name in _parts(names)
    }
    scored = np.zeros(len(rows.labels), bool)
    heads: dict[str, Head] = {}
    parts = _parts(names)
    fits = len(turns) * len(parts)
    for number, turn in enumerate(turns):
        scored[turn.out] = True
        (inputs, labels), seen = rows.take(turn.fitted).to_fit(), take(rows.inputs, turn.out)
        for place, name in enumerate(parts, start=number * len(parts)):
            progress(f"fitting {bar(place, fits)}: {name} on {len(turn.fitted)} rows")
            heads[name] = SCORERS[name](inputs, labels, len(rows.routes), seed, None)
            logits[name][turn.out] = heads[name].logits(seen)
    pair = None
    inside = scored & (rows.labels != ABSTAIN)
    if BLEND in names:
        pair = (
            best_temperature(logits["lexical"][inside], rows.labels[inside]),
            best_temperature(logits["perceptron"][inside], rows.labels[inside]),
        )
        logits[BLEND] = mean_of_logs(logits["lexical"], logits["perceptron"], pair)
    return _CrossFit({name: logits[name] for name in names}, pair, heads if len(turns) == 1 else {})


def _parts(names: Sequence[str]) -> list[str]:
    """The scorers to fit for these names: a blend has two parts."""
    needed = {part for name in names for part in (("lexical", "perceptron") if name == BLEND else (name,))}
    return [name for name in SCORERS if name in needed]


def _fit(name: str, rows: Corpus, seed: int, cross: _CrossFit) -> Head:
    """The head of all rows in scope. It goes on from the head of most of them, where there is one."""
    inputs, labels = rows.take(np.flatnonzero(rows.labels != ABSTAIN)).to_fit()
    heads = [
        SCORERS[part](inputs, labels, len(rows.routes), seed, cross.heads.get(part))
        for part in _parts([name])
    ]
    if name != BLEND:
        return heads[0]
    linear, perceptron = heads
    assert isinstance(linear, Trained)
    assert isinstance(perceptron, Trained)
    assert cross.temperatures is not None
    return blend(linear, perceptron, cross.temperatures)


def _figures(logits: Matrix, labels: Labels) -> tuple[float, float]:
    """Accuracy and log loss of the rows in scope, at the best temperature."""
    inside = labels != ABSTAIN
    logits, labels = logits[inside], labels[inside]
    chances = Calibration(best_temperature(logits, labels)).probabilities(logits)
    likely = np.maximum(chances[np.arange(len(labels)), labels].astype(np.float64), 1e-12)
    return float((chances.argmax(axis=1) == labels).mean()), float(-np.log(likely).mean())


def _held_and_made(
    rows: Corpus, logits: Matrix, scored: Labels, likeness: Callable[[Matrix], Floats]
) -> tuple[HeldOut, HeldOut]:
    """Held-out rows, and those in scope as if their own route did not exist; none if there is one route."""
    held = HeldOut(rows.labels[scored], logits[scored], likeness(logits)[scored])
    others = scored[held.inside] if len(rows.routes) > 1 else scored[:0]
    masked = logits.copy()
    masked[others] = without_own_route(logits[others], rows.labels[others])
    return held, HeldOut(np.full(len(others), ABSTAIN), masked[others], likeness(masked)[others])


def _to_others(rows: Corpus, logits: Matrix) -> Floats:
    """The likeness of each row to the rows in scope, without itself."""
    vectors, inside = rows.inputs.vectors, rows.labels != ABSTAIN
    found = np.empty((len(rows.labels), len(LIKENESS)))
    examples, labels = vectors[inside], rows.labels[inside]
    centroids = fit_centroids(examples, labels, len(rows.routes)).centroids
    found[inside] = likeness_of(
        examples,
        logits[inside],
        examples,
        labels,
        to_centroids_without_self(examples, labels, len(rows.routes)),
        own=np.arange(len(examples)),
    )
    strangers = vectors[~inside]
    found[~inside] = likeness_of(strangers, logits[~inside], examples, labels, strangers @ centroids.T)
    return found


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
