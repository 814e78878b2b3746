"""A calibrated gate on disk: `gate.npz` and `gate.json`.

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

from extproc.cascade.features import AGREEMENT, NAMES
from extproc.cascade.goodness import Goodness, Logit
from extproc.errors import ArtefactUnusable
from extproc.registry.artefact import npz, read_bytes, replace

MANIFEST, WEIGHTS = "gate.json", "gate.npz"
FORMAT = 1  # raise it when a reader of the former one would misread the new, or reads answers otherwise
_COMMAND = "extproc gate fit"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Whose answers are judged, what was chosen, and how good it was on rows that fitted nothing."""

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

    manifest: Manifest
    goodness: Goodness
    fitted: NDArray[np.uint64]  # ``prompt_key`` of the prompts it was fitted on, which measure nothing


def prompt_key(prompt: str) -> int:
    """A number to know a prompt by again."""
    return int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def write(directory: Path, gate: CalibratedGate) -> None:
    """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
    manifest = gate.manifest
    weights = npz(_arrays(gate.goodness) | {"fitted": np.sort(gate.fitted)})
    whole = msgspec.structs.replace(manifest, weights_sha256=hashlib.sha256(weights).hexdigest())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MANIFEST).unlink(missing_ok=True)
        replace(directory / WEIGHTS, weights)
        replace(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
    except OSError as error:
        raise ArtefactUnusable(f"{directory} cannot be written: {error.strerror}") from error


def read(directory: Path) -> CalibratedGate:
    """The calibrated gate. Raises ``ArtefactUnusable``."""
    manifest = _manifest(directory)
    content = read_bytes(directory / WEIGHTS, _COMMAND)
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise ArtefactUnusable(f"{directory / WEIGHTS} is damaged: expected the hash of {MANIFEST}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = dict(arrays)
            gate = CalibratedGate(manifest, _goodness(found), found["fitted"].astype(np.uint64))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactUnusable(f"{directory / WEIGHTS} is no calibrated gate: {error}") from error
    return gate


def _manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    content = read_bytes(path, _COMMAND)
    try:
        number = msgspec.json.decode(content, type=dict[str, Any]).get("format")
        if number != FORMAT:
            raise ArtefactUnusable(f"{path} has format {number}; expected {FORMAT}")
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ArtefactUnusable(f"{path} is no manifest of a gate: {error}") from error
    if manifest.features != NAMES:
        raise ArtefactUnusable(f"{path} was fitted on other features of answers: fit it anew")
    return manifest


def _arrays(goodness: Goodness) -> dict[str, NDArray[Any]]:
    found = _logit_arrays("alone", goodness.alone)
    return found if goodness.paired is None else found | _logit_arrays("paired", goodness.paired)


def _logit_arrays(name: str, logit: Logit) -> dict[str, NDArray[Any]]:
    return {
        f"{name}_centre": logit.centre,
        f"{name}_scale": logit.scale,
        f"{name}_weights": np.append(logit.weights, logit.bias),
    }


def _goodness(arrays: Mapping[str, NDArray[Any]]) -> Goodness:
    """Raises ValueError or KeyError where the arrays do not fit each other."""
    beside = _logit("paired", arrays, (*NAMES, AGREEMENT)) if "paired_weights" in arrays else None
    return Goodness(_logit("alone", arrays, NAMES), beside)


def _logit(name: str, arrays: Mapping[str, NDArray[Any]], features: tuple[str, ...]) -> Logit:
    centre, scale, weights = (arrays[f"{name}_{part}"] for part in ("centre", "scale", "weights"))
    for array, length in ((centre, len(features)), (scale, len(features)), (weights, len(features) + 1)):
        if array.shape != (length,) or array.dtype != np.float64:
            raise ValueError(f"an array of {name} is {array.dtype} of shape {array.shape}, not ({length},)")
        if not np.isfinite(array).all():
            raise ValueError("it holds numbers that are not finite")
    return Logit(centre, scale, weights[:-1], float(weights[-1]))
