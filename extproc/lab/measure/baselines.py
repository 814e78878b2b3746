"""What a router must beat to be worth its latency: chance, prompt length and the nearest centroid."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from extproc.lab.measure import classification_metrics
from extproc.lab.measure.classification_metrics import Floats, Labels
from extproc.lab.measure.intervals import Figure, auroc_of, bootstrap, bootstrap_macro_f1, mean_of, share
from extproc.lab.measure.replay import CandidateRegistry, ReplayedDecisions
from extproc.registry.labelled_rows import RouteRow
from extproc.routing.scorers import Matrix, fit_centroids
from extproc.vocabulary import Encoder


class BaselineFigures(msgspec.Struct, frozen=True):
    """One baseline, and how far the registry is ahead of it on the same rows (a paired interval)."""

    name: str
    accuracy: Figure  # of rows in scope
    macro_f1: Figure
    auroc: Figure
    lead: Figure


class Baseline(msgspec.Struct, frozen=True):
    """A router that never abstains."""

    name: str
    best: Labels  # (texts,) places among the routes of the examples
    score: Floats  # (texts,) the higher, the more probably in scope


def baseline_figures(
    candidate: CandidateRegistry, rows: Sequence[RouteRow], truth: Labels, decided: ReplayedDecisions
) -> list[BaselineFigures]:
    """The figures of each baseline on rows that ``candidate`` decided; none where it has no examples."""
    examples = candidate.loaded.examples
    if not examples:
        return []
    inside = truth >= 0
    ours = (decided.best == truth)[inside].astype(np.float64)
    place = np.array([candidate.routes.index(route) for route in examples], np.intp)
    figures = []
    for baseline in _baselines(examples, candidate.encoder, [row.text for row in rows], decided.vectors):
        best = place[baseline.best]
        right = (best == truth)[inside]
        lead = ours - right
        table = classification_metrics.confusion(truth[inside], best[inside], len(candidate.routes))
        figures.append(
            BaselineFigures(
                name=baseline.name,
                accuracy=share(right),
                macro_f1=Figure.of(
                    classification_metrics.macro_f1(table),
                    bootstrap_macro_f1(truth[inside], best[inside], len(candidate.routes)),
                ),
                auroc=Figure.of(
                    classification_metrics.auroc(baseline.score[inside], baseline.score[~inside]),
                    bootstrap(auroc_of(baseline.score, inside), len(truth)),
                ),
                lead=Figure.of(
                    float(lead.mean()) if len(lead) else math.nan, bootstrap(mean_of(lead), len(lead))
                ),
            )
        )
    return figures


def _baselines(
    examples: Mapping[str, Sequence[str]], encoder: Encoder, texts: Sequence[str], vectors: Matrix
) -> list[Baseline]:
    """Each baseline's guesses. ``vectors`` are those of ``texts``; ``examples`` has at least one route."""
    sizes = [len(examples[route]) for route in examples]
    labels = np.repeat(np.arange(len(sizes), dtype=np.intp), sizes)
    known = [text for route in examples for text in examples[route]]
    return [
        _chance(len(sizes), len(texts)),
        _length(known, labels, len(sizes), texts),
        # The rows of a deep encoder begin with the embedding.
        _centroid(encoder.encode(known)[:, : vectors.shape[1]], labels, len(sizes), vectors),
    ]


def _chance(routes: int, texts: int) -> Baseline:
    random = np.random.default_rng(0)
    return Baseline("random", random.integers(routes, size=texts), random.random(texts))


def _length(known: Sequence[str], labels: Labels, routes: int, texts: Sequence[str]) -> Baseline:
    """The route whose examples' mean log length is nearest."""
    means = np.bincount(labels, weights=_log_length(known), minlength=routes) / np.bincount(labels)
    away = np.abs(_log_length(texts)[:, None] - means)
    return Baseline("prompt length", away.argmin(axis=1), -away.min(axis=1))


def _centroid(known: Matrix, labels: Labels, routes: int, vectors: Matrix) -> Baseline:
    cosines = fit_centroids(known, labels, routes).logits(vectors)
    return Baseline("nearest centroid", cosines.argmax(axis=1), cosines.max(axis=1).astype(np.float64))


def _log_length(texts: Sequence[str]) -> Floats:
    return np.log([len(text) + 1.0 for text in texts])
