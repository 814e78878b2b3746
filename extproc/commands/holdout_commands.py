"""`extproc holdout`: a labelled set of one's own traffic, drawn from records and labelled by hand."""

import argparse
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from extproc.commands.shared_options import command, output_file, takes_registry, write_output
from extproc.errors import OperatorError
from extproc.lab.figures.number_formats import counted

if TYPE_CHECKING:
    from extproc.lab.measure.holdout_labelling import Label

_SHOWN = 1500  # characters of a text
_END_OF_INPUT = ("", "\x04")  # of a pipe, and Ctrl-D on a terminal


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the family."""
    holdout = commands.add_parser("holdout", help="make a labelled set of your own traffic")
    actions = holdout.add_subparsers(metavar="ACTION", required=True)
    sample = command(
        actions,
        "sample",
        _sample,
        "draw rows to label from records",
        "Draw rows from the records of `extproc serve`, as many doubtful ones as sure ones and of every "
        "route alike, and write on each how many requests it stands for. Needs records that carry the text.",
    )
    sample.add_argument(
        "records",
        nargs="+",
        type=Path,
        metavar="RECORDS",
        help="JSON lines, gzipped or not, or a directory of segments",
    )
    sample.add_argument(
        "--output", type=output_file, required=True, metavar="FILE", help="a new file to label"
    )
    sample.add_argument(
        "--rows", type=_positive, default=200, metavar="N", help="how many (default: %(default)s)"
    )
    sample.add_argument(
        "--llm",
        action="store_true",
        help="draw only requests in doubt for which the registry's `llm` answered, with its answer as a "
        "suggestion that `holdout label` lets you confirm: rows to train on, not a holdout",
    )
    sample.add_argument(
        "--seed", type=int, default=0, help="another seed, another draw (default: %(default)s)"
    )
    label = command(
        actions,
        "label",
        _label,
        "label rows, one key each",
        "Show the rows of FILE that have no route yet, one after the other, and write the route that you "
        "choose into FILE at once. Stop and resume whenever you like. What the router decided is not shown. "
        "Suggestions of `holdout sample --llm` are.",
    )
    takes_registry(label)
    label.add_argument(
        "file", type=Path, metavar="FILE", help='JSON lines with "text"; labels are written into it'
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} (expected a whole number above 0)")
    return int(text)


def _sample(options: argparse.Namespace) -> int:
    from extproc.lab.measure.holdout_sampling import read_records, sample

    if options.output.exists():
        raise OperatorError(f"{options.output} is there already (expected a new file, to lose no labels)")
    records = read_records(options.records, suggested=options.llm)
    drawn = sample(records, options.rows, options.seed, suggested=options.llm)
    write_output(options.output, "".join(msgspec.json.encode(row).decode() + "\n" for row in drawn))
    print(f"{options.output}: {counted(len(drawn), 'row')} to label with `extproc holdout label`")
    return 0


def _label(options: argparse.Namespace) -> int:
    from extproc.lab.measure.holdout_labelling import Effect, Session, keys_of, read_rows, write_rows
    from extproc.registry.registry_loading import load

    routes = list(load(options.registry).registry.routes)
    keys = keys_of(routes)
    rows = read_rows(options.file, routes)
    session = Session(rows, keys)
    legend, effect = _legend(keys), Effect.SKIPPED
    with _single_keys(sys.stdin) as pressed:
        while effect is not Effect.QUIT and (session.current is not None or session.can_undo):
            text = "That was the last one." if session.current is None else _shown(session.current)
            hint = _hint(session.suggestion)
            print(f"\n{session.labelled} of {len(rows)} labelled\n\n{text}\n\n{hint}{legend}", flush=True)
            key = next(pressed)
            label = session.label_of(key)
            effect = session.press(key)
            named = f"{key}: {label.route or 'out of scope'}" if label else effect
            print(named if effect is Effect.LABELLED else effect, flush=True)
            if effect in (Effect.LABELLED, Effect.UNDONE):
                write_rows(options.file, rows)
    print(f"{options.file}: {session.labelled} of {len(rows)} rows have a label")
    return 0


def _shown(text: str) -> str:
    """A prompt may be a book; its beginning says what it is about."""
    from extproc.lab.datasets import printable

    more = f"\n… {len(text) - _SHOWN} more characters" if len(text) > _SHOWN else ""
    return printable(text[:_SHOWN]) + more


def _hint(suggestion: "Label | None") -> str:
    from extproc.lab.datasets import printable
    from extproc.lab.measure.holdout_labelling import CONFIRM

    if suggestion is None:
        return ""
    why = f": {' '.join(printable(suggestion.why).split())}" if suggestion.why else ""
    return f"[{CONFIRM}] as the LLM suggests: {suggestion.route or 'out of scope'}{why}\n"


def _legend(keys: Mapping[str, str | None]) -> str:
    from extproc.lab.measure.holdout_labelling import QUIT, SKIP, UNDO

    routes = "  ".join(f"[{key}] {route or 'out of scope'}" for key, route in keys.items())
    return f"{routes}\n[{UNDO}] undo  [{SKIP}] skip  [{QUIT}] quit"


@contextmanager
def _single_keys(source: TextIO) -> Iterator[Iterator[str]]:
    """Keys as they are pressed, without Enter; of a pipe, its characters. Ctrl-C still interrupts."""
    if not source.isatty():
        yield _keys(source)
        return
    before = termios.tcgetattr(source)
    tty.setcbreak(source, termios.TCSADRAIN)  # keeps what was typed ahead
    try:
        yield _keys(source)
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)


def _keys(source: TextIO) -> Iterator[str]:
    """Characters but for white space. The end of the input quits."""
    from extproc.lab.measure.holdout_labelling import QUIT

    while (key := source.read(1)) not in _END_OF_INPUT:
        if not key.isspace():
            yield key
    while True:
        yield QUIT
