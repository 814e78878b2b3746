"""`extproc train`: read the registry and data, learn the routes, write the artefact, describe the result."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, ReportingEncoder, calls_at_once, open_encoder
from extproc.errors import OperatorError
from extproc.lab.datasets import OutcomeRow, Reader, labels_of
from extproc.lab.figures.number_formats import (
    bar,
    counted,
    difference,
    log_loss,
    percent,
    score,
    threshold,
    with_interval,
)
from extproc.lab.measure import classification_metrics
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels
from extproc.lab.measure.intervals import Figure, auroc_of, bootstrap, one_by_one, wilson
from extproc.lab.measure.outcome_evaluation import LearntQuality, learn_quality
from extproc.lab.measure.outcome_text import learnt_text
from extproc.lab.train import fastpath_training
from extproc.lab.train.default_comparison import Comparison
from extproc.lab.train.example_copies import copies_of
from extproc.lab.train.floors import Costs
from extproc.lab.train.held_out_scores import HeldOut, decisions, in_scope
from extproc.lab.train.route_training import (
    Corpus,
    TrainedRoutes,
    corpus,
    data_hash,
    measure,
    set_apart,
    train,
)
from extproc.lab.train.splits import groups_of
from extproc.registry import head_artefact, quality_artefact
from extproc.registry.labelled_rows import RouteRow
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.snapshot_compiling import scorer_fit
from extproc.routing.fastpath import Words
from extproc.routing.scope import ScopeScore
from extproc.routing.scorers import Fit
from extproc.routing.trained_heads import Trained
from extproc.routing.turn_pieces import pieces
from extproc.routing.turn_reading import StaticEncoder, fit_reader
from extproc.vocabulary import Encoder

TEST_SHARE = 0.1
FEW = 50  # rows a route on average; with fewer, all are used for training
_CACHED = 100_000  # vectors of 4.6 kB

Progress = Callable[[str], None]


class TrainOptions(msgspec.Struct, frozen=True):
    """The options of `extproc train`."""

    costs: Costs = Costs()
    target_wrong: float | None = None  # chooses the floors in place of costs
    test_share: float | None = None  # None: `TEST_SHARE`, or nothing where rows are few
    scorer: str = "auto"
    seed: int = 0
    outcomes: Reader[OutcomeRow] | None = None  # also learn to predict quality
    fast_path: bool = False  # also learn when the words alone are enough
    default: Fit | None = None  # the registry's scorer, to compare with

    @property
    def keeps_the_better(self) -> bool:
        """Whether the default scorer stays where it is no worse: unless the operator asks for a head."""
        return self.scorer == "auto" and self.target_wrong is None


def train_artefact(
    registry: Path,
    read: Reader[RouteRow] | None,
    out: Path,
    encoder_dir: Path | None,
    options: TrainOptions,
    progress: Progress,
) -> str:
    """Train and write the artefact. The result is a text: the choice and its figures.

    Without ``read``, only predicted quality is learnt, from the options' outcomes. Raises ``OperatorError``.
    """
    loaded = load(registry, untrained=True)
    if read is not None and not loaded.registry.routes:
        raise OperatorError(f"{registry} has no routes to learn (expected some, or only --outcomes)")
    files = locate(encoder_dir, loaded.registry.encoder.model)
    encoder = open_encoder(files, loaded.registry.encoder)
    at_once = calls_at_once(encoder, loaded.registry.encoder)
    deep = ReportingEncoder(DeepEncoder(encoder), _embedding(progress), at_once)
    path = files.directory / f"training-{encoder.name.replace('/', '-')}.npz"
    cached = CachedEncoder(deep, path, _CACHED)
    rows = None if read is None else read_corpus(loaded, read, cached, encoder.static, options.seed)
    quality = None
    if options.outcomes is not None:
        quality = learn_quality(
            loaded.registry, options.outcomes, cached, encoder.name, options.seed, progress
        )
    asked = msgspec.structs.replace(
        options,
        fast_path=loaded.registry.fast_path is not None,
        default=scorer_fit(loaded.registry),
    )
    head = None if rows is None else learn(rows, encoder.name, asked, progress)
    parts = [_write_head(out, head), _write_quality(out, quality)]
    progress("")
    where = f"written          {out}; the registry takes it as `artefact: {out.name}`, relative to its file"
    return "\n\n".join([*filter(None, parts), where])


Learnt = tuple[head_artefact.HeadManifest, TrainedRoutes, Words | None]


def _write_head(out: Path, learnt: Learnt | None) -> str:
    """Write the head, or delete an older one, so that the artefact is the result of one run."""
    if learnt is None:
        head_artefact.remove(out)
        return ""
    manifest, outcome, words = learnt
    if manifest.kind == "default":
        head_artefact.write_default(out, manifest)
    else:
        head_artefact.write(out, manifest, outcome.meaning, words)
    return as_text(manifest, outcome)


def _write_quality(out: Path, learnt: LearntQuality | None) -> str:
    """Write predicted quality, or delete an older one."""
    if learnt is None:
        quality_artefact.remove(out)
        return ""
    quality_artefact.write(out, learnt.manifest, learnt.fitted.quality)
    return learnt_text(
        learnt.choosing,
        learnt.manifest.labels,
        learnt.pools,
        learnt.left_out,
        learnt.manifest.trust["most"],
        priced=learnt.priced,
    )


def read_corpus(
    loaded: LoadedRegistry, read: Reader[RouteRow], deep: Encoder, static: StaticEncoder | None, seed: int
) -> Corpus:
    """The registry's examples and the rows of the data, each text once, with copies.

    Of two labels, that of the data counts. With ``static``, the encoder reads of each row what serving will
    read of such a turn.
    """
    routes = tuple(loaded.registry.routes)
    found = read(routes).rows
    labelled = {text: place for place, route in enumerate(routes) for text in loaded.examples.get(route, ())}
    labelled |= dict(zip((row.text for row in found), labels_of(found, routes).tolist(), strict=True))
    texts = list(labelled)
    labels = np.array([labelled[text] for text in texts], np.intp)
    if static is not None:
        texts = as_read(static, texts, labels, len(routes))
    rows = corpus(texts, labels, routes, deep.encode(texts), DIMENSIONS, static)
    examples = {text for route in routes for text in loaded.examples.get(route, ())}
    return msgspec.structs.replace(
        rows,
        copies=copies_of(texts, labels, deep, DIMENSIONS, seed),
        examples=np.flatnonzero([text in examples for text in labelled] & (labels != ABSTAIN)),
    )


def as_read(static: StaticEncoder, texts: Sequence[str], labels: Labels, routes: int) -> list[str]:
    """Of each long turn the piece that is most like the rows of one sentence; the turn, where there are none.

    Every route needs such a row, or all turns stay whole.
    """
    known = np.array([len(pieces(text)) == 1 for text in texts], bool) & (labels != ABSTAIN)
    if len(set(labels[known].tolist())) < routes:
        return list(texts)
    reader = fit_reader(static, [texts[row] for row in np.flatnonzero(known).tolist()], labels[known], routes)
    return [reader.read(text).text for text in texts]


def learn(rows: Corpus, encoder: str, options: TrainOptions, progress: Progress) -> Learnt:
    """Train on all rows except the test rows, and measure on these; ``Words`` is the fast path."""
    share = options.test_share
    if share is None:
        share = TEST_SHARE if (rows.labels != ABSTAIN).sum() >= FEW * len(rows.routes) else 0.0
    apart = np.zeros(len(rows.texts), bool)
    if share > 0:
        assert rows.inputs.words is not None
        apart = set_apart(rows, groups_of(rows.inputs.words), share, options.seed)
    fitted, measured = rows.take(np.flatnonzero(~apart)), rows.take(np.flatnonzero(apart))
    outcome = train(
        fitted,
        costs=options.costs,
        target_wrong=options.target_wrong,
        seed=options.seed,
        scorer=options.scorer,
        progress=progress,
        default=options.default,
    )
    held = measure(outcome.meaning, measured) if apart.any() else outcome.held
    learnt, about = None, {}
    if options.fast_path:
        learnt = fastpath_training.learn(fitted, outcome, progress)
        seen = (
            fastpath_training.measure(learnt.words, outcome, measured, held) if apart.any() else learnt.held
        )
        about = _about_the_fast_path(learnt.words, seen)
    head = outcome.meaning.head
    manifest = head_artefact.HeadManifest(
        format=head_artefact.FORMAT,
        scorer=outcome.scorer,
        kind=head_artefact.kind_of(head),
        encoder=encoder,
        routes=rows.routes,
        data_sha256=data_hash(rows.texts, rows.labels, rows.routes),
        seed=options.seed,
        split={
            "train": int((~apart).sum()),
            "copies": 0 if fitted.copies is None else len(fitted.copies.of),
            "calibration": len(outcome.held.labels),
            "test": int(apart.sum()),
            "test_share": share,
        },
        temperature=outcome.meaning.calibration.temperature,
        temperatures=head.temperatures if isinstance(head, Trained) else (1.0, 1.0),
        norm=head.lexicon.norm if isinstance(head, Trained) and head.lexicon is not None else 0.0,
        thresholds=_about_the_floors(outcome, options),
        scope=_about_the_scope(outcome.meaning.scope),
        metrics=figures(held, outcome, "test" if apart.any() else "cross-fitted"),
        comparison=_about_the_comparison(outcome.comparison),
        fast_path=about,
    )
    if options.keeps_the_better and outcome.comparison is not None and not outcome.comparison.better:
        manifest = msgspec.structs.replace(manifest, kind="default", thresholds={}, scope={}, fast_path={})
    return manifest, outcome, learnt.words if learnt else None


def _about_the_floors(outcome: TrainedRoutes, options: TrainOptions) -> dict[str, float]:
    floors = msgspec.structs.asdict(outcome.selected.floors)
    return floors if options.target_wrong is None else {**floors, "target_wrong": options.target_wrong}


def _about_the_comparison(comparison: Comparison | None) -> dict[str, Any]:
    """The comparison with the default scorer, each figure with its interval."""
    if comparison is None:
        return {}
    found: dict[str, Any] = {
        "rows": comparison.rows,
        "strangers": comparison.strangers,
        "made": comparison.made,
        "better": comparison.better,
    }
    for name, compared in (("right", comparison.right), ("cost", comparison.cost)):
        for whose, figure in msgspec.structs.asdict(compared).items():
            found[f"{name}_{whose}"] = _rounded(figure.value, figure)
    return found


def _about_the_scope(scope: ScopeScore | None) -> dict[str, float]:
    if scope is None:
        return {}
    return {"temperature": scope.temperature, "bias": scope.bias, "floor": scope.floor}


def _about_the_fast_path(words: Words, seen: fastpath_training.Measured) -> dict[str, float]:
    """The fast path's settings that serving reads, and its figures."""
    measured = {name: round(value, 4) for name, value in msgspec.structs.asdict(seen).items()}
    known = {name: value for name, value in measured.items() if not math.isnan(value)}
    assert words.head.lexicon is not None
    return {
        "temperature": words.temperature,
        "norm": words.head.lexicon.norm,
        "least": words.least,
        **known,
    }


def figures(held: HeldOut, outcome: TrainedRoutes, measured_on: str) -> dict[str, Any]:
    """Held-out metrics with 95 % intervals; what cannot be computed is absent."""
    probabilities = outcome.meaning.calibration.probabilities(held.logits)
    decided = decisions(outcome.meaning, held, outcome.selected.floors)
    inside = held.inside
    right = probabilities.argmax(axis=1) == held.labels
    found: dict[str, Any] = {"measured_on": measured_on, "rows": len(held.labels)}
    if inside.any():
        claimed = probabilities.max(axis=1).astype(np.float64)[inside]
        found["accuracy"] = _rounded(
            float(right[inside].mean()), wilson(float(right[inside].sum()), int(inside.sum()))
        )
        found["debiased_ece"] = _rounded(
            classification_metrics.debiased_ece(claimed, right[inside]),
            bootstrap(one_by_one(_calibration(claimed, right[inside])), int(inside.sum()), resamples=200),
        )
    if inside.any() and not inside.all():
        scope = in_scope(outcome.meaning, held)
        found["out_of_scope_auroc"] = _rounded(
            classification_metrics.auroc(scope[inside], scope[~inside]),
            bootstrap(auroc_of(scope, inside), len(inside)),
        )
    kept = decided != ABSTAIN
    found["kept"] = _rounded(float(kept.mean()), wilson(float(kept.sum()), len(kept)))
    if kept.any():
        wrong = float((~right[kept]).sum())
        found["wrong_of_kept"] = _rounded(wrong / float(kept.sum()), wilson(wrong, int(kept.sum())))
    return found


def as_text(manifest: head_artefact.HeadManifest, outcome: TrainedRoutes) -> str:
    """The scorers tried, the choice and its figures."""
    lines = ["held-out rows    accuracy  log loss"]
    for name, (accuracy, loss) in sorted(outcome.tried.items(), key=lambda item: item[1][1]):
        mark = "  <- chosen" if name == outcome.scorer else ""
        lines.append(f"  {name:<14} {score(accuracy):>8} {log_loss(loss):>9}{mark}")
    floors, on = outcome.selected.floors, manifest.metrics["measured_on"]
    target = manifest.thresholds.get("target_wrong")
    lines.append(
        f"floors           margin {threshold(floors.margin)}, P(in scope) {threshold(floors.in_scope)}: "
        f"{percent(outcome.selected.coverage)} of held-out rows kept, {percent(outcome.selected.wrong)} of "
        "these wrong" + (f" (target {percent(target)})" if target is not None else "")
    )
    if not outcome.selected.learnt:
        lines.append("                 the default floors: learnt ones are no better on held-out rows")
    if target is not None and outcome.selected.wrong > target:
        lines.append("warning          the floors miss the target: set `thresholds` by hand, or add rows")
    lines.append(f"measured on      {counted(manifest.metrics['rows'], 'row')}, {on}")
    for name, value in manifest.metrics.items():
        if isinstance(value, list):
            lines.append(f"  {name:<18} {with_interval(Figure(*value))}")
    if manifest.fast_path:
        lines.append(_fast_path_text(manifest.fast_path))
    return "\n".join([*lines, *_comparison_lines(outcome.comparison, kept=manifest.kind == "default")])


def _comparison_lines(comparison: Comparison | None, *, kept: bool) -> list[str]:
    """The trained head beside the default scorer, and which of both is written."""
    if comparison is None:
        return []
    strangers = f"{counted(comparison.strangers, 'row')} out of scope"
    if comparison.made:
        strangers = "the same rows without their route as strangers"
    lines = [f"beside default   {counted(comparison.rows, 'held-out row')} in scope, and {strangers}"]
    for name, compared in (("as labelled", comparison.right), ("cost a request", comparison.cost)):
        lines.append(
            f"  {name:<14} trained {with_interval(compared.trained)}, default "
            f"{with_interval(compared.default)}, ahead by {with_interval(compared.lead, difference)}"
        )
    if kept:
        why = "too few rows to judge by" if comparison.few else "the trained head is no better"
        lines.append(
            f"kept             the default scorer: {why}. The registry's examples decide, as without an "
            "artefact (`--scorer NAME` writes a head all the same)"
        )
    elif not comparison.better:
        lines.append(
            "warning          the head is no better than the default scorer, which needs no artefact"
        )
    return lines


def _fast_path_text(about: Mapping[str, float]) -> str:
    if "agreement" not in about:
        return "fast path        the words alone are never enough: every text will be embedded"
    decided = about["decided"]
    agreement = Figure.of(about["agreement"], wilson(round(about["agreement"] * decided), round(decided)))
    strangers = f" and {percent(about['strangers'])} of those out of it" if "strangers" in about else ""
    return (
        f"fast path        decides {percent(about['coverage'])} of the rows in scope{strangers}, "
        f"{with_interval(agreement, percent)} as the whole head does; "
        f"{percent(about['right'])} are right, and {percent(about['whole_right'])} with the whole head"
    )


def _rounded(value: float, interval: Any) -> list[float]:
    return [round(value, 4), round(interval.low, 4), round(interval.high, 4)]


def _calibration(claimed: Floats, right: NDArray[np.bool_]) -> Callable[[NDArray[np.intp]], float]:
    return lambda rows: classification_metrics.debiased_ece(claimed[rows], right[rows])


def _embedding(progress: Progress) -> Callable[[int, int], None]:
    """Reports the encoder's progress as a text bar."""
    return lambda done, total: progress(f"embedding {bar(done, total)}")
