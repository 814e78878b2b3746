"""Options that several commands share, and how mistakes in them are reported."""

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from extproc.errors import OperatorError
from extproc.registry.checks.shared_checks import is_host

ENCODER_HELP = (
    "the encoder's files (default: $EXTPROC_ENCODER_DIR; else, in a checkout, its .cache/encoder; "
    "else ~/.cache/envoy-semantic-router)"
)


class Parser(argparse.ArgumentParser):
    """An argument parser that names an unknown option before it misses another."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See the base class; an option that is left over is an error here, where its command is known."""
        self._given = list(args or ())
        found, rest = super().parse_known_args(args, namespace)
        if any(text.startswith("--") for text in rest):
            self.error("unrecognized arguments")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """See the base class."""
        unknown = next(filter(self._is_unknown, self._given), None)
        if unknown is not None and message.startswith(("the following arguments", "unrecognized")):
            name = unknown.partition("=")[0]
            known = [option for option in self._option_string_actions if option.startswith("--")]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of: {', '.join(sorted(known))}"
            message = f"unknown option {name} ({hint})"
        super().error(message)

    def _is_unknown(self, text: str) -> bool:
        name = text.partition("=")[0]
        return name.startswith("--") and not any(
            option.startswith(name) for option in self._option_string_actions
        )


def command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add one command; ``run`` gets its options and gives the exit status."""
    parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=run)
    return parser


def takes_registry(parser: argparse.ArgumentParser) -> None:
    """Add ``--registry FILE``."""
    parser.add_argument(
        "--registry", type=Path, required=True, metavar="FILE", help="the registry; see config/ for examples"
    )


def takes_encoder(parser: argparse.ArgumentParser) -> None:
    """Add ``--encoder-dir DIR``."""
    parser.add_argument("--encoder-dir", type=Path, default=None, metavar="DIR", help=ENCODER_HELP)


def listen_address(text: str) -> str:
    """The type of an option that takes HOST:PORT; port 0 is any free one."""
    host, _, port = text.rpartition(":")
    if not (is_host(host.strip("[]")) and port.isdecimal() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid address (expected HOST:PORT)")
    return text


def sidecar_address(text: str) -> str:
    """The type of an option that takes HOST:PORT or unix:/PATH."""
    if text.startswith("unix:/"):
        return text
    try:
        return listen_address(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid address (expected HOST:PORT or unix:/PATH)"
        ) from None


def output_file(text: str) -> Path:
    """The type of an option that names a file to write: checked before the work, written after it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory (expected a file)")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no directory {path.absolute().parent}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} is not writable")
    return path


def write_output(path: Path, text: str) -> None:
    """Write what was made. Raises ``OperatorError``, for example where the disk is full."""
    try:
        path.write_text(text)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
