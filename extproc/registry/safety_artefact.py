"""A safety head on disk: a directory of `safety.npz` and `safety.json`.

`registry.weights_bundle` writes and reads the files.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import ArtefactUnusable
from extproc.registry.registry_files import Files
from extproc.registry.schema import Registry
from extproc.registry.weights_bundle import Arrays, Bundle
from extproc.registry.yaml_source import Source
from extproc.routing.safety_head import SafetyHead
from extproc.routing.trained_heads import Linear, Standard, Trained

MANIFEST, WEIGHTS = "safety.json", "safety.npz"
FORMAT = 1  # raise it when a reader of the former one would misread the new, or reads texts otherwise


class SafetyManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Describes a safety head: its classes, its encoder, and what it found on rows outside of training."""

    format: int
    encoder: str  # whose layers it reads
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]  # of the classes, in their order
    false_positives: float  # the share of ordinary rows of each set that may be taken for any class
    data_sha256: str
    seed: int
    metrics: dict[str, Any]
    weights_sha256: str = ""


class TrainedSafety(msgspec.Struct, frozen=True):
    """A safety head in memory."""

    manifest: SafetyManifest
    head: SafetyHead


_FILES = Bundle(
    manifest=MANIFEST,
    weights=WEIGHTS,
    kind=SafetyManifest,
    format=FORMAT,
    command="extproc train --safety",
    manifest_words="a manifest of a safety head",
    weights_words="a safety head",
)


def write(directory: Path, manifest: SafetyManifest, head: Trained) -> None:
    """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
    _FILES.write(directory, manifest, _arrays(head))


def read(directory: Path) -> TrainedSafety:
    """The safety head. Raises ``ArtefactUnusable``."""
    manifest = _FILES.read_manifest(directory)
    return _FILES.read_weights(directory, manifest, lambda arrays: _made(manifest, arrays))


def load(source: Source, registry: Registry, files: Files) -> TrainedSafety | None:
    """The head that the registry names; None: it names none. Raises ``RegistryError``."""
    settings = registry.safety.head if registry.safety else None
    if settings is None:
        return None
    at = ("safety", "head", "artefact")
    directory = Path(source.file).parent / settings.artefact
    files.read(directory / MANIFEST, source.file, source.line(*at))
    try:
        found = read(directory)
    except ArtefactUnusable as error:
        raise source.error(f"safety.head.artefact: {error}", *at) from error
    for name in settings.classes:
        if name not in found.manifest.classes:
            raise source.error(
                f"safety.head.classes: the artefact knows no class `{name}` (expected one of: "
                f"{', '.join(found.manifest.classes)})",
                "safety", "head", "classes", name,
            )  # fmt: skip
    return found


def check_encoder(safety: TrainedSafety, encoder: str) -> None:
    """Raises ``ArtefactUnusable`` if the head was trained on vectors of another encoder."""
    if safety.manifest.encoder != encoder:
        raise ArtefactUnusable(
            f"the safety head was trained on vectors of {safety.manifest.encoder}; expected {encoder} "
            "(train it again with `extproc train --safety`)"
        )


def _arrays(head: Trained) -> dict[str, NDArray[Any]]:
    assert head.linear is not None  # the only part that is fitted
    return {
        "centre": head.standard.centre,
        "scale": head.standard.scale,
        "blocks": np.array([head.standard.blocks], np.int64),
        "weights": head.linear.weights,
        "bias": head.linear.bias,
    }


def _made(manifest: SafetyManifest, arrays: Arrays) -> TrainedSafety:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    width, classes = len(arrays["centre"]), len(manifest.classes) + 1
    shapes = {"scale": (width,), "weights": (width, classes), "bias": (classes,), "blocks": (1,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"`{name}` has shape {arrays[name].shape}, expected {shape}")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("it has numbers that are not finite")
    if len(manifest.thresholds) != len(manifest.classes):
        raise ValueError("it has not one threshold per class")
    standard = Standard(arrays["centre"], arrays["scale"], int(arrays["blocks"].item()))
    trained = Trained(standard, linear=Linear(arrays["weights"], arrays["bias"]))
    return TrainedSafety(manifest, SafetyHead(trained, manifest.classes, manifest.thresholds))
