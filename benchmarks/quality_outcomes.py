"""Does predicted quality choose well between a weak and a strong model? 5-fold, by prompt.

    python benchmarks/quality_outcomes.py --mmlu MMLU.jsonl.gz --gsm8k GSM8K.jsonl.gz --pool MATRIX.jsonl.gz

Files have one JSON object a line with `prompt`, `weak_correct` and `strong_correct`; the pool's have
`prompt` and `correct`, by model. Each row is scored by a model of quality that has seen neither it nor a
near-duplicate, fitted as `extproc train` fits; scales, penalty and calibration are of the other folds
alone. Rows of the pool join the training of the folds that hold their prompt, and no other: its prompts
are GSM8K's. The second table leaves out kinds of prompts: MMLU's subjects by groups and GSM8K's clusters,
and each set is predicted by a fit on the other. Intervals are 95 % bootstrap intervals, those of differences
paired.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, open_encoder
from extproc.lab.datasets import OutcomeRow
from extproc.lab.figures.number_formats import with_interval
from extproc.lab.measure.choice_worth import Choosing, Table, measure
from extproc.lab.measure.classification_metrics import Floats
from extproc.lab.measure.kind_worth import measure_left_out
from extproc.lab.train.quality_fitting import Answers, answers_of, cross_predict, fit_quality
from extproc.registry import schema
from extproc.vocabulary import Encoder

WEAK, STRONG = "weak", "strong"
COLUMNS = (
    "set", "router", "APGR", "ahead of it", "CPT(50 %)", "CPT(80 %)", "calls saved at 95 %",
)  # fmt: skip
PUBLISHED = {"MMLU": 0.603, "GSM8K": 0.622}  # RouteLLM (Ong et al., 2024), its best, trained on other data


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mmlu", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--pool", type=Path, help="more models' outcomes on GSM8K's prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--cache", type=Path, default=Path(".cache/quality-outcomes.npz"))
    options = parser.parse_args()
    encoder = CachedEncoder(
        DeepEncoder(open_encoder(locate(), schema.EncoderSettings(device="cpu"))),
        options.cache,
        max_entries=100_000,
    )
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    if options.mmlu is not None:
        tell("MMLU", pairs(options.mmlu), encoder, options.seed)
    if options.gsm8k is not None:
        rows = pairs(options.gsm8k)
        tell("GSM8K", rows, encoder, options.seed)
        if options.pool is not None:
            tell("GSM8K", pooled(rows, options.pool), encoder, options.seed)
        if options.mmlu is not None:
            tell_left_out({"MMLU": pairs(options.mmlu), "GSM8K": rows}, encoder, options.seed)


def pairs(path: Path) -> list[OutcomeRow]:
    """Each prompt once, with the outcomes of both models."""
    rows = {row["prompt"]: row for row in read(path)}
    return [
        OutcomeRow(
            prompt,
            {WEAK: float(row["weak_correct"]), STRONG: float(row["strong_correct"])},
            set=row.get("subject", ""),
        )
        for prompt, row in rows.items()
    ]


def pooled(rows: list[OutcomeRow], pool: Path) -> list[OutcomeRow]:
    """The same rows with what the pool knows of their prompts."""
    known: dict[str, dict[str, float]] = {
        row["prompt"]: {model: float(right) for model, right in row["correct"].items() if right is not None}
        for row in read(pool)
    }
    return [OutcomeRow(row.text, {**known.get(row.text, {}), **row.outcomes}) for row in rows]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a gzipped file of JSON lines."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def tell(name: str, rows: list[OutcomeRow], encoder: Encoder, seed: int) -> None:
    """Measure one set, and print its rows of the table."""
    pool = sorted({model for row in rows for model in row.outcomes} - {WEAK, STRONG})
    answers = answers_of(rows, (WEAK, STRONG, *pool), encoder.encode([row.text for row in rows]), DIMENSIONS)
    predicted = cross_predict(answers, seed, lambda line: print(f"{name}: {line}", file=sys.stderr))[:, :2]
    calls = np.zeros(predicted.shape)
    calls[:, 1] = 1.0
    table = Table(
        answers.texts,
        (WEAK, STRONG),
        predicted,
        answers.scores[:, :2],
        costs=calls,
        expected=calls,
        matched=np.zeros((2, 2), bool),
    )
    found = measure(table)
    title = f"{name}, {len(rows)} prompts" + (f", trained with {len(pool)} more models" if pool else "")
    for line in lines(title, name, found):
        print("| " + " | ".join(line) + " |", flush=True)
    errors = ", ".join(f"{model.name} {with_interval(model.calibration)}" for model in found.models)
    print(f"{title}: debiased calibration error {errors}", file=sys.stderr)


def tell_left_out(sets: dict[str, list[OutcomeRow]], encoder: Encoder, seed: int) -> None:
    """Measure each set with its kinds of prompts left out, and by a fit on the other set."""
    print("\n| predicted | fitted on | APGR | prompt length | ahead of it |\n" + "|---" * 5 + "|")
    known = {
        name: answers_of(rows, (WEAK, STRONG), encoder.encode([row.text for row in rows]), DIMENSIONS)
        for name, rows in sets.items()
    }
    for name, answers in known.items():
        fitted = fit_quality(answers, seed)
        tell_apart(name, "its other subjects or clusters", answers, fitted.apart)
        for other, apart in known.items():
            if other != name:
                predicted = fitted.quality.predict(apart.inputs, apart.looks).astype(np.float64)
                tell_apart(other, name, apart, predicted)


def tell_apart(name: str, fitted_on: str, answers: Answers, predicted: Floats) -> None:
    """Print one row of the second table."""
    calls = np.tile([0.0, 1.0], (len(predicted), 1))
    apart = np.zeros((2, 2), bool)
    table = Table(answers.texts, (WEAK, STRONG), predicted, answers.scores, calls, calls, apart)
    found = measure_left_out(table, np.zeros(len(predicted), np.intp), (), None)
    cells = (name, fitted_on, *map(with_interval, (found.served, found.length, found.lead)))
    print("| " + " | ".join(cells) + " |", flush=True)


def lines(title: str, name: str, found: Choosing) -> list[list[str]]:
    """A line a router, and RouteLLM's."""
    own = [
        [
            title,
            router.name,
            with_interval(router.apgr),
            "" if router.behind is None else with_interval(router.behind),
            with_interval(router.cpt50),
            with_interval(router.cpt80),
            with_interval(router.saving),
        ]
        for router in found.routers
    ]
    published = [title, "RouteLLM's best, other training data and all of the set", f"{PUBLISHED[name]:.3f}"]
    return [*own, [*published, "", "", "", ""]]


if __name__ == "__main__":
    main()
