"""How good are routes trained on data? Accuracy, scope, calibration and selective risk.

    python benchmarks/quality.py --clinc150 CLINC150.jsonl.gz --banking77 BANKING77.jsonl.gz
    python benchmarks/quality.py --clinc150 CLINC150.jsonl.gz --snips7 SNIPS7.jsonl.gz --changes

Files have one JSON object a line with `split`, `text`, `intent` and, for CLINC150, `domain`; `oos` is out
of scope. Everything that `extproc train` does happens here with the same code, on the rows whose
split is not a test one; every figure is of the test splits, which fitted and chose nothing.
Intervals are 95 % bootstrap intervals over test rows.

With `--changes` the test rows in scope are misspelt, re-cased, re-punctuated and wrapped in courtesies of
`benchmarks/material`, of which training has none. The table compares the head with one that was fitted
without copies of its examples.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, open_encoder
from extproc.lab.measure import classification_metrics
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels
from extproc.lab.measure.intervals import Interval, Statistic, auroc_of, bootstrap, mean_of, one_by_one
from extproc.lab.train import held_out_scores, route_training
from extproc.lab.train.example_copies import copies_of
from extproc.registry import schema
from extproc.routing.calibration import Calibration
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.scorers import Matrix
from extproc.routing.text_changes import TextChange, changed
from extproc.routing.turn_reading import StaticEncoder
from extproc.vocabulary import Embedding, Encoder

TARGET = 0.02
FEW = 10
COURTESIES = Path(__file__).parent / "material" / "courtesies.txt"
CHANGE_SEED = 1
COLUMNS = (
    "set",
    "scorer",
    "accuracy",
    "out-of-scope AUROC",
    "debiased ECE",
    "kept",
    "wrong of kept",
    "scoring us",
)
CHANGE_COLUMNS = ("set", "text", "without copies", "with copies", "gain")


class Split(msgspec.Struct, frozen=True):
    """Rows to learn from and rows to measure on."""

    name: str
    train: route_training.Corpus
    test: route_training.Corpus
    draw: int = 0


class Changed(msgspec.Struct, frozen=True):
    """Test rows in scope whose texts are changed."""

    change: str
    rows: route_training.Corpus


class Measured(msgspec.Struct, frozen=True):
    """What one scorer said of the test rows."""

    probabilities: Matrix
    scope: Floats  # higher: more in scope
    labels: Labels
    kept: NDArray[np.bool_]
    microseconds: float  # one decision's scoring; NaN for a baseline

    @property
    def right(self) -> NDArray[np.bool_]:
        """Is the most probable route the true one?"""
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.labels
        return right


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clinc150", type=Path)
    parser.add_argument("--banking77", type=Path)
    parser.add_argument("--snips7", type=Path)
    parser.add_argument("--changes", action="store_true", help="measure changed texts instead")
    parser.add_argument("--draws", type=int, default=3, help="of examples, where routes have few")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    parser.add_argument("--scorer", default="auto", help="measure this one instead of the one chosen")
    parser.add_argument("--cache", type=Path, default=Path(".cache/quality.npz"))
    options = parser.parse_args()
    encoder = CachedEncoder(
        DeepEncoder(open_encoder(locate(), schema.EncoderSettings(device="cpu"))),
        options.cache,
        max_entries=100_000,
    )
    if options.changes:
        print("| " + " | ".join(CHANGE_COLUMNS) + " |\n" + "|---" * len(CHANGE_COLUMNS) + "|")
        for splits in sets(options, encoder):
            for cells in change_rows(splits, options.scorer, encoder):
                print(f"| {splits[0].name} | {' | '.join(cells)} |", flush=True)
        return
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for splits in sets(options, encoder):
        for scorer, measured in runs(splits, options.scorer):
            print(f"| {splits[0].name} | {scorer} | {row(measured)} |", flush=True)


def sets(options: argparse.Namespace, encoder: Encoder) -> Iterator[list[Split]]:
    """Each set of the table, with its draws."""
    if options.clinc150 is not None:
        found = read(options.clinc150)
        for key, name in (("intent", "CLINC150, 150 intents"), ("domain", "CLINC150, 10 domains")):
            if options.only in name:
                yield [split(name, found, key, encoder)]
        yield from few_of("CLINC150", found, options, encoder)
    for name, path in (("BANKING77", options.banking77), ("SNIPS", options.snips7)):
        if path is not None:
            found = read(path)
            if options.only in name:
                yield [split(name, found, "intent", encoder)]
            yield from few_of(name, found, options, encoder)


def few_of(
    name: str, rows: Sequence[dict[str, str]], options: argparse.Namespace, encoder: Encoder
) -> Iterator[list[Split]]:
    """Draws of ``FEW`` examples of each intent."""
    name = f"{name}, {FEW} examples an intent"
    if options.only in name:
        full = split(name, rows, "intent", encoder)
        yield [few(full, draw, encoder) for draw in range(options.draws)]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a gzipped file of JSON lines."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def split(
    name: str,
    rows: Sequence[dict[str, str]],
    key: str,
    encoder: Encoder,
    static: StaticEncoder | None = None,
) -> Split:
    """All rows of the file, by whether their split is a test one; a fast path needs ``static``."""
    routes = sorted({row[key] for row in rows} - {"oos"})
    place = {route: number for number, route in enumerate(routes)} | {"oos": ABSTAIN}

    def part(chosen: list[dict[str, str]]) -> route_training.Corpus:
        texts = [row["text"] for row in chosen]
        labels = np.array([place[row[key]] for row in chosen], np.intp)
        return route_training.corpus(texts, labels, routes, encoder.encode(texts), DIMENSIONS, static)

    print(f"{name}: encoding (cached for the next run)", file=sys.stderr)
    is_test = [row["split"].endswith("test") for row in rows]
    return Split(
        name,
        copied(part([row for row, test in zip(rows, is_test, strict=True) if not test]), encoder),
        part([row for row, test in zip(rows, is_test, strict=True) if test]),
    )


def copied(rows: route_training.Corpus, encoder: Encoder) -> route_training.Corpus:
    """The rows with copies of their examples, as `extproc train` makes them."""
    copies = copies_of(rows.texts, rows.labels, encoder, DIMENSIONS, seed=0)
    return msgspec.structs.replace(rows, copies=copies)


def few(full: Split, draw: int, encoder: Encoder) -> Split:
    """``FEW`` examples of each route; rows out of scope stay away, as from most operators."""
    random = np.random.default_rng(draw)
    labels = full.train.labels
    chosen = [random.permutation(np.flatnonzero(labels == route))[:FEW] for route in range(labels.max() + 1)]
    return Split(full.name, copied(full.train.take(np.concatenate(chosen)), encoder), full.test, draw)


def runs(splits: Sequence[Split], scorer: str) -> Iterator[tuple[str, list[Measured]]]:
    """Baselines first, then what training chose."""
    yield "random", [guessed(each, lambda texts: np.zeros(len(texts))) for each in splits]
    yield "text length", [guessed(each, lambda texts: np.array([len(t) for t in texts])) for each in splits]
    yield "nearest centroid", [trained(each, "centroid")[1] for each in splits]
    found = [trained(each, scorer) for each in splits]
    yield "/".join(sorted({name for name, _ in found})), [measured for _, measured in found]


def fitted(split: Split, scorer: str) -> route_training.TrainedRoutes:
    """Train as `extproc train` does."""
    return route_training.train(
        split.train, target_wrong=TARGET, seed=split.draw, scorer=scorer, progress=lambda line: print(
            f"  {line}", file=sys.stderr, flush=True
        ),
    )  # fmt: skip


def trained(split: Split, scorer: str) -> tuple[str, Measured]:
    """Train as `extproc train` does, and score the test rows."""
    outcome = fitted(split, scorer)
    for name, (accuracy, loss) in outcome.tried.items():
        print(f"  held out: {name} accuracy {accuracy:.4f} log loss {loss:.4f}", file=sys.stderr)
    held = route_training.measure(outcome.meaning, split.test)
    probabilities = outcome.meaning.calibration.probabilities(held.logits)
    decided = held_out_scores.decisions(outcome.meaning, held, outcome.selected.floors)
    return outcome.scorer, Measured(
        probabilities=probabilities,
        scope=held_out_scores.in_scope(outcome.meaning, held),
        labels=held.labels,
        kept=decided != ABSTAIN,
        microseconds=microseconds(outcome.meaning, split.test),
    )


def change_rows(splits: Sequence[Split], scorer: str, encoder: Encoder) -> Iterator[list[str]]:
    """A table row for each change: the accuracy without and with copies in training, over all draws."""
    heads = []
    for each in splits:
        bare = msgspec.structs.replace(each, train=msgspec.structs.replace(each.train, copies=None))
        heads.append((fitted(bare, scorer).meaning, fitted(each, scorer).meaning))
    for case in changed_rows(splits[0].test, encoder):
        before, after = (
            np.mean([right(meaning, case.rows) for meaning in meanings], axis=0)
            for meanings in zip(*heads, strict=True)
        )
        gain = after - before
        yield [
            case.change,
            f"{before.mean():.3f}",
            with_interval(after.mean(), bootstrap(mean_of(after), len(after))),
            with_interval(gain.mean(), bootstrap(mean_of(gain), len(gain))),
        ]


def changed_rows(rows: route_training.Corpus, encoder: Encoder) -> Iterator[Changed]:
    """The rows in scope as written, and with each kind of change."""
    inside = rows.take(np.flatnonzero(rows.labels != ABSTAIN))
    courtesies = COURTESIES.read_text().splitlines()
    yield Changed("as written", inside)
    for change in TextChange:
        texts = [changed(text, change, CHANGE_SEED, courtesies) for text in inside.texts]
        deep = encoder.encode(texts)
        yield Changed(change, route_training.corpus(texts, inside.labels, inside.routes, deep, DIMENSIONS))


def right(meaning: Meaning, rows: route_training.Corpus) -> Floats:
    """1 for each row whose most probable route is right."""
    hits: Floats = (meaning.head.logits(rows.inputs).argmax(axis=1) == rows.labels).astype(np.float64)
    return hits


def microseconds(meaning: Meaning, rows: route_training.Corpus) -> float:
    """The median time of one decision's scoring, lexical features included."""
    seconds = []
    for i in range(min(300, len(rows.texts))):
        inner = None if rows.inputs.inner is None else rows.inputs.inner[i]
        embedding = Embedding(rows.inputs.vectors[i], 0, 0.0, 0.0, inner)
        began = time.perf_counter()
        meaning.score(embedding, rows.texts[i])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) * 1e6


def guessed(split: Split, signal: Callable[[Sequence[str]], NDArray[np.floating]]) -> Measured:
    """The route whose mean of the signal is nearest, ties broken by chance; it never abstains."""
    routes = len(split.train.routes)
    inside = split.train.labels != ABSTAIN
    values = signal([text for text, chosen in zip(split.train.texts, inside, strict=True) if chosen])
    labels = split.train.labels[inside]
    means = np.array([values[labels == route].mean() for route in range(routes)])
    distance = -np.abs(signal(split.test.texts)[:, None] - means)
    noise = np.random.default_rng(1).normal(scale=1e-6, size=distance.shape)
    probabilities = Calibration().probabilities((distance + noise).astype(np.float32))
    scope = probabilities.max(axis=1).astype(np.float64)
    return Measured(probabilities, scope, split.test.labels, np.ones(len(scope), bool), float("nan"))


def row(measured: Sequence[Measured]) -> str:
    """One table row over all draws, which are of the same test rows."""
    labels = measured[0].labels
    inside = labels != ABSTAIN
    confidence = np.mean([m.probabilities.max(axis=1)[inside] for m in measured], axis=0)
    right = np.mean([m.right[inside] for m in measured], axis=0)
    kept = np.concatenate([m.kept for m in measured])
    wrong = np.concatenate([~m.right for m in measured])[kept]
    cells = [
        with_interval(right.mean(), bootstrap(mean_of(right), len(right))),
        scope_cell(measured, inside),
        calibration_cell(measured, inside) if len(confidence) else "-",
        f"{kept.mean():.3f}",
        f"{wrong.mean():.3f}" if len(wrong) else "-",
        f"{np.mean([m.microseconds for m in measured]):.0f}",
    ]
    return " | ".join("-" if cell == "nan" else cell for cell in cells)


def scope_cell(measured: Sequence[Measured], inside: NDArray[np.bool_]) -> str:
    """The AUROC of rows in scope against those out of it, the mean over draws."""
    if inside.all():
        return "-"
    values = [classification_metrics.auroc(m.scope[inside], m.scope[~inside]) for m in measured]
    parts = [auroc_of(m.scope, inside) for m in measured]
    return with_interval(float(np.mean(values)), bootstrap(_mean_statistic(parts), len(inside)))


def calibration_cell(measured: Sequence[Measured], inside: NDArray[np.bool_]) -> str:
    """The debiased calibration error, the mean over draws."""
    pairs = [(m.probabilities.max(axis=1)[inside].astype(np.float64), m.right[inside]) for m in measured]
    value = float(np.mean([classification_metrics.debiased_ece(claimed, right) for claimed, right in pairs]))
    parts = [one_by_one(_calibration_of(claimed, right)) for claimed, right in pairs]
    return with_interval(value, bootstrap(_mean_statistic(parts), len(pairs[0][1]), resamples=500))


def _calibration_of(claimed: Floats, right: NDArray[np.bool_]) -> Callable[[NDArray[np.intp]], float]:
    return lambda rows: classification_metrics.debiased_ece(claimed[rows], right[rows])


def _mean_statistic(parts: Sequence[Statistic]) -> Statistic:
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)


def with_interval(value: float, interval: Interval) -> str:
    """``.953 [.944, .961]``."""
    return f"{value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
