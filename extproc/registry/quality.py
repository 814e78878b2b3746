"""Predicted quality on disk: `quality.npz` and `quality.json`, beside the artefact's own two files.

They follow the conventions of `registry.artefact`: the manifest is written last and holds the hash of
the weights, the same values give the same bytes, and whatever does not fit is refused.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import ArtefactUnusable
from extproc.registry.artefact import npz, read_bytes, replace
from extproc.routing.heads import Standard
from extproc.routing.quality import FOLDED, Quality, Reading
from extproc.routing.surface import NAMES

MANIFEST, WEIGHTS = "quality.json", "quality.npz"
FORMAT = 1  # raise it when a reader of the former one would misread the new, or reads texts otherwise


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was learnt of whom, and how good it was on rows that it had not seen."""

    format: int
    encoder: str  # whose layers it reads
    models: tuple[str, ...]
    deep: bool  # inner layers are read
    data_sha256: str
    seed: int
    texts: int
    labels: dict[str, int]  # of each model
    penalty: float  # on each model's own weights
    metrics: dict[str, Any]
    weights_sha256: str = ""


class Trained(msgspec.Struct, frozen=True):
    """Predicted quality in memory."""

    manifest: Manifest
    quality: Quality


def write(directory: Path, manifest: Manifest, quality: Quality) -> None:
    """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
    weights = npz(_arrays(quality))
    whole = msgspec.structs.replace(manifest, weights_sha256=hashlib.sha256(weights).hexdigest())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove(directory)
        replace(directory / WEIGHTS, weights)
        replace(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
    except OSError as error:
        raise ArtefactUnusable(f"{directory} cannot be written: {error.strerror}") from error


def remove(directory: Path) -> None:
    """An artefact trained without outcomes predicts no quality, whatever lay there before."""
    (directory / MANIFEST).unlink(missing_ok=True)
    (directory / WEIGHTS).unlink(missing_ok=True)


def read(directory: Path, encoder: str) -> Trained:
    """Predicted quality for vectors of this encoder. Raises ``ArtefactUnusable``."""
    manifest = _manifest(directory)
    if manifest.encoder != encoder:
        raise ArtefactUnusable(
            f"{directory / MANIFEST} was trained on vectors of {manifest.encoder}; expected {encoder}: "
            "train both anew"
        )
    content = read_bytes(directory / WEIGHTS)
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise ArtefactUnusable(f"{directory / WEIGHTS} is damaged: expected the hash of {MANIFEST}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            quality = _quality(manifest, dict(arrays))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactUnusable(f"{directory / WEIGHTS} is no predicted quality: {error}") from error
    return Trained(manifest, quality)


def _manifest(directory: Path) -> Manifest:
    content = read_bytes(directory / MANIFEST, "extproc train --outcomes")
    try:
        number = msgspec.json.decode(content, type=dict[str, Any]).get("format")
        if number != FORMAT:
            raise ArtefactUnusable(f"{directory / MANIFEST} has format {number}; expected {FORMAT}")
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ArtefactUnusable(f"{directory / MANIFEST} is no manifest of quality: {error}") from error


def _arrays(quality: Quality) -> dict[str, NDArray[Any]]:
    reading = quality.reading
    return {
        "layer_centre": reading.standard.centre,
        "layer_scale": reading.standard.scale,
        "blocks": np.array(reading.standard.blocks, np.int64),
        "surface_centre": reading.centre,
        "surface_scale": reading.scale,
        "weights": quality.weights,
        "bias": quality.bias,
        "mean": quality.mean,
        "length": quality.length,
        "tokens": quality.tokens,
    }


def _quality(manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> Quality:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    layers, models = len(arrays["layer_centre"]), len(manifest.models)
    width = layers + len(NAMES) + 2 * FOLDED
    shapes = {
        "layer_scale": (layers,), "surface_centre": (len(NAMES),), "surface_scale": (len(NAMES),),
        "weights": (width, models), "bias": (models,), "mean": (models,), "length": (width,),
        "tokens": (models,),
    }  # fmt: skip
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"`{name}` has shape {arrays[name].shape}, expected {shape}")
    if not all(np.isfinite(array).all() for name, array in arrays.items() if name != "tokens"):
        raise ValueError("it holds numbers that are not finite")
    standard = Standard(arrays["layer_centre"], arrays["layer_scale"], int(arrays["blocks"].item()))
    return Quality(
        models=manifest.models,
        reading=Reading(standard, manifest.deep, arrays["surface_centre"], arrays["surface_scale"]),
        weights=arrays["weights"],
        bias=arrays["bias"],
        mean=arrays["mean"],
        length=arrays["length"],
        tokens=arrays["tokens"],
    )
