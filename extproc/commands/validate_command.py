"""`extproc validate` checks registries; `extproc schema` prints their JSON Schema for editors."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from extproc.commands.shared_options import command, takes_encoder
from extproc.errors import RegistryError
from extproc.lab.figures.number_formats import counted

if TYPE_CHECKING:
    from extproc.registry.holdout_check import Passed
    from extproc.registry.registry_loading import LoadedRegistry


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands."""
    _add_validate(commands)
    command(
        commands,
        "schema",
        _schema,
        "print the registry's JSON Schema, for editors",
        "Print the JSON Schema of a registry file, with a description of each key. An editor that has it "
        "completes keys and marks mistakes. `extproc validate` checks more: names, files and numbers that "
        "must fit each other.",
    )


def _add_validate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    validate = command(
        commands,
        "validate",
        _validate,
        "check registries with the loader that serves",
        "Read each registry as `serve` would. Every mistake is printed as FILE:LINE: what is wrong (what was "
        "expected), and the exit status is 1. A registry with a `holdout` is also compiled and must route it "
        "well enough, which needs the encoder. Warnings change no status.",
    )
    validate.add_argument("registries", nargs="+", type=Path, metavar="REGISTRY", help="files to check")
    takes_encoder(validate)


def _schema(_: argparse.Namespace) -> int:
    from extproc.registry.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _validate(options: argparse.Namespace) -> int:
    return max(_checked(path, options.encoder_dir) for path in options.registries)


def _checked(path: Path, encoder_dir: Path | None) -> int:
    from extproc.registry.checks.model_checks import unattended_warnings
    from extproc.registry.checks.route_checks import language_warnings
    from extproc.registry.passthrough_list import notices
    from extproc.registry.registry_loading import load

    try:
        loaded = load(path)
        passed = _examined(loaded, encoder_dir)
    except RegistryError as error:
        for mistake in error.each:
            print(f"extproc: {mistake}", file=sys.stderr)
        return 1
    registry = loaded.registry
    for notice in notices(registry):
        print(f"extproc: warning: {path}: {notice}", file=sys.stderr)
    examples = sum(map(len, loaded.examples.values()))
    print(
        f"{path}: good: {counted(len(registry.models), 'model')}, {counted(len(registry.routes), 'route')} "
        f"with {counted(examples, 'example')}, {counted(len(registry.rules), 'rule')}, "
        f"default {registry.default}, version {loaded.version}"
        + ("" if passed is None else f"; holdout: {passed}")
    )
    for warning in (*unattended_warnings(registry), *language_warnings(registry, loaded.examples)):
        print(f"{path}: warning: {warning}")
    return 0


def _examined(loaded: "LoadedRegistry", encoder_dir: Path | None) -> "Passed | None":
    """How it does on its holdout; None without one. Nothing serves that it could be worse than."""
    if loaded.holdout is None:
        return None
    from extproc.embedding.encoder_files import locate
    from extproc.embedding.encoder_session import open_encoder
    from extproc.embedding.release_compiling import Compiler

    files = locate(encoder_dir, loaded.registry.encoder.model)
    encoder = open_encoder(files, loaded.registry.encoder)
    return Compiler(encoder, files.directory).compiled(loaded, serving=None).holdout
