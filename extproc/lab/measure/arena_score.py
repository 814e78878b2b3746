"""Compute the score of RouterArena from rows of prompts with each model's score and cost.

S = (1 + b) A C / (b A + C) with b = 0.1. A is the mean score of the chosen models. C falls with the logarithm
of the dollars for 1,000 requests, from 1 at $0.0044 to 0 at $200. Source: Lu et al. (2025), "RouterArena: An
Open Platform for Comprehensive Comparison of LLM Routers", arXiv:2510.00202.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from extproc.lab.datasets import ArenaRow
from extproc.lab.measure.classification_metrics import Floats, Labels
from extproc.lab.measure.intervals import Figure, bootstrap

BETA = 0.1  # the weight of cost against accuracy
CHEAPEST, DEAREST = 0.0044, 200.0  # US dollars for 1,000 requests


class ArenaFigures(msgspec.Struct, frozen=True):
    """A router, a single model or the oracle."""

    name: str
    score: Figure  # S, 0 to 1
    accuracy: float
    dollars: float  # for 1,000 requests


class ArenaReport(msgspec.Struct, frozen=True):
    """The registry's choice beside each single model and the oracle."""

    registry: str
    version: str
    data: str
    data_version: str
    rows: int
    figures: list[ArenaFigures]
    chosen: dict[str, float]  # the share of requests by model


def arena_score(accuracy: Floats | float, dollars: Floats | float) -> Floats:
    """S of mean accuracy and mean US dollars for 1,000 requests; 0 where both parts are 0."""
    accurate = np.asarray(accuracy, np.float64)
    cheap = cost_score(dollars)
    below = BETA * accurate + cheap
    found: Floats = np.divide(
        (1 + BETA) * accurate * cheap,
        below,
        out=np.zeros(np.broadcast(accurate, cheap).shape),
        where=below > 0,
    )
    return found


def cost_score(dollars: Floats | float) -> Floats:
    """C: 1 at `CHEAPEST` or less, 0 at `DEAREST` or more, linear in the logarithm between."""
    bounded = np.clip(np.asarray(dollars, np.float64), CHEAPEST, DEAREST)
    found: Floats = (math.log2(DEAREST) - np.log2(bounded)) / (math.log2(DEAREST) - math.log2(CHEAPEST))
    return found


def measure_arena(
    rows: Sequence[ArenaRow], models: Sequence[str], paths: Sequence[Sequence[str]]
) -> tuple[list[ArenaFigures], dict[str, float]]:
    """Figures of the router, the oracle and each model, and the shares of the models that answer.

    ``paths`` are the models called for each row, in order: the last one answers, and all are charged. A row
    without calls scores 0.
    """
    scores = np.array([[row.scores[model] for model in models] for row in rows], np.float64)
    costs = np.array([[row.costs[model] for model in models] for row in rows], np.float64)
    reached = np.array([bool(path) for path in paths])  # a denied prompt has no answer, and scores 0
    answered = np.array([models.index(path[-1]) if path else 0 for path in paths], np.intp)
    charged = np.array(
        [sum(row.costs[model] for model in path) for row, path in zip(rows, paths, strict=True)]
    )
    every = np.arange(len(rows))
    best = _oracle(scores, costs)
    figures = [
        _figures("router", np.where(reached, scores[every, answered], 0.0), charged),
        _figures("oracle", scores[every, best], costs[every, best]),
        *(_figures(model, scores[:, m], costs[:, m]) for m, model in enumerate(models)),
    ]
    share = np.bincount(answered[reached], minlength=len(models)) / len(rows)
    return figures, {model: float(each) for model, each in zip(models, share, strict=True) if each > 0}


def _oracle(scores: Floats, costs: Floats) -> Labels:
    """The cheapest of each row's best models."""
    best = scores == scores.max(axis=1, keepdims=True)
    found: Labels = np.where(best, costs, np.inf).argmin(axis=1)
    return found


def _figures(name: str, scores: Floats, costs: Floats) -> ArenaFigures:
    accuracy, dollars = float(scores.mean()), float(costs.mean()) * 1000

    def statistic(weights: Floats) -> Floats:
        return arena_score(weights @ scores / len(scores), weights @ costs / len(costs) * 1000)

    score = Figure.of(float(arena_score(accuracy, dollars)), bootstrap(statistic, len(scores)))
    return ArenaFigures(name, score, accuracy, dollars)
