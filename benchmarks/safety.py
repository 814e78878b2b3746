"""How much harm does a safety head find, and how many ordinary requests does it take for harm?

    python benchmarks/safety.py --rows LABELLED.jsonl --apart benchmarks/material/hard_benign.txt

`--rows` are files as for `extproc train --safety`. For each draw, groups of near-duplicates are split into
five folds; a fold is judged by a head and by thresholds that the other four made. The table has the mean of
the draws and, of the first, 95 % Wilson intervals.

`--apart` are ordinary texts (one a line, or JSON lines with `text`) that train nothing at all: they are
judged by the head that `extproc train` would write. `material/hard_benign.txt` is written for this: harmless
questions on security, medicine, history, chemistry, law and fiction, with the words of harmful ones.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, open_encoder
from extproc.lab.datasets import SafetyRow, safety_in
from extproc.lab.measure.safety_figures import figures
from extproc.lab.train.safety_fitting import fit_safety, prepare, surest
from extproc.registry import schema


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--apart", type=Path, nargs="*", default=[])
    parser.add_argument("--false-positives", type=float, default=0.02)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    encoder = DeepEncoder(open_encoder(locate(), schema.EncoderSettings(device="cpu")))
    data = prepare([row for path in options.rows for row in safety_in(path)(()).rows], encoder, DIMENSIONS)
    fits = [fit_safety(data, options.false_positives, seed) for seed in range(options.draws)]
    print("| figure | set | rows | mean of draws | first draw, 95 % |\n|---|---|---|---|---|")
    shares: dict[tuple[str, str], list[Mapping[str, float]]] = defaultdict(list)
    for fit in fits:
        for figure, each, share in _flat(fit.metrics):
            shares[figure, each].append(share)
    for (figure, each), drawn in shares.items():
        mean = np.mean([share["hits"] / share["rows"] for share in drawn])
        first = drawn[0]
        interval = f"{first['low']:.3f} to {first['high']:.3f}"
        print(f"| {figure} | {each} | {first['rows']} | {mean:.3f} | {interval} |")
    for path in options.apart:
        texts = list(_texts(path))
        apart = prepare(
            [SafetyRow(text=text, label=None, set=path.name) for text in texts], encoder, DIMENSIONS
        )
        found = surest(fits[0].head, apart, np.arange(len(texts)))
        above = found > np.array(fits[0].thresholds)
        (share,) = figures(apart.labels, (), apart.sets, above)["false_positives"].values()  # type: ignore[attr-defined]
        taken = share["hits"] / share["rows"]
        print(
            f"{path.name}, apart: {share['rows']} rows, {taken:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
        )


def _flat(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for name, sets in metrics["recall"].items():
        yield from ((f"recall of {name}", each, share) for each, share in sets.items())
    yield from (("false positives", each, share) for each, share in metrics["false_positives"].items())


def _texts(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        yield json.loads(line)["text"] if line.startswith("{") else line


if __name__ == "__main__":
    main()
