"""How well is a turn read in which a document stands beside the question?

    PYTHONPATH=. python benchmarks/turns.py CLINC150.jsonl.gz

The file has one JSON object a line with `split`, `text` and `intent`; `oos` is out of scope. A head is
trained on the rows whose split is not a test one. Every figure is of the test rows, beside documents of ours
that train nothing (`benchmarks/material/documents.txt`). Each condition is measured twice: with the
whole turn embedded, and with the piece that the router reads. Floors are those of training. Intervals are
95 % bootstrap intervals over test rows.
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.quality import TARGET, read, split, with_interval
from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, OnnxEncoder, open_encoder
from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.measure.intervals import bootstrap, mean_of
from extproc.lab.train import held_out_scores, route_training
from extproc.registry import schema
from extproc.routing.turn_reading import TurnReader, reader_of

MATERIAL = Path(__file__).parent / "material"
WORDS = (60, 600)
COLUMNS = ("turn", "read", "accuracy", "kept", "strangers kept")
Make = Callable[[str, str], str]
SHAPES: dict[str, Make] = {
    "document before": lambda question, document: f"{document}\n\n{question}",
    "document after": lambda question, document: f"{question}\n\n{document}",
}


class Condition(msgspec.Struct, frozen=True):
    """Test rows as one kind of turn."""

    name: str
    texts: tuple[str, ...]


def main() -> None:
    """Print one Markdown table of quality and one of time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--key", default="intent", help="intent or domain")
    parser.add_argument("--rows", type=int, default=1000, help="test rows, drawn once")
    parser.add_argument("--scorer", default="linear")
    parser.add_argument("--cache", type=Path, default=Path(".cache/turns.npz"))
    options = parser.parse_args()
    encoder = open_encoder(locate(), schema.EncoderSettings(device="cpu"))
    deep = CachedEncoder(DeepEncoder(encoder), options.cache, max_entries=100_000)
    rows = split("CLINC150", read(options.data), options.key, deep)
    outcome = route_training.train(
        rows.train, target_wrong=TARGET, seed=0, scorer=options.scorer,
        progress=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )  # fmt: skip
    assert encoder.static is not None
    reader = reader_of(outcome.meaning, encoder.static)
    drawn = np.random.default_rng(0).permutation(len(rows.test.texts))[: options.rows]
    test = rows.test.take(np.sort(drawn))
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for condition in conditions(test.texts):
        pieces = [reader.read(text).text for text in condition.texts]
        for how, texts in (("whole", condition.texts), ("piece", pieces)):
            vectors = deep.encode(list(texts))
            measured = route_training.corpus(texts, test.labels, test.routes, vectors, DIMENSIONS)
            print(f"| {condition.name} | {how} | {row(outcome, measured)} |", flush=True)
    times(encoder, reader, test.texts)


def conditions(texts: Sequence[str]) -> list[Condition]:
    """The rows alone, and beside documents of each length."""
    drawn = random.Random(0)
    documents = [text.strip() for text in (MATERIAL / "documents.txt").read_text().split("\n\n")]
    joins = [
        line.replace("\\n", "\n")
        for line in (MATERIAL / "instructions.txt").read_text().splitlines()
        if line.strip() and not line.startswith("{")
    ]
    found = [Condition("the question alone", tuple(texts))]
    for words in WORDS:
        beside = [document(documents, words, drawn) for _ in texts]
        for name, shape in SHAPES.items():
            made = tuple(shape(text, document) for text, document in zip(texts, beside, strict=True))
            found.append(Condition(f"{words} words of a {name}", made))
    joined = tuple(
        drawn.choice(joins).replace("{document}", drawn.choice(documents)).replace("{question}", text)
        for text in texts
    )
    return [*found, Condition("36 ways to join both", joined)]


def document(documents: Sequence[str], words: int, drawn: random.Random) -> str:
    """About so many words of documents, ended at a sentence."""
    text = drawn.choice(documents)
    while len(text.split()) < words:
        text = f"{text}\n\n{drawn.choice(documents)}"
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])(?=\s)|(?<=\n)", text):
        if kept and len("".join(kept).split()) >= words:
            break
        kept.append(sentence)
    return "".join(kept).strip()


def row(outcome: route_training.TrainedRoutes, rows: route_training.Corpus) -> str:
    """The cells of one condition."""
    held = route_training.measure(outcome.meaning, rows)
    probabilities = outcome.meaning.calibration.probabilities(held.logits)
    kept = held_out_scores.decisions(outcome.meaning, held, outcome.selected.floors) != ABSTAIN
    right = (probabilities.argmax(axis=1) == held.labels)[held.inside].astype(float)
    cells = [
        (right, "accuracy"),
        (kept[held.inside].astype(float), "kept"),
        (kept[~held.inside].astype(float), ""),
    ]
    return " | ".join(
        with_interval(values.mean(), bootstrap(mean_of(values), len(values))) for values, _ in cells
    )


def times(encoder: OnnxEncoder, reader: TurnReader, texts: Sequence[str]) -> None:
    """The median time of one turn, read and embedded by one thread of control."""
    documents = (MATERIAL / "documents.txt").read_text().split()
    print("\n| tokens of the turn | whole, ms | read, ms | of these the choice, ms |\n|---|---|---|---|")
    for tokens in (16, 128, 512, 2000):
        words = max(0, round(tokens / 1.35) - 10)
        turns = [
            f"{' '.join(documents[i : i + words])}\n\n{text}".strip() for i, text in enumerate(texts[:100])
        ]
        whole, read_, chosen = [], [], []
        for turn in turns:
            began = time.perf_counter()
            encoder.embed([turn])
            between = time.perf_counter()
            piece = reader.read(turn).text
            chose = time.perf_counter()
            encoder.embed([piece])
            ended = time.perf_counter()
            whole.append(between - began)
            chosen.append(chose - between)
            read_.append(ended - between)
        cells = [f"{1000 * float(np.median(seconds)):.2f}" for seconds in (whole, read_, chosen)]
        print(f"| {tokens} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
