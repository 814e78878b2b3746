"""Gates that name an artefact: what is read, and where a registry is told to be wrong."""

from pathlib import Path

import msgspec
import pytest

from extproc.errors import RegistryError
from extproc.registry.gate_artefact import CalibratedGate, write
from extproc.registry.gate_artefacts import calibrations
from extproc.registry.gate_settings import Gate
from extproc.registry.registry_files import Files
from extproc.registry.yaml_source import Source
from tests.registry.test_gate_artefact import gate


def read(directory: Path, text: str) -> tuple[dict[str, CalibratedGate], Files]:
    """The calibrations of a registry that has these gates."""
    source, files = Source(str(directory / "registry.yaml"), text), Files()
    gates = msgspec.convert(source.value["gates"], dict[str, Gate])
    return dict(calibrations(gates, source, files)), files


def test_an_artefact_is_found_beside_the_registry_and_is_part_of_its_version(tmp_path: Path) -> None:
    text = "gates:\n  sound: {finish: true}\n  good: {artefact: learnt}\n"
    write(tmp_path / "learnt", gate())
    found, files = read(tmp_path, text)
    assert list(found) == ["good"]
    assert found["good"].manifest.small == "small"
    changed = gate()
    manifest = msgspec.structs.replace(changed.manifest, threshold=0.6)
    write(tmp_path / "learnt", msgspec.structs.replace(changed, manifest=manifest))
    assert read(tmp_path, text)[1].version != files.version


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "artefact: nowhere",
            "artefact: .*nowhere/gate.json is not there .*`extproc gate fit --registry .*`",
        ),
        ("threshold: 0.5", "expected `artefact` to name a directory"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(RegistryError, match=rf"registry\.yaml:3: .*{problem}"):
        read(tmp_path, f"gates:\n  good:\n    {line}\n")


def test_an_artefact_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    text = "gates:\n  good: {artefact: learnt}\n"
    source, files = Source(str(tmp_path / "registry.yaml"), text), Files()
    with pytest.raises(RegistryError):
        calibrations(msgspec.convert(source.value["gates"], dict[str, Gate]), source, files)
    assert list(files.prints) == [tmp_path / "learnt" / "gate.json"]


def test_a_damaged_artefact_is_told_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "learnt", gate())
    (tmp_path / "learnt" / "gate.npz").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"registry\.yaml:2: artefact: .* is damaged"):
        read(tmp_path, "gates:\n  good: {artefact: learnt}\n")
