"""The encoder's files: their directory, and whether they are complete.

tokenizer.json        the published tokenizer
model.safetensors     the original weights; only a later conversion needs them
word_embeddings.bin   float32, shared by the int8 and fp32 graphs and mapped into memory
int8.onnx  fp32.onnx  fp16.onnx
static_tokens.npy     float16, a vector for each token, mapped into memory (see ``static_encoder``)
static_documents.npy  float32, the kinds of sentences in documents
centre.npy            float32, subtracted from the vectors of multilingual-e5-small, which has e5-small-q4.bin
                      as its weights and no static vectors
manifest.json         written last: the model, its source, and the hashes of the files
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from extproc.embedding.encoder_models import MINILM, MINILM_WEIGHTS, MODELS, EncoderModel
from extproc.errors import EncoderMissing

MODEL = MINILM.name
DIMENSIONS = 384
INNER_DIMENSIONS = 768  # of the concatenated vectors of the inner layers
RECIPE = MINILM.recipe

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = MINILM_WEIGHTS
WORDS = "word_embeddings.bin"
STATIC_TOKENS = "static_tokens.npy"
STATIC_DOCUMENTS = "static_documents.npy"
CENTRE = "centre.npy"

Precision = Literal["int8", "fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")

_SOURCE = Path(__file__).parents[2]


class FileRecord(msgspec.Struct, frozen=True):
    """One file's size and hash when the manifest was written."""

    bytes: int
    sha256: str


class EncoderManifest(msgspec.Struct, frozen=True):
    """The content of the directory and its source."""

    model: str
    recipe: int
    dimensions: int
    wheel_sha256: str
    files: dict[str, FileRecord]


class EncoderFiles(msgspec.Struct, frozen=True):
    """A complete directory."""

    directory: Path
    manifest: EncoderManifest

    @property
    def model(self) -> EncoderModel:
        """The encoder that the files are of."""
        return MODELS[self.manifest.model]

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's definition."""
        return self.directory / TOKENIZER

    @property
    def weights(self) -> Path:
        """The original weights. An operator may delete them, because only a conversion reads them."""
        return self.directory / self.model.weights

    @property
    def static_tokens(self) -> Path:
        """The vectors of tokens."""
        return self.directory / STATIC_TOKENS

    @property
    def static_documents(self) -> Path:
        """The directions of sentences in documents."""
        return self.directory / STATIC_DOCUMENTS

    def graph(self, precision: Precision) -> Path:
        """The path of the ONNX graph in this precision."""
        return self.directory / graph_name(precision)


def graph_name(precision: Precision) -> str:
    """The file name of the graph in this precision."""
    return f"{precision}.onnx"


def default_directory(environ: Mapping[str, str], source: Path = _SOURCE, model: str = MODEL) -> Path:
    """Where every command looks for the encoder, and where ``extproc model fetch`` puts it.

    ``EXTPROC_ENCODER_DIR`` if it is set. Else, if the code runs from a checkout, its ``.cache/encoder``: two
    checkouts never share files, and ``make clean`` removes them. Else a directory of the user's cache.
    ``source`` is the directory of the ``extproc`` package. Raises ``EncoderMissing`` for a user without a
    home directory.
    """
    if chosen := environ.get("EXTPROC_ENCODER_DIR"):
        return Path(chosen)
    if (source / "pyproject.toml").is_file():  # not so in site-packages
        return source / ".cache" / ("encoder" if model == MODEL else model)
    try:
        cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:  # a user without a home, as in some containers
        raise EncoderMissing("no home directory for the encoder: set EXTPROC_ENCODER_DIR") from error
    return cache / "envoy-semantic-router" / model


def locate(directory: Path | None = None, model: str = MODEL) -> EncoderFiles:
    """The files of an encoder. The default directory is that of the environment.

    Checks the manifest and every file's size, which takes microseconds. ``verify`` checks hashes. Raises
    ``EncoderMissing`` with the problem and the command that mends it.
    """
    expected = MODELS[model]
    directory = directory or default_directory(os.environ, model=model)
    manifest = _read_manifest(directory / MANIFEST, expected.mend)
    if (manifest.model, manifest.recipe) != (model, expected.recipe):
        raise EncoderMissing(
            f"{directory} has {manifest.model} of recipe {manifest.recipe}, "
            f"not {model} of recipe {expected.recipe}: {expected.mend}"
        )
    for name, record in manifest.files.items():
        if name != expected.weights:
            _check_size(directory / name, record, expected.mend)
    return EncoderFiles(directory, manifest)


def verify(files: EncoderFiles) -> None:
    """Compare every file with its hash, which takes a fraction of a second.

    Raises ``EncoderMissing`` with the first file that differs.
    """
    for name, record in files.manifest.files.items():
        path = files.directory / name
        if (name != files.model.weights or path.exists()) and sha256(path) != record.sha256:
            raise EncoderMissing(f"{path} is damaged: {files.model.mend}")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path, mend: str) -> EncoderManifest:
    try:
        return msgspec.json.decode(path.read_bytes(), type=EncoderManifest)
    except FileNotFoundError as error:
        raise EncoderMissing(f"no encoder in {path.parent}: {mend}") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise EncoderMissing(f"{path} cannot be read ({error}): {mend}") from error


def _check_size(path: Path, record: FileRecord, mend: str) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise EncoderMissing(f"{path} cannot be read ({error}): {mend}") from error
    if size != record.bytes:
        raise EncoderMissing(f"{path} has {size} bytes instead of {record.bytes}: {mend}")
