"""The generated code is in every wheel and in nothing else."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
GENERATED = {
    f"extproc/_pb/{name}"
    for name in (
        "__init__.py",
        "access_log_pb2.py",
        "access_log_pb2.pyi",
        "ext_proc_pb2.py",
        "ext_proc_pb2.pyi",
    )
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of the repository as a build needs, without what is generated."""
    root = tmp_path / "checkout"
    (root / "extproc").mkdir(parents=True)
    for name in ("pyproject.toml", ".gitignore", "LICENSE", "extproc/__init__.py"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "protos", root / "protos", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "README.md").write_text("A checkout.\n")
    return root


def built(builder: SdistBuilder | WheelBuilder, into: Path, version: str = "standard") -> Path:
    return Path(next(builder.build(directory=str(into), versions=[version])))


def generated(names: list[str]) -> set[str]:
    return {name for name in names if "_pb" in name}


def test_a_wheel_has_it(checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built(WheelBuilder(str(checkout)), tmp_path)) as wheel:
        assert generated(wheel.namelist()) == GENERATED


def test_an_sdist_has_the_definitions_and_makes_the_same_wheel(checkout: Path, tmp_path: Path) -> None:
    with tarfile.open(built(SdistBuilder(str(checkout)), tmp_path)) as sdist:
        assert not generated(sdist.getnames())
        sdist.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("envoy_semantic_router-*/")
    with zipfile.ZipFile(built(WheelBuilder(str(unpacked)), tmp_path)) as wheel:
        assert generated(wheel.namelist()) == GENERATED


def test_an_editable_install_generates_it_in_place(checkout: Path, tmp_path: Path) -> None:
    built(WheelBuilder(str(checkout)), tmp_path, "editable")
    assert {str(path.relative_to(checkout)) for path in checkout.glob("extproc/_pb/*")} == GENERATED


def test_what_a_removed_definition_left_behind_is_removed(checkout: Path, tmp_path: Path) -> None:
    (checkout / "extproc" / "_pb").mkdir()
    (checkout / "extproc" / "_pb" / "gone_pb2.py").touch()
    with zipfile.ZipFile(built(WheelBuilder(str(checkout)), tmp_path)) as wheel:
        assert generated(wheel.namelist()) == GENERATED


def test_a_definition_that_does_not_compile_fails_the_build(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (checkout / "protos" / "broken.proto").write_text('syntax = "proto3";\nmessage {}\n')
    with pytest.raises(RuntimeError, match="protoc refused"):
        built(WheelBuilder(str(checkout)), tmp_path)
    assert "broken.proto:2" in capfd.readouterr().err
