"""How much of real traffic may the words alone decide, and how well and how fast do they?

    python -m benchmarks.fastpath --clinc150 CLINC150.jsonl.gz --banking77 BANKING77.jsonl.gz

Everything is learnt on rows whose split is not a test one and measured on the test splits, rows out of
scope among them: a text that the whole head abstains from must not be decided by its words. Intervals are
Wilson's, 95 %. Floors are those that `extproc train` chooses by default.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality import Split, read, split
from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_session import DeepEncoder, open_encoder
from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.measure.intervals import wilson
from extproc.lab.train import fastpath_training, route_training
from extproc.registry import schema
from extproc.routing.fastpath import Words
from extproc.routing.turn_reading import StaticEncoder

COLUMNS = (
    *("set", "decides", "of strangers", "agrees with the whole head", "held out", "right"),
    *("right with the whole head", "us a text"),
)


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clinc150", type=Path)
    parser.add_argument("--banking77", type=Path)
    parser.add_argument("--snips7", type=Path)
    parser.add_argument("--scorer", default="auto", help="the whole head, instead of the one chosen")
    parser.add_argument("--cache", type=Path, default=Path(".cache/quality.npz"))
    options = parser.parse_args()
    opened = open_encoder(locate(), schema.EncoderSettings(device="cpu"))
    encoder = CachedEncoder(DeepEncoder(opened), options.cache, max_entries=100_000)
    assert opened.static is not None
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name, path, key in (
        ("CLINC150, 150 intents", options.clinc150, "intent"),
        ("CLINC150, 10 domains", options.clinc150, "domain"),
        ("BANKING77", options.banking77, "intent"),
        ("SNIPS", options.snips7, "intent"),
    ):
        if path is not None:
            data = split(name, read(path), key, encoder, opened.static)
            print(f"| {name} | " + " | ".join(cells(data, options.scorer, opened.static)) + " |", flush=True)


def cells(data: Split, scorer: str, static: StaticEncoder) -> Sequence[str]:
    """One row of the table."""
    outcome = route_training.train(data.train, seed=0, scorer=scorer, progress=_say)
    learnt = fastpath_training.learn(data.train, outcome, progress=_say)
    seen = fastpath_training.measure(
        learnt.words, outcome, data.test, route_training.measure(outcome.meaning, data.test)
    )
    strangers = int((data.test.labels == ABSTAIN).sum())
    return (
        _share(seen.coverage, seen.rows - strangers),
        _share(seen.strangers, strangers) if strangers else "-",
        _share(seen.agreement, seen.decided),
        f"{learnt.held.coverage:.1%} at {learnt.held.agreement:.2%}",
        f"{seen.right:.2%}",
        f"{seen.whole_right:.2%}",
        f"{microseconds(learnt.words, static, data.test.texts):.0f}",
    )


def _share(share: float, rows: int) -> str:
    interval = wilson(round(share * rows), rows)
    return f"{share:.1%} [{interval.low:.1%}, {interval.high:.1%}] of {rows}"


def microseconds(words: Words, static: StaticEncoder, texts: Sequence[str]) -> float:
    """The median time from a text to its scores or their absence."""
    seconds = []
    for text in texts[:1000]:
        began = time.perf_counter()
        words.read(text, static)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) * 1e6


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
