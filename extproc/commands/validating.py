"""`extproc validate`: is a registry good, and does it route its holdout well enough?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from extproc.commands.options import command, takes_encoder

if TYPE_CHECKING:
    from extproc.registry.holdout import Passed
    from extproc.registry.loading import Loaded


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    validate = command(
        commands,
        "validate",
        _validate,
        "check registries with the loader that serves",
        "Read each registry as `serve` would. A mistake is told as FILE:LINE: what is wrong (what was "
        "expected), and the exit status is 1. A registry with a `holdout` is also compiled and must route it "
        "well enough, which needs the encoder.",
    )
    validate.add_argument("registries", nargs="+", type=Path, metavar="REGISTRY")
    takes_encoder(validate)


def _validate(options: argparse.Namespace) -> int:
    from extproc.registry.loading import load

    for path in options.registries:
        loaded = load(path)
        registry = loaded.registry
        examples = sum(map(len, loaded.examples.values()))
        passed = _examined(loaded, options.encoder_dir)
        print(
            f"{path}: good: {len(registry.models)} models, {len(registry.routes)} routes with {examples} "
            f"examples, {len(registry.rules)} rules, default {registry.default}, version {loaded.version}"
            + ("" if passed is None else f"; holdout: {passed}")
        )
    return 0


def _examined(loaded: "Loaded", encoder_dir: Path | None) -> "Passed | None":
    """How it does on its holdout; None without one. Nothing serves that it could be worse than."""
    if loaded.holdout is None:
        return None
    from extproc.embedding.compiling import Compiler
    from extproc.embedding.files import locate
    from extproc.embedding.session import open_encoder

    files = locate(encoder_dir)
    encoder = open_encoder(files, loaded.registry.encoder)
    _, passed = Compiler(encoder, files.directory).compiled(loaded, serving=None)
    return passed
