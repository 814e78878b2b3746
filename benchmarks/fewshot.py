"""How good and how honest are routes of a few examples each? Accuracy, calibration, abstention.

    python benchmarks/fewshot.py CLINC150.jsonl.gz

The file has one JSON object a line with `split`, `text` and `domain`; `oos` is the domain of
out-of-scope rows. Routes are the ten domains: broad ones, as operators draw them. Examples are
drawn from `train`; every figure is of `test` and `oos_test`, which fitted nothing. The floors are
the registry's defaults. Intervals are 95 % bootstrap intervals over the test rows of all draws.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_session import open_encoder
from extproc.registry import schema
from extproc.routing.calibration import cross_fitted, fit_temperature
from extproc.routing.scorers import Fit, Labels, Matrix, fit_centroids, fit_logistic, fit_prototypes, softmax

DRAWS = 5
COLUMNS = (
    "examples a route",
    "scorer",
    "accuracy",
    "mean confidence",
    "ECE",
    "kept",
    "right of kept",
    "out of scope kept",
)
SCORERS: dict[str, Fit] = {
    "centroid": fit_centroids,
    "prototypes (4)": fit_prototypes(4),
    "logistic": fit_logistic,
}


class Rows(msgspec.Struct, frozen=True):
    """Some texts with their vectors and labels; -1 is out of scope."""

    texts: tuple[str, ...]
    vectors: Matrix
    labels: Labels

    def take(self, chosen: NDArray[np.intp]) -> "Rows":
        """The chosen rows."""
        return Rows(tuple(self.texts[i] for i in chosen), self.vectors[chosen], self.labels[chosen])


class Outcome(msgspec.Struct, frozen=True):
    """What one scorer said of the test rows of one draw."""

    right: NDArray[np.bool_]  # in-scope rows
    confidence: NDArray[np.float64]
    kept: NDArray[np.bool_]  # above both floors
    stray_kept: NDArray[np.bool_]  # out-of-scope rows above both floors


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--examples", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--test-rows", type=int, default=2000)
    options = parser.parse_args()
    routes, train, test = read(options.data, options.test_rows)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for per_route in options.examples:
        for name, outcomes in runs(train, test, per_route, len(routes)):
            print(f"| {per_route} | {name} | {row(outcomes)} |", flush=True)


def read(path: Path, test_rows: int) -> tuple[list[str], Rows, Rows]:
    """The routes, the rows to draw examples from, and the rows to measure on."""
    with gzip.open(path, "rt") as lines:
        found = [json.loads(line) for line in lines]
    routes = sorted({row["domain"] for row in found} - {"oos"})
    encoder = CachedEncoder(
        open_encoder(locate(), schema.EncoderSettings()), Path(".cache/fewshot.npz"), max_entries=50_000
    )

    def rows(*splits: str, at_most: int | None = None) -> Rows:
        chosen = [row for row in found if row["split"] in splits]
        order = np.random.default_rng(0).permutation(len(chosen))[:at_most]
        texts = tuple(chosen[i]["text"] for i in order)
        labels = [-1 if chosen[i]["domain"] == "oos" else routes.index(chosen[i]["domain"]) for i in order]
        return Rows(texts, encoder.encode(texts), np.array(labels))

    print("encoding (cached for the next run)", file=sys.stderr)
    return routes, rows("train"), rows("test", "oos_test", at_most=test_rows)


def runs(train: Rows, test: Rows, per_route: int, routes: int) -> Iterator[tuple[str, list[Outcome]]]:
    """Each scorer's and each baseline's outcomes over all draws of examples."""
    draws = [draw(train, per_route, routes, seed) for seed in range(DRAWS)]
    yield "random", [baseline(test, lambda rows: np.zeros((len(rows.texts), routes))) for _ in draws]
    yield "text length", [baseline(test, by_length(examples, routes)) for examples in draws]
    for name, fit in SCORERS.items():
        yield name, [scored(fit, examples, test, routes) for examples in draws]


def draw(train: Rows, per_route: int, routes: int, seed: int) -> Rows:
    """``per_route`` examples of each route."""
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(train.labels == route))[:per_route] for route in range(routes)
    ]
    return train.take(np.concatenate(chosen))


def scored(fit: Fit, examples: Rows, test: Rows, routes: int) -> Outcome:
    """Fit on the examples as `extproc serve` does, and score the test rows."""
    held_out = cross_fitted(fit, examples.vectors, examples.labels, routes)
    temperature = fit_temperature(held_out, examples.labels)
    logits = fit(examples.vectors, examples.labels, routes).logits(test.vectors)
    probabilities = softmax(logits / np.float32(temperature)).astype(np.float64)
    similarity = (test.vectors @ examples.vectors.T).max(axis=1)
    return outcome(probabilities, test.labels, similarity)


def baseline(test: Rows, score: Callable[[Rows], NDArray[np.float64]]) -> Outcome:
    """A scorer that never embeds, and so never abstains."""
    noise = np.random.default_rng(1).normal(scale=1e-9, size=(len(test.texts), 1 + test.labels.max()))
    probabilities = softmax((score(test) + noise).astype(np.float32)).astype(np.float64)
    return outcome(probabilities, test.labels, np.ones(len(test.texts)), margin_floor=0.0)


def by_length(examples: Rows, routes: int) -> Callable[[Rows], NDArray[np.float64]]:
    """The route whose mean text length is nearest."""
    lengths = np.array([len(text) for text in examples.texts])
    means = np.array([lengths[examples.labels == route].mean() for route in range(routes)])
    return lambda rows: -np.abs(np.array([[len(text)] for text in rows.texts]) - means)


def outcome(
    probabilities: NDArray[np.float64],
    labels: Labels,
    similarity: NDArray[np.floating],
    margin_floor: float | None = None,
) -> Outcome:
    """What was right, how sure it was, and what both floors let through."""
    ranked = np.sort(probabilities, axis=1)
    margin = ranked[:, -1] - ranked[:, -2]
    kept = (margin >= (schema.DEFAULT_MARGIN if margin_floor is None else margin_floor)) & (
        similarity >= schema.DEFAULT_SIMILARITY
    )
    inside = labels >= 0
    return Outcome(
        right=(probabilities.argmax(axis=1) == labels)[inside],
        confidence=ranked[inside, -1],
        kept=kept[inside],
        stray_kept=kept[~inside],
    )


def row(outcomes: Sequence[Outcome]) -> str:
    """One table row over all draws."""
    right = np.concatenate([o.right for o in outcomes])
    confidence = np.concatenate([o.confidence for o in outcomes])
    kept = np.concatenate([o.kept for o in outcomes])
    stray = np.concatenate([o.stray_kept for o in outcomes])
    low, high = interval(np.stack([o.right for o in outcomes]))
    return " | ".join(
        [
            f"{right.mean():.3f} [{low:.3f}, {high:.3f}]",
            f"{confidence.mean():.3f}",
            f"{calibration_error(confidence, right):.3f}",
            f"{kept.mean():.3f}",
            f"{right[kept].mean():.3f}",
            f"{stray.mean():.3f}",
        ]
    )


def interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, resampling draws and rows. Shape (draws, rows)."""
    random = np.random.default_rng(2)
    draws, rows = right.shape
    means = [
        right[random.integers(draws, size=draws)][:, random.integers(rows, size=rows)].mean()
        for _ in range(1000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error over fifteen bins of equal mass (Naeini et al., 2015)."""
    order = np.argsort(confidence)
    gaps = [
        len(part) * abs(confidence[part].mean() - right[part].mean()) for part in np.array_split(order, 15)
    ]
    return float(sum(gaps) / len(order))


if __name__ == "__main__":
    main()
