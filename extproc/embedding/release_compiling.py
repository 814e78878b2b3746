"""From a loaded registry to the snapshot that decides, with the encoder that serves.

Examples and holdouts are embedded once: their vectors are kept on disk, each by its text's hash.
"""

from pathlib import Path

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_session import DeepEncoder, OnnxEncoder, embeddings_of
from extproc.registry.holdout_check import Passed, examine
from extproc.registry.registry_loading import LoadedRegistry
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.snapshot import Snapshot


class Compiler:
    """Compiles version after version. For one thread at a time."""

    def __init__(self, encoder: OnnxEncoder, directory: Path) -> None:
        """Vectors are kept in ``directory``; one that cannot be written costs only time."""
        self._examples = CachedEncoder(encoder, directory / "examples.npz")
        # Of their own, since they are deep: an artefact's head may read the inner layers.
        self._holdouts = CachedEncoder(DeepEncoder(encoder), directory / "holdouts.npz")

    def compiled(self, loaded: LoadedRegistry, serving: Snapshot | None) -> tuple[Snapshot, Passed | None]:
        """The snapshot, and how it did on the registry's holdout, where there is one. Blocks.

        ``serving`` is what decides now. Raises ``HoldoutFailed``, ``EncoderFailed``,
        ``ArtefactUnusable``.
        """
        snapshot = compile_snapshot(loaded, self._examples)
        if loaded.holdout is None:
            return snapshot, None
        return snapshot, examine(
            loaded.holdout, snapshot, serving, lambda texts: embeddings_of(self._holdouts.encode(texts))
        )
