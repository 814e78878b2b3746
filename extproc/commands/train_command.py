"""`extproc train`: learn a registry's routes from labelled texts."""

import argparse
import math
import sys
from pathlib import Path

from extproc.commands.shared_options import command, takes_encoder, takes_registry
from extproc.commands.store_options import rows_of, takes_store
from extproc.errors import OperatorError
from extproc.missing_extras import needed

_SCORERS = ("auto", "centroid", "prototypes", "logistic", "linear", "lexical", "perceptron", "blend")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    train = command(
        commands,
        "train",
        _train,
        "learn routes from labelled texts",
        "Fit the scorers that could serve on the registry's examples and a data set, take the one that "
        "predicts held-out rows best, calibrate it and set its floors, and write the artefact that the "
        "registry's `artefact` key names. Where it is no better on held-out rows than the registry without "
        "an artefact, the artefact keeps the registry's examples and scorer. With --outcomes it also fits "
        "predicted quality; without labelled rows, only that. The data is JSON lines "
        '{"text": ..., "route": NAME or null}, gzipped or not; null should abstain. Without a file, '
        "rows come from the --store, if it has any: requests with recorded text and feedback. The "
        "same rows and seed give the same bytes.",
    )
    takes_registry(train)
    takes_encoder(train)
    train.add_argument("--data", type=Path, metavar="FILE", help="the labelled rows")
    train.add_argument(
        "--outcomes",
        type=Path,
        metavar="FILE",
        help='how well models answered: {"text": ..., "outcomes": {MODEL: 0..1}, "tokens": {MODEL: COUNT}}; '
        "predicts quality, for routes with a `quality_bar`",
    )
    train.add_argument(
        "--safety",
        type=Path,
        nargs="+",
        metavar="FILE",
        help='fit a safety head instead: {"text": ..., "label": CLASS or null, "set": NAME}; null is '
        "ordinary traffic, and the more of it, the fewer false positives",
    )
    train.add_argument(
        "--false-positives",
        type=_share,
        default=0.02,
        metavar="SHARE",
        help="with --safety: of the ordinary rows of each set, how many may be taken for any class "
        "(default: %(default)s)",
    )
    takes_store(train, required=False)
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the artefact goes")
    floors = train.add_mutually_exclusive_group()
    floors.add_argument(
        "--costs",
        type=_costs,
        default={},
        metavar="NAME=COST,...",
        help="what mistakes cost, relative to each other: `wrong` (another route than the right one, default "
        "2), `abstained` (the default model in place of the right route, 1) and `stranger` (a route for a "
        "request of none, 2); floors are chosen for the least cost",
    )
    floors.add_argument(
        "--target-wrong",
        type=_share,
        default=None,
        metavar="SHARE",
        help="in place of costs: of the requests given to a route, how many may be wrong",
    )
    train.add_argument(
        "--test-share",
        type=_share,
        default=None,
        metavar="SHARE",
        help="of the rows, set apart to measure on (default: 0.1, and 0 where routes have few examples)",
    )
    train.add_argument(
        "--scorer", choices=_SCORERS, default="auto", help="default: the best on held-out rows"
    )
    train.add_argument("--seed", type=int, default=0, help="of the split and of every fit")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} (expected a share, 0 to 1)")
    return value


def _costs(text: str) -> dict[str, float]:
    """`wrong=5,stranger=1` by name. Raises ``ArgumentTypeError``."""
    expected = "expected wrong=COST,abstained=COST,stranger=COST, each above 0 and at most 1000"
    costs: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            cost = float(value)
        except ValueError:
            cost = math.nan
        if name.strip() not in ("wrong", "abstained", "stranger") or not 0 < cost <= 1000:
            raise argparse.ArgumentTypeError(f"{text!r} ({expected})")
        costs[name.strip()] = cost
    return costs


def _train(options: argparse.Namespace) -> int:
    if options.safety:
        return _train_safety(options)
    try:
        from extproc.lab.train.floors import Costs
        from extproc.lab.train.route_artefacts import TrainOptions, train_artefact
    except ModuleNotFoundError as error:
        raise OperatorError(needed("training", error, "eval")) from error
    with rows_of(options) as (routes, outcomes):
        if routes is None and outcomes is None:
            raise OperatorError("nothing to learn from (expected --data, --outcomes or --store)")
        train_options = TrainOptions(
            costs=Costs(**options.costs),
            target_wrong=options.target_wrong,
            test_share=options.test_share,
            scorer=options.scorer,
            seed=options.seed,
            outcomes=outcomes,
        )
        report = train_artefact(
            options.registry,
            routes,
            options.out,
            options.encoder_dir,
            train_options,
            progress=_print_progress,
        )
    print(report)
    return 0


def _train_safety(options: argparse.Namespace) -> int:
    try:
        from extproc.lab.train.safety_training import train_safety
    except ModuleNotFoundError as error:
        raise OperatorError(needed("training", error, "eval")) from error
    if options.data or options.outcomes or options.store:
        raise OperatorError("--safety is trained by itself (expected no --data, --outcomes or --store)")
    report = train_safety(
        options.registry,
        options.safety,
        options.out,
        options.encoder_dir,
        false_positives=options.false_positives,
        seed=options.seed,
        progress=_print_progress,
    )
    print(report)
    return 0


def _print_progress(line: str) -> None:
    """Print progress on stderr; on a terminal each line replaces the one before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}" if line else "\r\x1b[K")
        sys.stderr.flush()
    elif line:
        print(line, file=sys.stderr, flush=True)
