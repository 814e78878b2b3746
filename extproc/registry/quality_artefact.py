"""Predicted quality on disk: `quality.npz` and `quality.json`, beside the artefact's own two files.

`registry.weights_bundle` writes and reads the files.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import ArtefactUnusable
from extproc.registry.weights_bundle import Arrays, Bundle
from extproc.routing.predicted_quality import FOLDED, NAMES, Familiarity, Quality, QualityHead
from extproc.routing.trained_heads import Standard
from extproc.vocabulary import ModelName

MANIFEST, WEIGHTS = "quality.json", "quality.npz"
FORMAT = 2  # raise it when a reader of the former one would misread the new, or reads texts otherwise


class QualityManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Describes predicted quality: the models, the data and its quality on rows outside of training."""

    format: int
    encoder: str  # whose layers it reads
    models: tuple[str, ...]
    deep: bool  # inner layers are read
    data_sha256: str
    seed: int
    texts: int
    labels: dict[str, int]  # of each model
    penalty: float  # on each model's own weights
    trust: dict[str, float]  # in the head: far, near, most (see `routing.predicted_quality.Familiarity`)
    metrics: dict[str, Any]
    matched_by: dict[str, tuple[str, ...]] = {}  # by model, those whose quality it did not exceed
    weights_sha256: str = ""


class TrainedQuality(msgspec.Struct, frozen=True):
    """Predicted quality in memory."""

    manifest: QualityManifest
    quality: Quality


_FILES = Bundle(
    manifest=MANIFEST,
    weights=WEIGHTS,
    kind=QualityManifest,
    format=FORMAT,
    command="extproc train --outcomes",
    manifest_words="a manifest of predicted quality",
    weights_words="predicted quality",
)


def write(directory: Path, manifest: QualityManifest, quality: Quality) -> None:
    """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
    _FILES.write(directory, manifest, _arrays(quality))


def remove(directory: Path) -> None:
    """Delete both files, for an artefact that was trained without outcomes."""
    _FILES.remove(directory)


def read(directory: Path) -> TrainedQuality:
    """Predicted quality. Raises ``ArtefactUnusable``."""
    manifest = _FILES.read_manifest(directory)
    return _FILES.read_weights(
        directory, manifest, lambda arrays: TrainedQuality(manifest, _quality(manifest, arrays))
    )


def check_encoder(quality: TrainedQuality, encoder: str) -> None:
    """Raises ``ArtefactUnusable`` if predicted quality was trained on vectors of another encoder."""
    if quality.manifest.encoder != encoder:
        raise ArtefactUnusable(
            f"predicted quality was trained on vectors of {quality.manifest.encoder}; expected {encoder} "
            "(train it again with `extproc train --outcomes`)"
        )


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
        "known": quality.familiarity.prompts.astype(np.float16),
        "plain_slope": quality.familiarity.slope,
        "plain_bias": quality.familiarity.bias,
    }


def _quality(manifest: QualityManifest, arrays: Arrays) -> Quality:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    layers, models = len(arrays["layer_centre"]), len(manifest.models)
    width = layers + len(NAMES) + 2 * FOLDED
    shapes = {
        "layer_scale": (layers,), "surface_centre": (len(NAMES),), "surface_scale": (len(NAMES),),
        "weights": (width, models), "bias": (models,), "mean": (models,), "length": (width,),
        "tokens": (models,), "plain_slope": (models,), "plain_bias": (models,),
        "known": (len(arrays["known"]), arrays["known"].shape[-1]),
    }  # fmt: skip
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"`{name}` has shape {arrays[name].shape}, expected {shape}")
    if not all(np.isfinite(array).all() for name, array in arrays.items() if name != "tokens"):
        raise ValueError("it has numbers that are not finite")
    trust = manifest.trust
    familiarity = Familiarity(
        arrays["known"].astype(np.float32), trust["far"], trust["near"], trust["most"],
        arrays["plain_slope"], arrays["plain_bias"],
    )  # fmt: skip
    standard = Standard(arrays["layer_centre"], arrays["layer_scale"], int(arrays["blocks"].item()))
    return Quality(
        models=tuple(map(ModelName, manifest.models)),
        reading=QualityHead(standard, manifest.deep, arrays["surface_centre"], arrays["surface_scale"]),
        weights=arrays["weights"],
        bias=arrays["bias"],
        mean=arrays["mean"],
        length=arrays["length"],
        tokens=arrays["tokens"],
        familiarity=familiarity,
        matched_by={
            ModelName(model): tuple(map(ModelName, others)) for model, others in manifest.matched_by.items()
        },
    )
