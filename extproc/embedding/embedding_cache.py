"""A cache of embeddings on disk, so that a restart does not encode the registry's examples again."""

import hashlib
import logging
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from extproc.vocabulary import Encoder

logger = logging.getLogger("extproc.embedding")

MAX_ENTRIES = 20_000  # 30 MB at 384 dimensions

_DIGEST_BYTES = 32
_Vectors = dict[bytes, NDArray[np.float32]]


class CachedEncoder:
    """A ``vocabulary.Encoder`` that caches the vectors of another one on disk.

    The file contains one encoder's vectors by the SHA-256 of their texts. It is read at the first call, and
    written whenever a text was missing. A damaged file, or one of another encoder, is rebuilt. If it cannot
    be written, only time is lost. For one thread at a time. Of several processes, the last one to write wins.
    """

    def __init__(self, encoder: Encoder, path: Path, max_entries: int = MAX_ENTRIES) -> None:
        """``path`` is the file (.npz). It and its directory may be absent."""
        self._encoder = encoder
        self._path = path
        self._max_entries = max_entries
        self._vectors: _Vectors | None = None  # the least recently used first
        self._writable = True

    @property
    def name(self) -> str:
        """The name of the cached encoder."""
        return self._encoder.name

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``vocabulary.Encoder``. Only texts that are not cached are encoded."""
        if not texts:
            return self._encoder.encode(texts)
        if self._vectors is None:
            self._vectors = _read(self._path, self.name)
        keys = [_digest(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        if missing:
            encoded = self._encoder.encode(list(missing.values()))
            self._vectors.update(zip(missing, encoded, strict=True))
        result = np.stack([self._vectors[key] for key in keys])
        if missing:
            self._vectors = _most_recent(self._vectors, keys, self._max_entries)
            self._write(self._vectors)
        return result

    def _write(self, vectors: _Vectors) -> None:
        if not self._writable:
            return
        try:
            _write(self._path, self.name, vectors)
        except OSError as error:
            self._writable = False
            logger.warning("embeddings are not cached: %s", error)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _most_recent(vectors: _Vectors, used: Iterable[bytes], limit: int) -> _Vectors:
    """At most ``limit`` vectors, the most recently used ones."""
    just_used = dict.fromkeys(used)
    order = [key for key in vectors if key not in just_used] + list(just_used)
    return {key: vectors[key] for key in order[-limit:]}


def _read(path: Path, encoder: str) -> _Vectors:
    try:
        with path.open("rb") as file:
            return _vectors_of(np.load(file, allow_pickle=False), encoder)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("embedding cache %s is ignored and rebuilt: %s", path, error)
        return {}


def _vectors_of(loaded: object, encoder: str) -> _Vectors:
    """Raises ValueError or KeyError if the file is not a cache of this encoder."""
    if not isinstance(loaded, NpzFile):
        raise ValueError("not an embedding cache")
    with loaded:
        owner, digests, vectors = loaded["encoder"], loaded["digests"], loaded["vectors"]
    if str(owner) != encoder:
        raise ValueError(f"it has vectors of {owner}, not of {encoder}")
    if digests.shape != (len(vectors), _DIGEST_BYTES) or vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError("its arrays do not fit each other")
    keys = digests.astype(np.uint8, copy=False).tobytes()
    starts = range(0, len(keys), _DIGEST_BYTES)
    return {keys[start : start + _DIGEST_BYTES]: vectors[row] for row, start in enumerate(starts)}


def _write(path: Path, encoder: str, vectors: _Vectors) -> None:
    """Replace the file in one step, so that no reader sees a part of it."""
    digests = np.frombuffer(b"".join(vectors), np.uint8).reshape(-1, _DIGEST_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".caching-", dir=path.parent) as aside:
        made = Path(aside) / path.name
        with made.open("wb") as file:
            np.savez(
                file,
                encoder=np.array(encoder),
                digests=digests,
                vectors=np.stack(list(vectors.values())),
            )
        made.replace(path)
