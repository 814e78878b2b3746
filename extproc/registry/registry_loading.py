"""Reads a registry file into typed, checked values. Every mistake is reported with its file and line."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from extproc.errors import ArtefactUnusable, RegistryError
from extproc.registry import head_artefact as artefacts
from extproc.registry import holdout_check
from extproc.registry import quality_artefact as qualities
from extproc.registry.cascade_settings import Cascade
from extproc.registry.checks import check
from extproc.registry.checks.cascade_checks import check_calibrations
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.gate_artefacts import calibrations
from extproc.registry.gate_settings import Gate
from extproc.registry.holdout_check import HoldoutRows
from extproc.registry.model_settings import Model
from extproc.registry.registry_files import Files
from extproc.registry.schema import Registry, RouteSettings
from extproc.registry.section import Section, many
from extproc.registry.type_messages import Path as Steps
from extproc.registry.type_messages import TypeMistake, keys_at, type_mistake
from extproc.registry.yaml_source import Source

S = TypeVar("S", bound=Section)


class LoadedRegistry(msgspec.Struct, frozen=True):
    """A registry that passed every check."""

    registry: Registry
    # By route that has any: those in the file, then its examples_file's.
    examples: Mapping[str, tuple[str, ...]]
    version: str  # see ``Files.version``
    path: Path
    artefact: artefacts.Artefact | None = None  # serves in place of a scorer fitted on the examples
    quality: qualities.TrainedQuality | None = None  # predicts how well models answer; of the same directory
    holdout: HoldoutRows | None = None  # what it must route well enough
    gates: Mapping[str, CalibratedGate] = {}  # what the gates score by that name an artefact


def load(
    path: Path, files: Files | None = None, *, untrained: bool = False, artefact: Path | None = None
) -> LoadedRegistry:
    """Read, type and cross-check the registry at ``path``; ``files`` learns which files that takes.

    ``untrained`` leaves artefacts out, those of gates too: whoever makes one must not need it. ``artefact``
    is a directory to take in place of the registry's own.

    Raises ``RegistryError`` with the file, the line and what was expected, of every mistake.
    """
    files = files or Files()
    source = Source(str(path), files.read(path, str(path), 1))
    registry = _typed(source)
    if artefact is not None:
        registry = msgspec.structs.replace(registry, artefact=str(artefact.absolute()))
    examples = {
        name: (*route.examples, *_more_examples(source, name, route, files))
        for name, route in registry.routes.items()
    }
    check(registry, examples, source)
    if registry.feedback is not None and registry.feedback.token.file:
        files.watch(path.parent / registry.feedback.token.file)
    examples = {name: texts for name, texts in examples.items() if texts}
    held = trained = quality = None
    gates: Mapping[str, CalibratedGate] = {}
    with source.collecting():
        held = holdout_check.read(source, registry, files)
    if not untrained:
        with source.collecting():
            trained = _artefact(source, registry, tuple(examples), files)
            quality = _quality(source, registry, trained, files)
        with source.collecting():
            gates = calibrations(registry.gates, source, files)
            check_calibrations(registry, gates, source)
    source.refuse()
    return LoadedRegistry(
        registry=registry,
        examples=examples,
        version=files.version,
        path=path,
        artefact=trained,
        quality=quality,
        holdout=held,
        gates=gates,
    )


def _artefact(
    source: Source, registry: Registry, told: tuple[str, ...], files: Files
) -> artefacts.Artefact | None:
    """The artefact trained on the routes that are ``told`` by examples.

    Its manifest, which holds the hash of its weights, stands for all of it.
    """
    if not registry.artefact:
        if registry.fast_path is not None:
            raise source.error(
                "fast_path needs `artefact` to name a directory from `extproc train`", "fast_path"
            )
        return None
    directory = Path(source.file).parent / registry.artefact
    files.read(directory / artefacts.MANIFEST, source.file, source.line("artefact"))
    try:
        found = artefacts.read(directory, tuple(registry.routes))
    except ArtefactUnusable as error:
        raise source.error(f"artefact: {error}", "artefact") from error
    if registry.fast_path is not None and found.words is None:
        raise source.error(
            "fast_path: the artefact was trained without one (expected it from `extproc train`, which learns "
            "it for a registry that asks for it)",
            "fast_path",
        )
    return found


def _quality(
    source: Source, registry: Registry, trained: artefacts.Artefact | None, files: Files
) -> qualities.TrainedQuality | None:
    """What routes with a bar choose by; every candidate of theirs must be in it."""
    barred = [name for name, route in registry.routes.items() if route.quality_bar is not None]
    if trained is None:
        for name in barred:
            raise source.error(
                f"`quality_bar` of `{name}` needs predicted quality (expected `artefact` to name a directory "
                "from `extproc train --outcomes`)",
                "routes", name, "quality_bar",
            )  # fmt: skip
        return None
    directory = Path(source.file).parent / registry.artefact
    if not barred and not (directory / qualities.MANIFEST).exists():
        return None
    files.read(directory / qualities.MANIFEST, source.file, source.line("artefact"))
    try:
        found = qualities.read(directory, trained.manifest.encoder)
    except ArtefactUnusable as error:
        raise source.error(f"artefact: {error}", "artefact") from error
    for name in barred:
        unknown = [
            model for model in many(registry.routes[name].candidates) if model not in found.quality.models
        ]
        if unknown:
            raise source.error(
                f"{directory} predicts no quality of {', '.join(unknown)} (expected every candidate of "
                f"`{name}`; it knows {', '.join(found.quality.models)}): train with outcomes of them",
                "routes", name, "quality_bar",
            )  # fmt: skip
    return found


def _more_examples(source: Source, name: str, route: RouteSettings, files: Files) -> list[str]:
    if not route.examples_file:
        return []
    path = Path(source.file).parent / route.examples_file
    line = source.line("routes", name, "examples_file")
    try:
        lines = files.read(path, source.file, line).splitlines()
    except RegistryError as error:
        source.keep(error)
        return []
    return [text.strip() for text in lines if text.strip()]


def _typed(source: Source) -> Registry:
    """Convert the plain value, mapping by mapping, since msgspec's error paths name no keys."""
    value = dict(source.value)
    models = _sections(source, value, "models", Model)
    routes = _sections(source, value, "routes", RouteSettings)
    cascades = _sections(source, value, "cascades", Cascade)
    gates = _sections(source, value, "gates", Gate)
    for key in ("models", "routes", "cascades", "gates"):
        value[key] = {}
    try:
        whole = _convert(source, value, Registry, ())
    except RegistryError as error:
        source.keep(error)
        raise source.mistakes() from error
    sections: Mapping[str, Mapping[str, Section]] = {
        "models": models,
        "routes": routes,
        "cascades": cascades,
        "gates": gates,
    }
    if any(len(typed) < len(source.value.get(key, {})) for key, typed in sections.items()):
        source.refuse()  # what names an entry that is left out would be taken for a mistake
    source.settle()
    routes = {name: _beginning(route, cascades) for name, route in routes.items()}
    return msgspec.structs.replace(whole, models=models, routes=routes, cascades=cascades, gates=gates)


def _beginning(route: RouteSettings, cascades: Mapping[str, Cascade]) -> RouteSettings:
    """``route`` with its candidates, which are all tiers of its cascade where it names none."""
    if route.candidates or route.cascade not in cascades:
        return route
    models = dict.fromkeys(tier.model for tier in cascades[route.cascade].tiers)
    return msgspec.structs.replace(route, candidates=list(models))


def _sections(source: Source, value: dict[str, Any], key: str, kind: type[S]) -> dict[str, S]:
    entries = value.get(key, {})
    if not isinstance(entries, dict):
        raise source.error(f"{key}: must be a mapping from names to {key}; got {_kind(entries)}", key)
    typed: dict[str, S] = {}
    for name, entry in entries.items():
        with source.collecting():
            typed[name] = _convert(source, entry, kind, (key, name))
    return typed


def _convert(source: Source, value: Any, kind: type[S], at: Steps) -> S:
    """The typed value, without keys that are mistakes, which the source keeps.

    Raises ``RegistryError`` where it cannot be typed without them.
    """
    left_out: dict[Steps, RegistryError] = {}
    while True:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            mistake, path, lacks_key = _mistake(source, type_mistake(error, kind), kind, at)
        if lacks_key:
            # For a key beside it that is left out: that may be misspelt, or its value wrong.
            mistake = next((kept for key, kept in left_out.items() if key[:-1] == path), mistake)
        if not path or not isinstance(path[-1], str) or path in left_out:
            raise mistake
        source.keep(mistake)
        left_out[path] = mistake
        value = _without(value, path)


def _mistake(
    source: Source, found: TypeMistake, kind: type[Section], at: Steps
) -> tuple[RegistryError, Steps, bool]:
    """The error, the path below ``at`` of the value that is wrong, and whether it lacks a key."""
    if found.unknown:
        path = (*found.path, found.unknown)
        return source.error(_unknown_key(found.unknown, keys_at(kind, found.path)), *at, *path), path, False
    where = ".".join(str(step) for step in (*at, *found.path))
    problem = f"{where}: {found.problem}" if where else found.problem
    return source.error(problem, *at, *found.path), found.path, bool(found.missing)


def _without(value: Any, path: Steps) -> Any:
    """A copy of plain values without the one at ``path``, which ends with a key."""
    step, *rest = path
    copy = value.copy()
    if rest:
        copy[step] = _without(value[step], tuple(rest))
    else:
        del copy[step]
    return copy


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return f"unknown key `{key}` ({hint}expected one of: {', '.join(known)})"


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), f"{value!r}")
