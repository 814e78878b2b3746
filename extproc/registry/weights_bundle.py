"""Weights on disk with their manifest: what everything that is trained is kept in.

Written the same byte for byte from the same values, and read without pickle. The manifest is written
last and carries the hash of the weights, so that half of the two is never taken for a whole. A reader
refuses whatever it was not made for, and says what it expected.
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
    """What a manifest has, whatever it tells: ``format`` and this."""

    @property
    def weights_sha256(self) -> str:
        """Of the weights' file; empty until it is written."""
        ...


M = TypeVar("M", bound=Sealed)
T = TypeVar("T")


class Bundle(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """Two files of a directory, and how they are spoken of."""

    manifest: str  # names of the files
    weights: str
    kind: type[M]
    format: int  # of the manifests that are read
    command: str  # what writes them
    no_manifest: str  # of a file that is something else: "no manifest of ..."
    no_weights: str

    def write(self, directory: Path, manifest: M, arrays: Arrays) -> None:
        """Write both files; older ones there are replaced. Raises ``ArtefactUnusable``."""
        weights = npz(arrays)
        whole = msgspec.structs.replace(manifest, weights_sha256=hashlib.sha256(weights).hexdigest())  # type: ignore[type-var]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / self.manifest).unlink(missing_ok=True)
            _replace(directory / self.weights, weights)
            _replace(
                directory / self.manifest, msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"
            )
        except OSError as error:
            raise ArtefactUnusable(f"{directory} cannot be written: {error.strerror}") from error

    def remove(self, directory: Path) -> None:
        """Whatever lay there before."""
        (directory / self.manifest).unlink(missing_ok=True)
        (directory / self.weights).unlink(missing_ok=True)

    def read_manifest(self, directory: Path) -> M:
        """Raises ``ArtefactUnusable``."""
        path = directory / self.manifest
        content = self._read(path)
        try:
            number = msgspec.json.decode(content, type=dict[str, Any]).get("format")
            if number != self.format:
                raise ArtefactUnusable(f"{path} has format {number}; expected {self.format}")
            return msgspec.json.decode(content, type=self.kind)
        except msgspec.MsgspecError as error:
            raise ArtefactUnusable(f"{path} is {self.no_manifest}: {error}") from error

    def read_weights(self, directory: Path, manifest: M, make: Callable[[Arrays], T]) -> T:
        """What ``make`` makes of the arrays; it raises ValueError or KeyError where they do not fit.

        Raises ``ArtefactUnusable``.
        """
        path = directory / self.weights
        content = self._read(path)
        if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
            raise ArtefactUnusable(f"{path} is damaged: expected the hash of {self.manifest}")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return make(dict(arrays))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
            raise ArtefactUnusable(f"{path} is {self.no_weights}: {error}") from error

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ArtefactUnusable(
                f"{path} cannot be read ({error.strerror}): expected a directory written by `{self.command}`"
            ) from error


def npz(arrays: Arrays) -> bytes:
    """The arrays as one file. Zip members carry numpy's constant date, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """As one step, so that no reader sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
