"""How good are routes of a few examples each, out of the box and trained?

    python benchmarks/fewshot.py --clinc150 CLINC150.jsonl.gz --banking77 BANKING77.jsonl.gz
    python benchmarks/fewshot.py --snips7 SNIPS.jsonl.gz --draws 8
    python benchmarks/fewshot.py --clinc150 CLINC150.jsonl.gz --scorers

Files have one JSON object a line with `split`, `text`, `intent` and, for CLINC150, `domain`; `oos` is out of
scope. Examples are drawn from the splits that are no test ones. Every figure is of test rows, which fitted
and chose nothing: two thirds in scope and one third strangers. Strangers are CLINC150's out-of-scope rows; of
the other sets, a third of the routes, drawn anew each time, is taken away from the registry.

A row is decided as labelled if it gets its route, or as a stranger the default. The default is what a
registry decides without an artefact; *train* is what `extproc train` writes for the same examples, which may
be the default. Intervals are 95 % bootstrap intervals of the paired difference.

With `--scorers`, the table compares the scorers that need no training on CLINC150's ten domains. With
`--doubts`, it says what an LLM that is asked in doubt could add, with no LLM: the rows in doubt, and what is
as labelled if the default, the most probable route, or an LLM that is always right answers them.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import copied, read
from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, open_encoder
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels, Truths
from extproc.lab.train import held_out_scores, route_training
from extproc.lab.train.default_comparison import passes_default_floors
from extproc.registry import schema
from extproc.routing.embedding_scorer import fit_vectors
from extproc.routing.scorers import Fit, fit_centroids, fit_logistic, fit_prototypes
from extproc.vocabulary import Encoder

COLUMNS = (
    "set",
    "examples a route",
    "default, as labelled",
    "train, as labelled",
    "ahead by",
    "draws surely worse",
    "good rows kept",
    "strangers kept",
    "written",
)
SCORER_COLUMNS = (
    "examples a route",
    "scorer",
    "accuracy",
    "mean confidence",
    "ECE",
    "as labelled",
    "good rows kept",
    "strangers kept",
)
DOUBT_COLUMNS = (
    "set",
    "examples a route",
    "rows in doubt",
    "of them strangers",
    "default, as labelled",
    "nearest route in doubt",
    "an LLM that is always right",
    "could add at most",
)
SCORERS: dict[str, Fit] = {
    "centroid": fit_centroids,
    "prototypes (4)": fit_prototypes(4),
    "logistic": fit_logistic,
}


class Draw(msgspec.Struct, frozen=True):
    """The examples of a registry, and test rows of which a third are strangers."""

    examples: route_training.Corpus
    test: route_training.Corpus


class Outcome(msgspec.Struct, frozen=True):
    """What was decided of the test rows of one draw."""

    labels: Labels
    best: Labels  # the most probable route
    confidence: Floats
    kept: Truths
    written: str = ""  # what `extproc train` wrote

    @property
    def as_labelled(self) -> Truths:
        """The rows that got their route, or as strangers the default."""
        return np.where(self.labels == ABSTAIN, ~self.kept, self.kept & self.right)

    @property
    def right(self) -> Truths:
        """The rows whose most probable route is the true one."""
        right: Truths = self.best == self.labels
        return right

    @property
    def good_kept(self) -> float:
        """Of the rows whose most probable route is the true one, the share that is kept."""
        return float(self.kept[self.right].mean())

    @property
    def strangers_kept(self) -> float:
        """The share of strangers that get a route."""
        return float(self.kept[self.labels == ABSTAIN].mean())


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clinc150", type=Path)
    parser.add_argument("--banking77", type=Path)
    parser.add_argument("--snips7", type=Path)
    parser.add_argument("--examples", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--test-rows", type=int, default=1500, help="a third are strangers")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    parser.add_argument("--scorers", action="store_true", help="compare scorers that need no training")
    parser.add_argument("--doubts", action="store_true", help="what an LLM in doubt could add at most")
    parser.add_argument("--cache", type=Path, default=Path(".cache/fewshot.npz"))
    options = parser.parse_args()
    encoder = CachedEncoder(
        DeepEncoder(open_encoder(locate(), schema.EncoderSettings(device="cpu"))), options.cache, 100_000
    )
    columns = SCORER_COLUMNS if options.scorers else DOUBT_COLUMNS if options.doubts else COLUMNS
    print_row(columns)
    print("|---" * len(columns) + "|")
    for name, rows, key in sets(options):
        for per_route in options.examples:
            draws = [
                draw(rows, key, per_route, seed, options.test_rows, encoder) for seed in range(options.draws)
            ]
            if options.scorers:
                for scorer, fit in SCORERS.items():
                    outcomes = [untrained(each, fit) for each in draws]
                    print_row([str(per_route), scorer, *scorer_cells(outcomes)])
            else:
                cells = doubt_cells(draws) if options.doubts else training_cells(draws)
                print_row([name, str(per_route), *cells])


def print_row(cells: Sequence[str]) -> None:
    """Print one row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def sets(options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, str]], str]]:
    """The name, the rows and the key of the routes of each set."""
    for name, path, key in (
        ("CLINC150, 10 domains", options.clinc150, "domain"),
        ("SNIPS", options.snips7, "intent"),
        ("BANKING77", options.banking77, "intent"),
        ("CLINC150, 150 intents", options.clinc150, "intent"),
    ):
        if path is not None and options.only in name and not (options.scorers and key == "intent"):
            yield name, read(path), key


def draw(
    rows: Sequence[dict[str, str]], key: str, per_route: int, seed: int, test_rows: int, encoder: Encoder
) -> Draw:
    """``per_route`` examples of each route, and test rows."""
    random = np.random.default_rng(seed)
    routes = sorted({row[key] for row in rows} - {"oos"})
    if not any(row[key] == "oos" for row in rows):
        away = random.permutation(len(routes))[: round(len(routes) / 3)].tolist()
        routes = [route for place, route in enumerate(routes) if place not in away]
    labels = np.array([routes.index(row[key]) if row[key] in routes else ABSTAIN for row in rows])
    is_test = np.array([row["split"].endswith("test") for row in rows])

    def some(among: Truths, count: int) -> NDArray[np.intp]:
        return random.permutation(np.flatnonzero(among))[:count]

    def corpus(chosen: NDArray[np.intp]) -> route_training.Corpus:
        texts = [rows[place]["text"] for place in chosen.tolist()]
        return route_training.corpus(texts, labels[chosen], routes, encoder.encode(texts), DIMENSIONS)

    drawn = [some((labels == route) & ~is_test, per_route) for route in range(len(routes))]
    examples = copied(corpus(np.concatenate(drawn)), encoder)
    strangers = some((labels == ABSTAIN) & is_test, test_rows // 3)
    inside = some((labels != ABSTAIN) & is_test, 2 * len(strangers))
    everything = np.arange(len(examples.labels))
    return Draw(
        msgspec.structs.replace(examples, examples=everything), corpus(np.concatenate([inside, strangers]))
    )


def untrained(each: Draw, fit: Fit) -> Outcome:
    """What a registry decides without an artefact."""
    examples, test = each.examples, each.test
    meaning = fit_vectors(examples.routes, examples.texts, examples.inputs.vectors, examples.labels, fit)
    logits = meaning.head.logits(test.inputs)
    probabilities = meaning.calibration.probabilities(logits)
    return Outcome(
        labels=test.labels,
        best=logits.argmax(axis=1),
        confidence=probabilities.max(axis=1).astype(np.float64),
        kept=passes_default_floors(meaning, test.inputs.vectors, logits),
    )


def trained(each: Draw, default: Outcome) -> Outcome:
    """What is decided with what `extproc train` writes."""
    outcome = route_training.train(
        each.examples, seed=0, scorer="auto", progress=lambda _: None, default=fit_logistic
    )
    if outcome.comparison is not None and not outcome.comparison.better:
        return msgspec.structs.replace(default, written="default")
    held = route_training.measure(outcome.meaning, each.test)
    decided = held_out_scores.decisions(outcome.meaning, held, outcome.selected.floors)
    probabilities = outcome.meaning.calibration.probabilities(held.logits)
    return Outcome(
        labels=held.labels,
        best=probabilities.argmax(axis=1),
        confidence=probabilities.max(axis=1).astype(np.float64),
        kept=decided != ABSTAIN,
        written=outcome.scorer,
    )


def training_cells(draws: Sequence[Draw]) -> list[str]:
    """The default beside training, over all draws."""
    pairs = []
    for each in draws:
        default = untrained(each, fit_logistic)
        pairs.append((default, trained(each, default)))
        print(f"  {pairs[-1][1].written}", file=sys.stderr, flush=True)
    leads = [new.as_labelled.astype(np.float64) - old.as_labelled.astype(np.float64) for old, new in pairs]
    low, high = interval(leads)
    worse = sum(interval([lead])[1] < 0 for lead in leads)

    def mean(figure: Callable[[Outcome], float]) -> str:
        old, new = (np.mean([figure(pair[side]) for pair in pairs]) for side in (0, 1))
        return f"{old:.3f} -> {new:.3f}"

    return [
        *mean(lambda each: float(each.as_labelled.mean())).split(" -> "),
        f"{np.mean([lead.mean() for lead in leads]):+.3f} [{low:+.3f}, {high:+.3f}]",
        f"{worse} of {len(leads)}",
        mean(lambda each: each.good_kept),
        mean(lambda each: each.strangers_kept),
        ", ".join(new.written for _, new in pairs),
    ]


def doubt_cells(draws: Sequence[Draw]) -> list[str]:
    """What the default leaves in doubt, and who could answer that, over all draws."""
    outcomes = [untrained(each, fit_logistic) for each in draws]
    most = [(~each.kept & ~each.as_labelled).astype(np.float64) for each in outcomes]
    low, high = interval(most)
    strangers = np.concatenate([(each.labels == ABSTAIN)[~each.kept] for each in outcomes])
    shares = (
        np.concatenate([~each.kept for each in outcomes]),
        strangers,
        np.concatenate([each.as_labelled for each in outcomes]),
        np.concatenate([np.where(each.kept, each.as_labelled, each.right) for each in outcomes]),
        np.concatenate([each.as_labelled | ~each.kept for each in outcomes]),
    )
    gain = np.mean([each.mean() for each in most])
    return [*(f"{share.mean():.3f}" for share in shares), f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"]


def scorer_cells(outcomes: Sequence[Outcome]) -> list[str]:
    """One scorer over all draws; accuracy and calibration are of rows in scope, whether kept or not."""
    inside = np.concatenate([each.labels != ABSTAIN for each in outcomes])
    right = np.concatenate([each.right for each in outcomes])[inside]
    confidence = np.concatenate([each.confidence for each in outcomes])[inside]
    low, high = interval([each.right[each.labels != ABSTAIN].astype(np.float64) for each in outcomes])
    return [
        f"{right.mean():.3f} [{low:.3f}, {high:.3f}]",
        f"{confidence.mean():.3f}",
        f"{calibration_error(confidence, right):.3f}",
        f"{np.mean([each.as_labelled.mean() for each in outcomes]):.3f}",
        f"{np.mean([each.good_kept for each in outcomes]):.3f}",
        f"{np.mean([each.strangers_kept for each in outcomes]):.3f}",
    ]


def interval(draws: Sequence[Floats]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, resampling draws, and rows within each."""
    random = np.random.default_rng(2)
    means = [
        np.mean([random.choice(draws[place], len(draws[place])).mean() for place in chosen])
        for chosen in random.integers(len(draws), size=(1000, len(draws)))
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(confidence: Floats, right: Truths) -> float:
    """Expected calibration error over fifteen bins of equal mass (Naeini et al., 2015)."""
    order = np.argsort(confidence)
    gaps = [
        len(part) * abs(confidence[part].mean() - right[part].mean()) for part in np.array_split(order, 15)
    ]
    return float(sum(gaps) / len(order))


if __name__ == "__main__":
    main()
