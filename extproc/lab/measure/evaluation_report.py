"""The figures of one registry on one data set, with intervals. The JSON of the report has these fields."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from extproc.lab.datasets import Reader, labels_of
from extproc.lab.measure import classification_metrics
from extproc.lab.measure.baselines import BaselineFigures, baseline_figures
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels, Truths
from extproc.lab.measure.decision_rows import write_decisions
from extproc.lab.measure.flip_rates import flip_rates, flips_of
from extproc.lab.measure.intervals import (
    NO_FIGURE,
    Figure,
    auroc_of,
    bootstrap,
    bootstrap_distance,
    bootstrap_macro_f1,
    one_by_one,
    share,
    wilson,
)
from extproc.lab.measure.language_parity import LanguageFigures, by_language
from extproc.lab.measure.llm_worth import DoubtAsker, LlmWorth, consult, worth_of
from extproc.lab.measure.replay import CandidateRegistry, ReplayedDecisions, decide_all
from extproc.registry.labelled_rows import RouteRow

_SLOW_RESAMPLES = 500  # of metrics that sort every resample
_CURVE_POINTS = 200
_MISTAKES = 20
_FLIPS_UP_TO = 200  # rows; flips of more are measured only on request, because each row costs five encodings
SIGNALS = ("margin", "similarity", "probability", "in_scope")


class RouteFigures(msgspec.Struct, frozen=True):
    """One route."""

    name: str
    rows: int
    precision: Figure
    recall: Figure
    f1: float


class Curve(msgspec.Struct, frozen=True):
    """Points of a risk-coverage curve."""

    signal: str
    coverage: list[float]
    risk: list[float]


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Rows of similar confidence."""

    confidence: float
    accuracy: Figure
    rows: int


class Mistake(msgspec.Struct, frozen=True):
    """A row with a wrong decision; an empty route means abstaining."""

    text: str
    route: str
    decided: str
    probability: float | None
    margin: float | None


class Report(msgspec.Struct, frozen=True):
    """The whole report of `extproc eval`."""

    registry: str
    version: str
    encoder: str
    data: str
    data_version: str  # 12 hexadecimal digits of a SHA-256 of the data
    rows: int
    inside: int  # rows that have a route
    outside: int  # rows that should abstain
    seen: int  # rows whose text is an example of the registry: their figures are too good
    figures: dict[str, Figure]  # by the names of FIGURES
    routes: list[RouteFigures]
    confusion: list[list[int]]  # truths down, decisions across; last: out of scope, abstained
    reliability: list[ReliabilityBin]
    risk_coverage: list[Curve]
    operating_point: tuple[float, float]  # coverage and risk at the registry's floors
    quantiles: dict[str, dict[str, tuple[float, ...]]]  # signal -> kind of row -> at metrics.QUANTILES
    reasons: Mapping[str, int]
    baselines: list[BaselineFigures]
    mistakes: list[Mistake]  # the surest first
    flips: dict[str, Figure] = {}  # by kind of change: decisions that change; empty: not measured
    languages: list[LanguageFigures] = []  # the most frequent first; empty: all rows have the same one
    llm: LlmWorth | None = None  # what an LLM adds that is asked in doubt; None: none was asked


# The meaning of each figure.
FIGURES = {
    "accuracy": "rows decided as labelled; out of scope, abstaining is right",
    "accuracy_weighted": "the same, each row weighing as many requests as it was drawn for",
    "accuracy_inside": "rows in scope whose most probable route is right, before any floor",
    "macro_f1": "mean F1 of the routes' decisions",
    "kept": "rows in scope that got a route",
    "outside_kept": "rows out of scope that got a route",
    "right_of_kept": "of all rows that got a route, those that got the right one",
    "auroc_margin": "how well the margin separates in scope from out of scope",
    "auroc_similarity": "how well the similarity does",
    "auroc_probability": "how well the probability does",
    "auroc_in_scope": "how well P(in scope) does",
    "fpr95_margin": "out-of-scope rows let through by a margin floor that keeps 95 % of the others",
    "fpr95_similarity": "out-of-scope rows let through by a similarity floor that keeps 95 % of the others",
    "fpr95_probability": "out-of-scope rows let through by a probability floor that keeps 95 % of the others",
    "fpr95_in_scope": "out-of-scope rows let through by a P(in scope) floor that keeps 95 % of the others",
    "ece": "expected calibration error of the probability, in scope",
    "debiased_ece": "the same without the part that chance adds",
    "aurc_margin": "mean risk over all floors on the margin, out of scope counting as wrong",
    "aurc_similarity": "mean risk over all floors on the similarity",
    "aurc_probability": "mean risk over all floors on the probability",
    "aurc_in_scope": "mean risk over all floors on P(in scope)",
    "stability": "groups of paraphrases that all got one decision",
}


def evaluate(
    candidate: CandidateRegistry,
    read: Reader[RouteRow],
    *,
    flips: bool = False,
    decisions: Path | None = None,
    asker: DoubtAsker | None = None,
) -> Report:
    """Decide labelled rows with a registry, and measure the decisions.

    With ``flips``, or with few rows, each row is also decided as other people would write it. ``decisions``
    is a file that gets every decision as a line of JSON. ``asker`` is asked about rows in doubt; all figures
    but its own are without it. Raises ``DataError``, ``EncoderFailed``,
    ``OperatorError``.
    """
    data = read(candidate.routes)
    rows = data.rows
    texts = [row.text for row in rows]
    decided = decide_all(candidate.snapshot, candidate.encoder, texts, candidate.routes)
    consulted = None if asker is None else consult(candidate, texts, decided, asker)
    if decisions is not None:
        write_decisions(decisions, rows, decided.decisions, consulted.heard if consulted else {})
    truth = labels_of(rows, candidate.routes)
    table = classification_metrics.confusion(truth, decided.route, len(candidate.routes))
    examples = {text for texts in candidate.loaded.examples.values() for text in texts}
    return Report(
        registry=candidate.name,
        version=candidate.loaded.version,
        encoder=candidate.encoder_name,
        data=data.name,
        data_version=data.version,
        rows=len(rows),
        inside=int((truth >= 0).sum()),
        outside=int((truth < 0).sum()),
        seen=sum(row.text in examples for row in rows),
        figures=_figures(truth, decided, rows),
        routes=_routes(candidate.routes, table),
        confusion=table.tolist(),
        reliability=_reliability(truth, decided),
        risk_coverage=[_curve(signal, truth, decided) for signal in SIGNALS],
        operating_point=_operating_point(truth, decided),
        quantiles={signal: _quantiles(_signal(decided, signal), truth, decided.best) for signal in SIGNALS},
        reasons=decided.reasons,
        baselines=baseline_figures(candidate, rows, truth, decided),
        mistakes=_mistakes(rows, truth, decided),
        flips=_flips(candidate, texts, decided) if flips or len(rows) <= _FLIPS_UP_TO else {},
        languages=by_language(rows, truth, decided.route),
        llm=None if consulted is None else worth_of(truth, texts, decided, consulted),
    )


def _flips(
    candidate: CandidateRegistry, texts: Sequence[str], decided: ReplayedDecisions
) -> dict[str, Figure]:
    return flip_rates(flips_of(candidate, texts, decided.route, decided.routes))


def _figures(truth: Labels, decided: ReplayedDecisions, rows: Sequence[RouteRow]) -> dict[str, Figure]:
    inside, kept = truth >= 0, decided.route >= 0
    routes = len(decided.routes)
    table = classification_metrics.confusion(truth, decided.route, routes)
    figures = {
        "accuracy": share(decided.route == truth),
        "accuracy_weighted": _weighted(decided.route == truth, [row.weight for row in rows]),
        "accuracy_inside": share((decided.best == truth)[inside]),
        "macro_f1": Figure.of(
            classification_metrics.macro_f1(table), bootstrap_macro_f1(truth, decided.route, routes)
        ),
        "kept": share(kept[inside]),
        "outside_kept": share(kept[~inside]),
        "right_of_kept": share((decided.route == truth)[kept]),
        "stability": _stability(rows, decided.route),
    }
    scored = ~np.isnan(decided.probability)
    for signal in SIGNALS:
        scores = _signal(decided, signal)
        known = ~np.isnan(scores)
        figures |= _detection(signal, scores[known], truth[known], decided.best[known])
    certain = scored & inside
    confidence, right = decided.probability[certain], (decided.best == truth)[certain]
    figures["ece"] = _calibration(classification_metrics.ece, confidence, right)
    figures["debiased_ece"] = _calibration(classification_metrics.debiased_ece, confidence, right)
    return {name: figures[name] for name in FIGURES}


def _weighted(right: Truths, weights: Sequence[float]) -> Figure:
    """The ratio estimator of a share of the traffic that a stratified sample was drawn from (Cochran, 1977).

    NaN where all rows weigh the same, since it is then the plain share.
    """
    weight = np.array(weights)
    if (weight == weight[0]).all():
        return NO_FIGURE
    interval = bootstrap(
        lambda drawn: classification_metrics.ratio(drawn @ (weight * right), drawn @ weight), len(weight)
    )
    return Figure.of(float((weight * right).sum() / weight.sum()), interval)


def _detection(signal: str, scores: Floats, truth: Labels, best: Labels) -> dict[str, Figure]:
    inside, right = truth >= 0, best == truth

    def fpr(drawn: Labels) -> float:
        chosen = inside[drawn]
        return classification_metrics.fpr_at_tpr(scores[drawn][chosen], scores[drawn][~chosen])

    def area(drawn: Labels) -> float:
        return classification_metrics.aurc(classification_metrics.risk_coverage(scores[drawn], right[drawn]))

    return {
        f"auroc_{signal}": Figure.of(
            classification_metrics.auroc(scores[inside], scores[~inside]),
            bootstrap(auroc_of(scores, inside), len(scores)),
        ),
        f"fpr95_{signal}": _slow_figure(fpr, len(scores)),
        f"aurc_{signal}": _slow_figure(area, len(scores)),
    }


def _calibration(metric: Callable[[Floats, Truths], float], confidence: Floats, right: Truths) -> Figure:
    value = metric(confidence, right)
    statistic = one_by_one(lambda drawn: metric(confidence[drawn], right[drawn]))
    return Figure.of(value, bootstrap_distance(statistic, value, len(right), resamples=_SLOW_RESAMPLES))


def _slow_figure(metric: Callable[[Labels], float], rows: int) -> Figure:
    if rows == 0:
        return NO_FIGURE
    interval = bootstrap(one_by_one(metric), rows, resamples=_SLOW_RESAMPLES)
    return Figure.of(metric(np.arange(rows, dtype=np.intp)), interval)


def _stability(rows: Sequence[RouteRow], decided: Labels) -> Figure:
    """The share of groups of two or more rows whose rows all got the same decision."""
    groups: dict[str, list[int]] = {}
    for row, route in zip(rows, decided.tolist(), strict=True):
        if row.group:
            groups.setdefault(row.group, []).append(route)
    return share(np.array([len(set(g)) == 1 for g in groups.values() if len(g) > 1], bool))


def _routes(
    names: Sequence[str], table: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> list[RouteFigures]:
    found = classification_metrics.per_route(table)
    taken, support = table.sum(axis=0), table.sum(axis=1)
    return [
        RouteFigures(
            name=name,
            rows=int(support[i]),
            precision=Figure.of(float(found.precision[i]), wilson(int(table[i, i]), int(taken[i]))),
            recall=Figure.of(float(found.recall[i]), wilson(int(table[i, i]), int(support[i]))),
            f1=float(found.f1[i]),
        )
        for i, name in enumerate(names)
    ]


def _reliability(truth: Labels, decided: ReplayedDecisions) -> list[ReliabilityBin]:
    certain = ~np.isnan(decided.probability) & (truth >= 0)
    if not certain.any():
        return []
    curve = classification_metrics.reliability(decided.probability[certain], (decided.best == truth)[certain])
    return [
        ReliabilityBin(confidence, Figure.of(accuracy, wilson(accuracy * count, count)), count)
        for confidence, accuracy, count in zip(
            curve.confidence.tolist(), curve.accuracy.tolist(), curve.count.tolist(), strict=True
        )
    ]


def _curve(signal: str, truth: Labels, decided: ReplayedDecisions) -> Curve:
    scores = _signal(decided, signal)
    known = ~np.isnan(scores)
    curve = classification_metrics.risk_coverage(scores[known], decided.best[known] == truth[known])
    last = len(curve.risk) - 1
    points = np.unique(np.linspace(0, last, _CURVE_POINTS).astype(int)).tolist() if last >= 0 else []
    return Curve(signal, [float(curve.coverage[i]) for i in points], [float(curve.risk[i]) for i in points])


def _operating_point(truth: Labels, decided: ReplayedDecisions) -> tuple[float, float]:
    kept = decided.route >= 0
    risk = float((decided.route != truth)[kept].mean()) if kept.any() else math.nan
    return float(kept.mean()), risk


def _quantiles(scores: Floats, truth: Labels, best: Labels) -> dict[str, tuple[float, ...]]:
    known = ~np.isnan(scores)
    kinds = {
        "right": known & (best == truth),
        "wrong": known & (best != truth) & (truth >= 0),
        "out of scope": known & (truth < 0),
    }
    return {name: classification_metrics.quantiles(scores[chosen]) for name, chosen in kinds.items()}


def _mistakes(rows: Sequence[RouteRow], truth: Labels, decided: ReplayedDecisions) -> list[Mistake]:
    """Rows that got a wrong route, then rows that abstained; in each part, the largest margin first."""
    wrong = np.flatnonzero(decided.route != truth)
    sureness = np.nan_to_num(decided.margin[wrong], nan=1.0)
    order = wrong[np.lexsort((-sureness, decided.route[wrong] == ABSTAIN))]
    return [
        Mistake(
            text=rows[i].text,
            route=rows[i].route or "",
            decided=decided.routes[decided.route[i]] if decided.route[i] >= 0 else "",
            probability=_or_none(decided.probability[i]),
            margin=_or_none(decided.margin[i]),
        )
        for i in order[:_MISTAKES].tolist()
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _signal(decided: ReplayedDecisions, name: str) -> Floats:
    signals = {
        "margin": decided.margin,
        "similarity": decided.similarity,
        "probability": decided.probability,
        "in_scope": decided.in_scope,
    }
    return signals[name]
