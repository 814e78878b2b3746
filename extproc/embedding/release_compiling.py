"""Compiles a loaded registry into a release, with the encoder that serves.

Examples and holdouts are embedded once. Their vectors are cached on disk by the hash of the text.
"""

from collections.abc import Sequence
from pathlib import Path

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_session import DeepEncoder, OnnxEncoder, embeddings_of
from extproc.registry.holdout_check import examine
from extproc.registry.registry_loading import LoadedRegistry
from extproc.registry.releases import Release, release_of
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.vocabulary import Embedding


class Compiler:
    """Compiles version after version. For one thread at a time."""

    def __init__(self, encoder: OnnxEncoder, directory: Path) -> None:
        """``directory`` is that of the caches. If it cannot be written, only time is lost."""
        self._static = encoder.static
        self._examples = CachedEncoder(encoder, directory / "examples.npz")
        # A separate cache, because an artefact's head may read the inner layers.
        self._holdouts = CachedEncoder(DeepEncoder(encoder), directory / "holdouts.npz")

    def compiled(self, loaded: LoadedRegistry, serving: Release | None) -> Release:
        """The release of ``loaded``, once it has passed the registry's holdout, if there is one. Blocks.

        ``serving`` is what decides now. This changes nothing that serves. Raises ``HoldoutFailed``,
        ``EncoderFailed``, ``ArtefactUnusable``.
        """
        snapshot, passed = compile_snapshot(loaded, self._examples, self._static), None
        if loaded.holdout is not None:
            passed = examine(loaded.holdout, snapshot, serving.snapshot if serving else None, self._deep)
        return release_of(loaded, snapshot, passed)

    def _deep(self, texts: Sequence[str]) -> Sequence[Embedding]:
        return embeddings_of(self._holdouts.encode(texts))
