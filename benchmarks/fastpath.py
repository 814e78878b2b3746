"""How much of real traffic may the words alone decide, and how well and how fast do they?

    python benchmarks/fastpath.py --clinc150 CLINC150.jsonl.gz --banking77 BANKING77.jsonl.gz

Everything is learnt on rows whose split is not a test one and measured on the test splits, rows out of
scope among them: a text that the whole head abstains from must not be decided by its words.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality import TARGET, Split, read, split
from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_session import DeepEncoder, open_encoder
from extproc.lab.measure.intervals import wilson
from extproc.lab.train import fastpath_training, route_training
from extproc.registry import schema
from extproc.routing.fastpath import Words

COLUMNS = (
    *("set", "decides", "agrees with the whole head", "right", "right with the whole head", "us a text"),
)


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clinc150", type=Path)
    parser.add_argument("--banking77", type=Path)
    parser.add_argument("--scorer", default="auto", help="the whole head, instead of the one chosen")
    parser.add_argument("--cache", type=Path, default=Path(".cache/quality.npz"))
    options = parser.parse_args()
    encoder = CachedEncoder(
        DeepEncoder(open_encoder(locate(), schema.EncoderSettings(device="cpu"))),
        options.cache,
        max_entries=100_000,
    )
    splits = []
    if options.clinc150 is not None:
        rows = read(options.clinc150)
        splits.append(split("CLINC150, 150 intents", rows, "intent", encoder))
        splits.append(split("CLINC150, 10 domains", rows, "domain", encoder))
    if options.banking77 is not None:
        splits.append(split("BANKING77", read(options.banking77), "intent", encoder))
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for each in splits:
        print(f"| {each.name} | " + " | ".join(cells(each, options.scorer)) + " |", flush=True)


def cells(data: Split, scorer: str) -> Sequence[str]:
    """One row of the table."""
    outcome = route_training.train(data.train, target_wrong=TARGET, seed=0, scorer=scorer, progress=_say)
    learnt = fastpath_training.learn(data.train, outcome, progress=_say)
    held = route_training.measure(outcome.meaning, data.test)
    seen = fastpath_training.measure(learnt.words, outcome, data.test, held)
    decided = round(seen.coverage * seen.rows)
    interval = wilson(round(seen.agreement * decided), decided)
    return (
        f"{seen.coverage:.1%} of {seen.rows} ({learnt.held.coverage:.1%} held out)",
        f"{seen.agreement:.2%} [{interval.low:.2%}, {interval.high:.2%}] "
        f"({learnt.held.agreement:.2%} held out)",
        f"{seen.right:.2%}",
        f"{seen.whole_right:.2%}",
        f"{microseconds(learnt.words, data.test.texts):.0f}",
    )


def microseconds(words: Words, texts: Sequence[str]) -> float:
    """The median time from a text to its scores or their absence."""
    seconds = []
    for text in texts[:1000]:
        began = time.perf_counter()
        words.read(text)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) * 1e6


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
