"""`extproc eval`: how good is a registry on labelled rows?"""

import argparse
import sys
from pathlib import Path

import msgspec

from extproc.commands.options import command, takes_encoder, takes_registry

_SHOW_PROGRESS_FROM = 1000  # texts to encode; fewer take seconds


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    evaluate = command(
        commands,
        "eval",
        _eval,
        "measure a registry on labelled rows",
        "Decide every row of a data set with the code that serves, and report accuracy, out-of-scope "
        "detection, calibration and risk against coverage beside simple baselines, each with a 95 % "
        'interval. The data is JSON lines {"text": ..., "route": NAME or null}, gzipped or not; null should '
        'abstain; rows may carry a "group" to say that they mean the same.',
    )
    takes_registry(evaluate)
    takes_encoder(evaluate)
    evaluate.add_argument("--data", type=Path, required=True, metavar="FILE", help="the labelled rows")
    told = evaluate.add_mutually_exclusive_group()
    told.add_argument("--json", action="store_true", help="print one JSON object")
    told.add_argument(
        "--html", type=Path, metavar="FILE", help="write one self-contained page with the plots"
    )


def _eval(options: argparse.Namespace) -> int:
    from extproc.evaluation.page import as_page
    from extproc.evaluation.replay import open_candidate
    from extproc.evaluation.report import evaluate
    from extproc.evaluation.terminal import as_text

    candidate = open_candidate(options.registry, options.encoder_dir, show_progress)
    report = evaluate(candidate, options.data)
    if options.json:
        print(msgspec.json.encode(report).decode())
        return 0
    if options.html is not None:
        options.html.write_text(as_page(report))
    print(as_text(report))
    return 0


def show_progress(done: int, total: int) -> None:
    """One line on stderr that counts up, for people, and only where it takes a while."""
    if total >= _SHOW_PROGRESS_FROM and sys.stderr.isatty():
        print(f"\rencoding {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
