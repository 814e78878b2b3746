"""The artefacts that a registry's gates name."""

from collections.abc import Mapping
from pathlib import Path

from extproc.errors import ArtefactUnusable
from extproc.registry import gate_artefact
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.gate_settings import Gate
from extproc.registry.registry_files import Files
from extproc.registry.yaml_source import Source


def calibrations(gates: Mapping[str, Gate], source: Source, files: Files) -> Mapping[str, CalibratedGate]:
    """The calibrated gate of each that names one, relative to the registry file. Raises ``RegistryError``.

    A manifest, which holds the hash of its weights, stands for all of its artefact in the version.
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
    manifest = directory / gate_artefact.MANIFEST
    if not manifest.exists():
        files.watch(manifest)  # whoever follows the registry takes it once it is there
        raise source.error(
            f"artefact: {manifest} is not there (expected what `extproc gate fit --registry {source.file} "
            f"--data ANSWERS --small MODEL --large MODEL --out {directory}` writes)",
            *at,
        )
    files.read(manifest, source.file, source.line(*at))
    try:
        return gate_artefact.read(directory)
    except ArtefactUnusable as error:
        raise source.error(f"artefact: {error}", *at) from error
