"""What several commands take, said once."""

import argparse
from collections.abc import Callable
from pathlib import Path

ENCODER_HELP = (
    "the encoder's files (default: $EXTPROC_ENCODER_DIR; else, in a checkout, its .cache/encoder; "
    "else ~/.cache/envoy-semantic-router)"
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
