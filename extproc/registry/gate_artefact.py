"""A calibrated gate on disk: `gate.npz` and `gate.json`.

How they are written and read, and what is refused: see `registry.weights_bundle`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import ArtefactUnusable
from extproc.gate.answer_scoring import AGREEMENT, NAMES, Goodness, Logit
from extproc.registry.cascade_settings import Gate
from extproc.registry.registry_files import Files
from extproc.registry.weights_bundle import Arrays, Bundle
from extproc.registry.yaml_source import Source

MANIFEST, WEIGHTS = "gate.json", "gate.npz"
FORMAT = 2  # raise it when a reader of the former one would misread the new, or reads answers otherwise


class GateManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The models, the chosen thresholds, and figures on held-out rows."""

    format: int = FORMAT
    small: str  # the model whose answers are judged
    large: str  # the one that answers in its place
    second: str = ""  # the one whose answers stand beside; empty: none
    features: tuple[str, ...] = NAMES
    threshold: float  # least P(good) of an answer that is kept
    escalation: float  # share of the answers that this rejects, as configured: what an alarm compares with
    threshold_paired: float | None = None  # of an answer that has a second beside it; None: there are none
    escalation_paired: float | None = None
    target: str  # what the threshold was chosen for
    data_sha256: str
    seed: int
    rows: int
    metrics: dict[str, Any]
    weights_sha256: str = ""


class CalibratedGate(msgspec.Struct, frozen=True):
    """A calibrated gate in memory."""

    manifest: GateManifest
    goodness: Goodness
    fitted: NDArray[np.uint64]  # ``prompt_key`` of the prompts it was fitted on, which measure nothing


def prompt_key(prompt: str) -> int:
    """A number to know a prompt by again."""
    return int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:8], "big")


_FILES = Bundle(
    manifest=MANIFEST,
    weights=WEIGHTS,
    kind=GateManifest,
    format=FORMAT,
    command="extproc gate fit",
    manifest_words="the manifest of a gate",
    weights_words="a calibrated gate",
)


def write(directory: Path, gate: CalibratedGate) -> None:
    """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
    _FILES.write(directory, gate.manifest, _arrays(gate.goodness) | {"fitted": np.sort(gate.fitted)})


def read(directory: Path) -> CalibratedGate:
    """The calibrated gate. Raises ``ArtefactUnusable``."""
    manifest = _FILES.read_manifest(directory)
    if manifest.features != NAMES:
        raise ArtefactUnusable(f"{directory / MANIFEST} was fitted on other features of answers: fit it anew")
    return _FILES.read_weights(
        directory,
        manifest,
        lambda arrays: CalibratedGate(manifest, _goodness(arrays), arrays["fitted"].astype(np.uint64)),
    )


def calibrations(gates: Mapping[str, Gate], source: Source, files: Files) -> Mapping[str, CalibratedGate]:
    """The calibrated gates that ``gates`` name, relative to the registry file. Raises ``RegistryError``.

    The manifest has the hash of the weights, so the registry's version only needs the manifest.
    """
    found = {}
    for name, gate in gates.items():
        if gate.artefact:
            found[name] = _calibrated(name, gate, source, files)
        elif gate.threshold is not None:
            raise source.error(
                f"`threshold` of the gate `{name}` is of a score (expected `artefact` to name a directory "
                "from `extproc gate fit`)",
                "gates", name, "threshold",
            )  # fmt: skip
    return found


def _calibrated(name: str, gate: Gate, source: Source, files: Files) -> CalibratedGate:
    at = ("gates", name, "artefact")
    directory = Path(source.file).parent / gate.artefact
    manifest = directory / MANIFEST
    if not manifest.exists():
        files.watch(manifest)  # the registry is reloaded once it is there
        raise source.error(
            f"artefact: {manifest} is not there (expected what `extproc gate fit --registry {source.file} "
            f"--data ANSWERS --small MODEL --large MODEL --out {directory}` writes)",
            *at,
        )
    files.read(manifest, source.file, source.line(*at))
    try:
        return read(directory)
    except ArtefactUnusable as error:
        raise source.error(f"artefact: {error}", *at) from error


def _arrays(goodness: Goodness) -> dict[str, NDArray[Any]]:
    found = _logit_arrays("alone", goodness.alone)
    return found if goodness.paired is None else found | _logit_arrays("paired", goodness.paired)


def _logit_arrays(name: str, logit: Logit) -> dict[str, NDArray[Any]]:
    return {
        f"{name}_centre": logit.centre,
        f"{name}_scale": logit.scale,
        f"{name}_weights": np.append(logit.weights, logit.bias),
    }


def _goodness(arrays: Arrays) -> Goodness:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    beside = _logit("paired", arrays, (*NAMES, AGREEMENT)) if "paired_weights" in arrays else None
    return Goodness(_logit("alone", arrays, NAMES), beside)


def _logit(name: str, arrays: Arrays, features: tuple[str, ...]) -> Logit:
    centre, scale, weights = (arrays[f"{name}_{part}"] for part in ("centre", "scale", "weights"))
    for array, length in ((centre, len(features)), (scale, len(features)), (weights, len(features) + 1)):
        if array.shape != (length,) or array.dtype != np.float64:
            raise ValueError(f"an array of {name} is {array.dtype} of shape {array.shape}, not ({length},)")
        if not np.isfinite(array).all():
            raise ValueError("it holds numbers that are not finite")
    return Logit(centre, scale, weights[:-1], float(weights[-1]))
