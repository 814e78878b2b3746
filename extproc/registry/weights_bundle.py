"""Writes and reads a trained artefact: a file of weights and a manifest.

The same values give the same bytes, and reading never unpickles. The manifest is written last and has the
hash of the weights, so a reader detects an incomplete or mixed pair. A reader rejects a format or a file
that it does not know, and says what it expected.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import ArtefactUnusable

Arrays = Mapping[str, NDArray[Any]]


class Sealed(Protocol):
    """What every manifest has, besides ``format``."""

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file of weights; empty until it is written."""
        ...


M = TypeVar("M", bound=Sealed)
T = TypeVar("T")


class Bundle(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """The two files of one kind of artefact, and the words for them in error messages."""

    manifest: str  # names of the files
    weights: str
    kind: type[M]
    format: int  # of the manifests that are read
    command: str  # what writes them
    manifest_words: str  # what a wrong file is called
    weights_words: str

    def write(self, directory: Path, manifest: M, arrays: Arrays) -> None:
        """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
        weights = npz(arrays)
        whole = msgspec.structs.replace(manifest, weights_sha256=hashlib.sha256(weights).hexdigest())  # type: ignore[type-var]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / self.manifest).unlink(missing_ok=True)
            _replace(directory / self.weights, weights)
        except OSError as error:
            raise ArtefactUnusable(f"cannot write to {directory}: {error.strerror}") from error
        self.write_manifest(directory, whole)

    def write_manifest(self, directory: Path, manifest: M) -> None:
        """Write the manifest alone. Raises ``ArtefactUnusable``."""
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _replace(directory / self.manifest, text)
        except OSError as error:
            raise ArtefactUnusable(f"cannot write to {directory}: {error.strerror}") from error

    def remove(self, directory: Path) -> None:
        """Delete both files if they exist. Raises ``ArtefactUnusable``."""
        try:
            (directory / self.manifest).unlink(missing_ok=True)
            (directory / self.weights).unlink(missing_ok=True)
        except OSError as error:
            raise ArtefactUnusable(f"cannot write to {directory}: {error.strerror}") from error

    def read_manifest(self, directory: Path) -> M:
        """Raises ``ArtefactUnusable``."""
        path = directory / self.manifest
        content = self._read(path)
        try:
            number = msgspec.json.decode(content, type=dict[str, Any]).get("format")
            if number != self.format:
                raise ArtefactUnusable(
                    f"{path} has format {number}; expected {self.format} "
                    f"(create it again with `{self.command}`)"
                )
            return msgspec.json.decode(content, type=self.kind)
        except msgspec.MsgspecError as error:
            raise ArtefactUnusable(f"{path} is not {self.manifest_words}: {error}") from error

    def read_weights(self, directory: Path, manifest: M, make: Callable[[Arrays], T]) -> T:
        """The result of ``make`` for the arrays. It raises ValueError or KeyError if they do not fit.

        Raises ``ArtefactUnusable``.
        """
        path = directory / self.weights
        content = self._read(path)
        if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
            raise ArtefactUnusable(
                f"{path} is damaged: its hash is not the one in {self.manifest} "
                f"(create both again with `{self.command}`)"
            )
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return make(dict(arrays))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
            raise ArtefactUnusable(f"{path} is not {self.weights_words}: {error}") from error

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ArtefactUnusable(
                f"cannot read {path}: {error.strerror} (expected a directory written by `{self.command}`)"
            ) from error


def npz(arrays: Arrays) -> bytes:
    """The arrays as one zip file. Its members have a constant date, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Replace the file atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
