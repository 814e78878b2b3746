"""`extproc gate`: calibrate a cascade's gate on labelled answers, and say what it is worth."""

import argparse
import sys
from pathlib import Path

import msgspec

from extproc.commands.shared_options import command, takes_registry

_DATA = (
    'The data is JSON lines {"prompt": ..., "answers": {MODEL: TEXT}, "scores": {MODEL: 0..1}, "tokens": '
    "{MODEL: COUNT}}, gzipped or not; tokens are optional. Prices are the registry's."
)

_JSON = (
    "print a JSON array of one object per gate: first the gate that was asked for, then, with a second "
    "model, the same gate without it"
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the family."""
    gate = commands.add_parser("gate", help="calibrate the gate of a cascade, and say what it is worth")
    actions = gate.add_subparsers(metavar="ACTION", required=True)
    _add_fit(actions)
    evaluate = command(
        actions,
        "eval",
        _eval,
        "say what a calibrated gate is worth",
        "Measure an artefact on the rows of a file that it was not fitted on: how well it separates good "
        "answers from bad ones, realised against configured escalation, and quality and cost beside "
        "always-small, always-large, random and answer length, with 95 % intervals. " + _DATA,
    )
    takes_registry(evaluate)
    evaluate.add_argument("--data", type=Path, required=True, metavar="FILE", help="the labelled answers")
    evaluate.add_argument("--artefact", type=Path, required=True, metavar="DIR", help="of `extproc gate fit`")
    evaluate.add_argument("--json", action="store_true", help=_JSON)


def _add_fit(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    fit = command(
        actions,
        "fit",
        _fit,
        "learn which answers are good, and choose the threshold",
        "Fit P(the small model's answer is good), choose the threshold on held-out rows, measure it on rows "
        "set apart, and write the artefact that a gate's `artefact` key names. A gate that costs more than "
        "going straight to the large model is refused. The same rows and seed give the same bytes. " + _DATA,
    )
    takes_registry(fit)
    fit.add_argument("--data", type=Path, required=True, metavar="FILE", help="the labelled answers")
    fit.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the artefact goes")
    fit.add_argument("--small", required=True, metavar="MODEL", help="whose answers are judged")
    fit.add_argument("--large", required=True, metavar="MODEL", help="which one answers in its place")
    fit.add_argument(
        "--second", default="", metavar="MODEL", help="whose answer is compared with it; its call is charged"
    )
    target = fit.add_mutually_exclusive_group()
    target.add_argument(
        "--quality",
        type=_share,
        default=0.95,
        metavar="SHARE",
        help="of the large model's, to reach with as little escalation as possible (default: %(default)s)",
    )
    target.add_argument(
        "--escalation", type=_share, metavar="SHARE", help="instead: escalate so many of the answers"
    )
    fit.add_argument(
        "--test-share",
        type=_share,
        default=0.3,
        metavar="SHARE",
        help="of the prompts, set apart to measure on (default: %(default)s)",
    )
    fit.add_argument("--seed", type=int, default=0, help="of the split")
    fit.add_argument("--force", action="store_true", help="write it even if it costs more than it saves")
    fit.add_argument("--json", action="store_true", help=_JSON)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} (expected a share, above 0 and below 1)")
    return value


def _fit(options: argparse.Namespace) -> int:
    from extproc.lab.gates.gate_calibration import GateFitOptions, as_text, fit_gate
    from extproc.lab.gates.gate_fitting import GateTarget

    by_escalation = options.escalation is not None
    fit_options = GateFitOptions(
        small=options.small,
        large=options.large,
        second=options.second,
        target=GateTarget(None if by_escalation else options.quality, options.escalation),
        test_share=options.test_share,
        seed=options.seed,
        force=options.force,
    )
    worths = fit_gate(options.registry, options.data, options.out, fit_options, progress=_print_progress)
    print(msgspec.json.encode(worths).decode() if options.json else as_text(worths))
    return 0


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr)


def _eval(options: argparse.Namespace) -> int:
    from extproc.lab.gates.gate_calibration import as_text, eval_gate

    worths = eval_gate(options.registry, options.data, options.artefact)
    print(msgspec.json.encode(worths).decode() if options.json else as_text(worths))
    return 0
