"""`extproc eval` and `extproc diff`: how good is a registry on labelled rows, and is another worse?"""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from extproc.commands.shared_options import command, output_file, takes_encoder, takes_registry, write_output
from extproc.commands.store_options import rows_of, takes_store
from extproc.errors import OperatorError
from extproc.missing_extras import needed
from extproc.routing.text_changes import TextChange

if TYPE_CHECKING:
    from extproc.lab.datasets import OutcomeRow, Reader
    from extproc.lab.measure.choice_worth import OutcomeReport
    from extproc.lab.measure.evaluation_report import Report
    from extproc.lab.measure.llm_worth import DoubtAsker
    from extproc.lab.measure.replay import CandidateRegistry

_SHOW_PROGRESS_FROM = 1000  # texts to encode; fewer take seconds


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands."""
    _add_eval(commands)
    _add_diff(commands)


def _add_eval(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    evaluate = command(
        commands,
        "eval",
        _eval,
        "measure a registry on labelled rows",
        "Decide every row of a data set with the code that serves, and report accuracy, out-of-scope "
        "detection, calibration and risk against coverage beside simple baselines, each with a 95 % "
        'interval. The data is JSON lines {"text": ..., "route": NAME or null}, gzipped or not; null should '
        'abstain; rows may carry a "group" to say that they mean the same, and a "language", '
        "which is else detected. Outcomes are JSON lines "
        '{"text": ..., "outcomes": {MODEL: 0..1}, "tokens": {MODEL: COUNT}}, and measure model choice by '
        "predicted quality: what it saves, beside random and prompt length. Without a file, rows come from "
        "the --store, if it has any: requests with recorded text and feedback.",
    )
    takes_registry(evaluate)
    takes_encoder(evaluate)
    evaluate.add_argument(
        "--artefact",
        type=Path,
        metavar="DIR",
        help="what `extproc train` wrote, in place of the registry's own",
    )
    evaluate.add_argument("--data", type=Path, metavar="FILE", help="the labelled rows")
    evaluate.add_argument("--outcomes", type=Path, metavar="FILE", help="how well models answered")
    _takes_flips(evaluate, "; always done for up to 200 rows")
    evaluate.add_argument(
        "--routerarena",
        type=Path,
        metavar="FILE",
        help="RouterArena's score of the choice, beside each model alone: JSON lines "
        '{"prompt": ..., "scores": {MODEL: 0..1}, "costs": {MODEL: DOLLARS}}, '
        'and for cascades "accepted": {MODEL: true or false}',
    )
    evaluate.add_argument(
        "--safety",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="recall and false positives of the registry's safety head, side by side; rows as for "
        "`extproc train --safety`",
    )
    takes_store(evaluate, required=False)
    evaluate.add_argument(
        "--rows",
        type=output_file,
        metavar="FILE",
        help="write the decision of every labelled row as JSON lines: text, labelled and decided route, "
        "stage, reason, scores, candidates and what the LLM said",
    )
    _takes_llm(evaluate)
    output = evaluate.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object")
    output.add_argument(
        "--html", type=output_file, metavar="FILE", help="write one self-contained page with the plots"
    )


def _add_diff(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    diff = command(
        commands,
        "diff",
        _diff,
        "compare two registries on labelled rows; exit 1 when the new one is worse",
        "Decide every row with both registries and print, as Markdown for a review, what changed with its "
        "interval, which route took whose traffic, and which rows broke. The exit status is 1 when a measure "
        "got worse by more than its budget.",
    )
    diff.add_argument("old", type=Path, metavar="OLD", help="the registry that serves now")
    diff.add_argument("new", type=Path, metavar="NEW", help="the registry that should")
    takes_encoder(diff)
    diff.add_argument("--data", type=Path, required=True, metavar="FILE", help="labelled rows, as for `eval`")
    diff.add_argument(
        "--budget",
        action="append",
        default=[],
        type=_budget,
        metavar="MEASURE=DROP",
        help="how much worse a measure may get, 0 to 1: accuracy (default 0.01), outside_kept, recall and "
        "precision of every route (0.05 each), recall:ROUTE or precision:ROUTE of one, flips of every change "
        "of the text (0.05), flips:CHANGE of one; repeatable",
    )
    _takes_flips(diff, " with each registry")
    diff.add_argument("--json", action="store_true", help="print one JSON object instead")


def _takes_flips(parser: argparse.ArgumentParser, more: str) -> None:
    parser.add_argument(
        "--flips",
        action="store_true",
        help="also decide each row with a typing mistake, in another case, with other punctuation and in "
        f"polite words, and report how many decisions change{more}",
    )


def _takes_llm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--llm",
        type=_completions_url,
        metavar="URL",
        help="also ask this OpenAI-compatible server about the rows in doubt, as the registry's `llm` does, "
        "and report what that adds and costs; the server gets the texts of these rows",
    )
    parser.add_argument(
        "--llm-key",
        metavar="VARIABLE",
        help="the environment variable that has the server's key (default: no key)",
    )
    parser.add_argument(
        "--llm-model",
        metavar="NAME",
        help="the model, as the server calls it (default: as the registry's `llm.model` is called upstream)",
    )


def _completions_url(text: str) -> str:
    from extproc.lab.measure.llm_endpoint import completions_url

    try:
        return completions_url(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} (expected the base URL of a server, such as http://127.0.0.1:8000/v1)"
        ) from None


def _budget(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        drop = float(value)
    except ValueError:
        drop = -1.0
    if not (name and 0 <= drop <= 1):
        raise argparse.ArgumentTypeError(f"{text!r} (expected MEASURE=DROP with a drop between 0 and 1)")
    return name, drop


def _eval(options: argparse.Namespace) -> int:
    from extproc.lab.measure.evaluation_page import as_page
    from extproc.lab.measure.evaluation_report import evaluate
    from extproc.lab.measure.evaluation_text import as_text
    from extproc.lab.measure.outcome_text import as_text as outcomes_as_text
    from extproc.lab.measure.replay import open_candidate

    if options.routerarena is not None:
        return _arena(options)
    if options.safety:
        return _safety(options)
    if options.data is None and options.outcomes is None and options.store is None:
        raise OperatorError("nothing to measure on (expected --data, --outcomes, --store, or several)")
    candidate = open_candidate(options.registry, options.encoder_dir, show_progress, options.artefact)
    asker = _asker(options, candidate)
    with rows_of(options) as (routes, outcomes_read):
        # A store may know of outcomes that a registry without predicted quality has no use for.
        needs_rows = [name for name, given in (("--rows", options.rows), ("--llm", asker)) if given]
        if routes is None and needs_rows:
            raise OperatorError(
                f"{needs_rows[0]}: there are no labelled rows (expected --data, or --store with labels)"
            )
        unused = options.outcomes is None and routes is not None and candidate.loaded.quality is None
        report = (
            None
            if routes is None
            else evaluate(candidate, routes, flips=options.flips, decisions=options.rows, asker=asker)
        )
        outcomes = None if outcomes_read is None or unused else _outcomes(candidate, outcomes_read)
    if options.json:
        print(_as_json(report, outcomes))
        return 0
    if options.html is not None:
        write_output(options.html, as_page(report, outcomes))
    texts = [] if report is None else [as_text(report)]
    if outcomes is not None:
        texts.append(outcomes_as_text(outcomes))
    print("\n\n".join(texts))
    return 0


def _asker(options: argparse.Namespace, candidate: "CandidateRegistry") -> "DoubtAsker | None":
    """Who is asked in doubt. Raises ``OperatorError`` if it cannot be, before anything is measured."""
    from extproc.lab.measure.llm_endpoint import LlmServer
    from extproc.lab.measure.llm_worth import DoubtAsker, required_policy

    if options.llm is None:
        for name, given in (("--llm-key", options.llm_key), ("--llm-model", options.llm_model)):
            if given is not None:
                raise OperatorError(f"{name}: no server is asked (expected --llm URL too)")
        return None
    required_policy(candidate)
    key = "" if options.llm_key is None else _key(options.llm_key)
    return DoubtAsker(LlmServer(options.llm, key), _show_asking, options.llm_model or "")


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise OperatorError(
            f"--llm-key: the environment variable {variable} has no key (expected printable ASCII characters)"
        )
    return key


def _require_alone(name: str, options: argparse.Namespace) -> None:
    """Raises ``OperatorError`` if another measurement is asked for beside the option ``name``."""
    if options.data or options.outcomes or options.store or options.html or options.llm:
        raise OperatorError(
            f"{name} is measured alone (expected no --data, --outcomes, --store, --html or --llm)"
        )


def _arena(options: argparse.Namespace) -> int:
    from extproc.lab.datasets import arena_in
    from extproc.lab.measure.arena_evaluation import arena_text, evaluate_arena
    from extproc.lab.measure.replay import open_candidate

    _require_alone("--routerarena", options)
    candidate = open_candidate(options.registry, options.encoder_dir, show_progress, options.artefact)
    report = evaluate_arena(candidate, arena_in(options.routerarena))
    print(msgspec.json.encode(report).decode() if options.json else arena_text(report))
    return 0


def _safety(options: argparse.Namespace) -> int:
    from extproc.lab.measure.replay import open_candidate
    from extproc.lab.measure.safety_evaluation import evaluate_safety, safety_text

    _require_alone("--safety", options)
    candidate = open_candidate(options.registry, options.encoder_dir, show_progress, options.artefact)
    report = evaluate_safety(candidate, options.safety)
    print(msgspec.json.encode(report).decode() if options.json else safety_text(report))
    return 0


def _outcomes(candidate: "CandidateRegistry", read: "Reader[OutcomeRow]") -> "OutcomeReport":
    try:
        from extproc.lab.measure.outcome_evaluation import evaluate_outcomes
    except ModuleNotFoundError as error:
        raise OperatorError(needed("--outcomes", error, "eval")) from error
    return evaluate_outcomes(candidate, read)


def _as_json(report: "Report | None", outcomes: "OutcomeReport | None") -> str:
    """The report of routes as it stands; with outcomes, that of model choice beside it."""
    combined = report if outcomes is None else {"routes": report, "models": outcomes}
    return msgspec.json.encode(combined).decode()


def _diff(options: argparse.Namespace) -> int:
    from extproc.lab.measure.diff_markdown import as_markdown
    from extproc.lab.measure.registry_diff import DEFAULT_BUDGETS, compare, routes_of
    from extproc.lab.measure.replay import open_candidate

    old, new = (
        open_candidate(path, options.encoder_dir, show_progress) for path in (options.old, options.new)
    )
    budgets = {**DEFAULT_BUDGETS, **dict(options.budget)}
    _check_budgets(budgets, routes_of(old, new))
    flips = options.flips or any(name.startswith("flips") for name, _ in options.budget)
    comparison = compare(old, new, options.data, budgets, flips=flips)
    if options.json:
        print(msgspec.json.encode(comparison).decode())
    else:
        sys.stdout.write(as_markdown(comparison))
    return 1 if comparison.over_budget else 0


def _check_budgets(budgets: Iterable[str], routes: Iterable[str]) -> None:
    """A budget of something that is not measured would never be exceeded."""
    single = [f"{measure}:{route}" for measure in ("recall", "precision") for route in routes]
    flips = ["flips", *(f"flips:{change}" for change in TextChange)]
    known = ["accuracy", "outside_kept", "recall", "precision", *single, *flips]
    for name in budgets:
        if name not in known:
            raise OperatorError(
                f"--budget: there is no measure {name!r} (expected one of: {', '.join(known)})"
            )


def show_progress(done: int, total: int) -> None:
    """One line on stderr that counts up, for people, and only where it takes a while."""
    if total >= _SHOW_PROGRESS_FROM and sys.stderr.isatty():
        print(f"\rencoding {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _show_asking(done: int, total: int) -> None:
    """One line on stderr that counts up, for people: each call takes about a second."""
    if sys.stderr.isatty():
        print(f"\rasking {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
