"""Reads a registry file into typed, checked values. Every mistake is reported with its file and line."""

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from extproc.errors import ArtefactUnusable, RegistryError
from extproc.registry import head_artefact as artefacts
from extproc.registry import holdout_check, safety_artefact
from extproc.registry import quality_artefact as qualities
from extproc.registry.cascade_settings import Cascade, Gate
from extproc.registry.checks import check
from extproc.registry.checks.cascade_checks import check_calibrations
from extproc.registry.gate_artefact import CalibratedGate, calibrations
from extproc.registry.holdout_check import HoldoutRows
from extproc.registry.model_settings import Model
from extproc.registry.registry_files import Files
from extproc.registry.schema import Registry, RouteSettings
from extproc.registry.section import Section, many
from extproc.registry.type_messages import Path as Steps
from extproc.registry.type_messages import TypeMistake, closest, did_you_mean, keys_at, stand_in, type_mistake
from extproc.registry.yaml_source import Source
from extproc.vocabulary import Version

S = TypeVar("S", bound=Section)


class LoadedRegistry(msgspec.Struct, frozen=True):
    """A registry that has passed every check, with the files that it names."""

    registry: Registry
    # By route, without routes that have none: those in the registry, then those of the examples_file.
    examples: Mapping[str, tuple[str, ...]]
    version: Version  # see ``Files.version``
    path: Path
    artefact: artefacts.Artefact | None = None  # replaces the scorer that is fitted on the examples
    safety: safety_artefact.TrainedSafety | None = None  # the head that `safety.head` names
    quality: qualities.TrainedQuality | None = None  # how well models answer; from that directory
    holdout: HoldoutRows | None = None  # rows that it must route well enough
    gates: Mapping[str, CalibratedGate] = {}  # by gate, of the gates that name an artefact


def load(
    path: Path, files: Files | None = None, *, untrained: bool = False, artefact: Path | None = None
) -> LoadedRegistry:
    """Read, type and cross-check the registry at ``path``. ``files`` records every file that is read.

    ``untrained`` skips all artefacts, so that a command can train them. ``artefact`` is a directory that
    replaces the registry's own.

    Raises ``RegistryError`` with every mistake: the file, the line and what was expected.
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
    if not untrained and not source.is_unread("artefact"):
        with source.collecting():
            trained = _artefact(source, registry, files)
            quality = _quality(source, registry, trained, files)
    safety = None
    if not untrained and not source.is_unread("safety"):
        with source.collecting():
            safety = safety_artefact.load(source, registry, files)
    if not untrained:
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
        safety=safety,
    )


def _artefact(source: Source, registry: Registry, files: Files) -> artefacts.Artefact | None:
    """The artefact of the registry, if it names one.

    The version covers its manifest, which has the hash of its weights.
    """
    if not registry.artefact:
        if registry.fast_path is not None:
            raise source.error(
                "fast_path: needs an artefact (expected `artefact` to name a directory from `extproc train`)",
                "fast_path",
            )
        return None
    directory, found = Path(source.file).parent / registry.artefact, None
    if _has_quality_only(directory):
        files.watch(directory / artefacts.MANIFEST)
        lacks = f"{directory} only has predicted quality (expected an artefact of `extproc train --data`)"
    else:
        found, lacks = _head(source, registry, directory, files)
    if registry.fast_path is not None and lacks:
        raise source.error(f"fast_path: {lacks}", "fast_path")
    return found


def _head(
    source: Source, registry: Registry, directory: Path, files: Files
) -> tuple[artefacts.Artefact | None, str]:
    """The trained head, None if training kept the default scorer; and why there is no fast path, if so."""
    files.read(directory / artefacts.MANIFEST, source.file, source.line("artefact"))
    try:
        if artefacts.keeps_default(directory):
            return None, (
                f"training kept the default scorer in {directory}, which has no fast path (remove "
                "`fast_path`, or add labelled rows and train again)"
            )
        found = artefacts.read(directory, tuple(registry.routes))
    except ArtefactUnusable as error:
        raise source.error(f"artefact: {error}", "artefact") from error
    return found, "" if found.words else (
        "the artefact was trained without a fast path (train it again: `extproc train` adds one when the "
        "registry has `fast_path`)"
    )


def _has_quality_only(directory: Path) -> bool:
    """Whether `extproc train` had outcomes and no labelled rows. The examples then decide routes."""
    return (directory / qualities.MANIFEST).exists() and not (directory / artefacts.MANIFEST).exists()


def _quality(
    source: Source, registry: Registry, trained: artefacts.Artefact | None, files: Files
) -> qualities.TrainedQuality | None:
    """Predicted quality, which routes with a ``quality_bar`` need for each of their candidates."""
    barred = [name for name, route in registry.routes.items() if route.quality_bar is not None]
    if not registry.artefact:
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
        found = qualities.read(directory)
        if trained is not None:
            qualities.check_encoder(found, trained.manifest.encoder)
    except ArtefactUnusable as error:
        raise source.error(f"artefact: {error}", "artefact") from error
    for name in barred:
        unknown = [
            model for model in many(registry.routes[name].candidates) if model not in found.quality.models
        ]
        if unknown:
            raise source.error(
                f"{directory} does not predict the quality of {', '.join(unknown)}, only of "
                f"{', '.join(found.quality.models)} (train with outcomes of every candidate of `{name}`)",
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
        source.leave_out(error, "routes", name, "examples_file")
        return []
    return [text.strip() for text in lines if text.strip()]


def _typed(source: Source) -> Registry:
    """Convert the plain values. Named entries are converted one by one, so that errors name their keys."""
    value = dict(source.value)
    models = _sections(source, value, "models", Model)
    routes = _sections(source, value, "routes", RouteSettings)
    cascades = _sections(source, value, "cascades", Cascade)
    gates = _sections(source, value, "gates", Gate)
    sections: Mapping[str, Mapping[str, Section]] = {
        "models": models,
        "routes": routes,
        "cascades": cascades,
        "gates": gates,
    }
    whole = _convert(source, {**value, **{key: {} for key in sections}}, Registry, ())
    if not all(isinstance(value.get(key, {}), dict) for key in sections):
        source.refuse()  # or each use of a name from that section would be a mistake, too
    routes = {name: _with_candidates(route, cascades, models) for name, route in routes.items()}
    return msgspec.structs.replace(whole, models=models, routes=routes, cascades=cascades, gates=gates)


def _with_candidates(
    route: RouteSettings, cascades: Mapping[str, Cascade], models: Mapping[str, Model]
) -> RouteSettings:
    """``route`` with candidates. Without any, they are all tiers of its cascade."""
    if route.candidates or route.cascade not in cascades:
        return route
    tiers = dict.fromkeys(tier.model for tier in cascades[route.cascade].tiers)
    return msgspec.structs.replace(route, candidates=[model for model in tiers if model in models])


def _sections(source: Source, value: dict[str, Any], key: str, kind: type[S]) -> dict[str, S]:
    entries = value.get(key, {})
    if not isinstance(entries, dict):
        mistake = source.error(f"{key}: must be a mapping from names to {key}; got {_kind(entries)}", key)
        source.leave_out(mistake, key)
        return {}
    return {name: _convert(source, entry, kind, (key, name)) for name, entry in entries.items()}


def _convert(source: Source, value: Any, kind: type[S], at: Steps) -> S:
    """The typed value, with defaults or stand-ins for what cannot be read.

    The source collects the mistakes.
    """
    while True:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            found = type_mistake(error, kind)
        if found.unknown:
            known, given = keys_at(kind, found.path), reduce(getitem, found.path, value)
            path = (*found.path, found.unknown)
            meant = closest(found.unknown, [key for key in known if key not in given]) or found.unknown
            mistake = source.error(_unknown_key(found.unknown, known), *at, *path)
            source.leave_out(mistake, *at, *found.path, meant)
            value = _without(value, path)
        elif found.missing:
            path = (*found.path, found.missing)
            if not source.is_unread(*at, *path):
                source.leave_out(_mistake(source, found, at), *at, *path)
            value = _with(value, path, stand_in(kind, path))
        else:
            source.leave_out(_mistake(source, found, at), *at, *found.path)
            value = _without_mistake(value, kind, found.path)


def _mistake(source: Source, found: TypeMistake, at: Steps) -> RegistryError:
    where = ".".join(str(step) for step in (*at, *found.path))
    return source.error(f"{where}: {found.problem}" if where else found.problem, *at, *found.path)


def _without_mistake(value: Any, kind: type[Section], path: Steps) -> Any:
    """``value`` without what is wrong at ``path``: a key goes, an item of a list is replaced.

    A list goes with its item if nothing can stand in for the item.
    """
    if path and isinstance(path[-1], str):
        return _without(value, path)
    try:
        return _with(value, path, stand_in(kind, path))
    except LookupError:
        return _without_mistake(value, kind, path[:-1])


def _without(value: Any, path: Steps) -> Any:
    """A copy of the plain values without the key at the end of ``path``."""
    step, *rest = path
    copy = value.copy()
    if rest:
        copy[step] = _without(value[step], tuple(rest))
    else:
        del copy[step]
    return copy


def _with(value: Any, path: Steps, new: Any) -> Any:
    """A copy of the plain values with ``new`` at ``path``."""
    if not path:
        return new
    step, *rest = path
    copy = value.copy()
    copy[step] = _with(value[step], tuple(rest), new) if rest else new
    return copy


def _unknown_key(key: str, known: list[str]) -> str:
    return f"unknown key `{key}` ({did_you_mean(key, known)}expected one of: {', '.join(known)})"


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), f"{value!r}")
