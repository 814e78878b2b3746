import shutil
from pathlib import Path

import msgspec
import pytest

from extproc.embedding.encoder_files import (
    DIMENSIONS,
    MANIFEST,
    MODEL,
    RECIPE,
    TOKENIZER,
    WEIGHTS,
    EncoderManifest,
    FileRecord,
    default_directory,
    graph_name,
    locate,
    sha256,
    verify,
)
from extproc.errors import EncoderMissing

NAMES = (TOKENIZER, WEIGHTS, graph_name("int8"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A complete encoder as far as files go."""
    for name in NAMES:
        (tmp_path / name).write_text(f"the content of {name}")
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(directory: Path, recipe: int = RECIPE) -> None:
    records = {
        name: FileRecord((directory / name).stat().st_size, sha256(directory / name)) for name in NAMES
    }
    manifest = EncoderManifest(MODEL, recipe, DIMENSIONS, "0" * 64, records)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def test_a_complete_directory_is_located_with_its_paths(directory: Path) -> None:
    files = locate(directory)
    assert files.tokenizer == directory / "tokenizer.json"
    assert files.weights == directory / "model.safetensors"
    assert files.graph("int8") == directory / "int8.onnx"
    assert files.manifest.dimensions == 384


def test_an_absent_directory_names_the_command_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(EncoderMissing, match=r"no encoder in .*: run `extproc model fetch`"):
        locate(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": "x"}'])
def test_a_manifest_that_is_not_one_is_refused(directory: Path, content: bytes) -> None:
    (directory / MANIFEST).write_bytes(content)
    with pytest.raises(EncoderMissing, match=r"manifest\.json cannot be read"):
        locate(directory)


def test_files_of_another_recipe_are_refused(directory: Path) -> None:
    write_manifest(directory, recipe=RECIPE + 1)
    with pytest.raises(EncoderMissing, match=f"recipe {RECIPE + 1}, not .* recipe {RECIPE}"):
        locate(directory)


def test_a_missing_file_is_named(directory: Path) -> None:
    (directory / "int8.onnx").unlink()
    with pytest.raises(EncoderMissing, match=r"int8\.onnx cannot be read"):
        locate(directory)


def test_a_file_of_another_size_is_named(directory: Path) -> None:
    with (directory / TOKENIZER).open("a") as file:
        file.write("!")
    with pytest.raises(EncoderMissing, match=r"tokenizer\.json has \d+ bytes instead of \d+"):
        locate(directory)


def test_the_original_weights_may_be_deleted_to_save_space(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    verify(locate(directory))


def test_a_changed_byte_is_found_by_verify_but_not_paid_for_by_locate(directory: Path) -> None:
    content = (directory / TOKENIZER).read_text()
    (directory / TOKENIZER).write_text(content.swapcase())
    files = locate(directory)
    with pytest.raises(EncoderMissing, match=r"tokenizer\.json is damaged"):
        verify(files)


def test_an_intact_directory_verifies_also_after_it_was_moved(directory: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(directory, tmp_path / "moved")
    verify(locate(moved))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A source tree that holds the package."""
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EXTPROC_ENCODER_DIR": "/models/e", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/models/e"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/envoy-semantic-router/all-MiniLM-L6-v2"),
        ({"EXTPROC_ENCODER_DIR": "", "XDG_CACHE_HOME": "/c"}, "/c/envoy-semantic-router/all-MiniLM-L6-v2"),
    ],
)
def test_the_environment_chooses_the_directory_of_an_installed_package(
    environ: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert default_directory(environ, tmp_path) == Path(expected)


def test_without_an_environment_it_is_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    expected = "/home/someone/.cache/envoy-semantic-router/all-MiniLM-L6-v2"
    assert default_directory({}, tmp_path) == Path(expected)


def test_a_checkout_has_its_own_directory_unless_the_environment_names_another(checkout: Path) -> None:
    assert default_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, checkout) == checkout / ".cache/encoder"
    assert default_directory({}, checkout) == checkout / ".cache/encoder"
    assert default_directory({"EXTPROC_ENCODER_DIR": "/models/e"}, checkout) == Path("/models/e")


def test_without_a_home_directory_the_error_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(EncoderMissing, match="set EXTPROC_ENCODER_DIR"):
        default_directory({"XDG_CACHE_HOME": "~nobody-of-this-name/.cache"}, tmp_path)


def test_locate_without_a_directory_asks_the_environment(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTPROC_ENCODER_DIR", str(directory))
    assert locate().directory == directory
