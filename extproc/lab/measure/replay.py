"""Decide many texts at once with the pipeline that serves, and give the decisions as arrays."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import (
    DEEP,
    DeepEncoder,
    ReportingEncoder,
    calls_at_once,
    embeddings_of,
    open_encoder,
)
from extproc.lab.measure.classification_metrics import ABSTAIN, Floats, Labels
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.llm_question import DoubtResolver
from extproc.routing.rehearsal import rehearse, texts_read
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Decision, Embedding, Encoder

_CACHED = 200_000  # vectors, 300 MB
DENIED = "denied"

Progress = Callable[[int, int], None]  # done, of how many


class CandidateRegistry(msgspec.Struct, frozen=True):
    """A registry ready to be measured."""

    loaded: LoadedRegistry
    snapshot: Snapshot
    encoder: Encoder  # a `DeepEncoder` where an artefact's head reads the inner layers
    artefact: Path | None = None  # in place of the registry's own

    @property
    def name(self) -> str:
        """The registry's path, and the artefact that replaces its own."""
        return f"{self.loaded.path} with {self.artefact}" if self.artefact else str(self.loaded.path)

    @property
    def encoder_name(self) -> str:
        """The name of the encoder."""
        return self.encoder.name.removesuffix(DEEP)

    @property
    def routes(self) -> tuple[str, ...]:
        """The registry's routes, as written."""
        return tuple(self.loaded.registry.routes)


class ReplayedDecisions(msgspec.Struct, frozen=True):
    """The decisions of the pipeline, one entry for each text.

    Routes are places in ``routes``. Without an embedding (a rule decided), scores are NaN and ``best`` is the
    decided route.
    """

    routes: tuple[str, ...]
    route: Labels  # `metrics.ABSTAIN` where no route was chosen
    best: Labels  # the most probable route, above or below its floors
    probability: Floats  # of ``best``
    margin: Floats
    similarity: Floats
    in_scope: Floats
    reasons: Mapping[str, int]  # and how often each occurred
    vectors: NDArray[np.float32]  # (texts, dimensions)
    decisions: Sequence[Decision | None] = ()  # None: a deny rule matched


def open_candidate(
    registry: Path, encoder_dir: Path | None, progress: Progress, artefact: Path | None = None
) -> CandidateRegistry:
    """Load and compile a registry as `extproc serve` does; ``artefact`` replaces its own.

    Vectors are cached on disk by the hash of their text, so only new texts are encoded. Raises
    ``OperatorError`` if `serve` could not start.
    """
    loaded = load(registry, artefact=artefact)
    files = locate(encoder_dir, loaded.registry.encoder.model)
    opened = open_encoder(files, loaded.registry.encoder)
    deep = any((loaded.artefact, loaded.quality, loaded.safety))
    at_once = calls_at_once(opened, loaded.registry.encoder)
    encoder = ReportingEncoder(DeepEncoder(opened) if deep else opened, progress, at_once)
    # One file for each encoder: two registries may use two.
    path = files.directory / f"evaluation-{encoder.name.replace('/', '-')}.npz"
    cached = CachedEncoder(encoder, path, _CACHED)
    snapshot = compile_snapshot(loaded, opened if deep else cached, opened.static)
    return CandidateRegistry(loaded, snapshot, cached, artefact)


def decide_all(
    snapshot: Snapshot,
    encoder: Encoder,
    texts: Sequence[str],
    routes: tuple[str, ...],
    llm: DoubtResolver | None = None,
) -> ReplayedDecisions:
    """The decision for each text. ``llm`` resolves the doubts; without it they remain.

    ``routes`` has all routes of the snapshot and may have more. Raises ``EncoderFailed``, and
    ``OperatorError`` if a decision fails, because figures without it would be too good.
    """
    known, vectors = _embedded(snapshot, encoder, texts)
    decisions = asyncio.run(rehearse(snapshot, texts, known, llm))
    return ReplayedDecisions(
        routes=routes,
        route=_places(routes, [d.route if d else "" for d in decisions]),
        best=_places(routes, [_best(d) if d else "" for d in decisions]),
        probability=_numbers([d.probability if d else None for d in decisions]),
        margin=_numbers([d.margin if d else None for d in decisions]),
        similarity=_numbers([d.similarity if d else None for d in decisions]),
        in_scope=_numbers([d.in_scope if d else None for d in decisions]),
        reasons=Counter(str(d.reason) if d else DENIED for d in decisions),
        vectors=vectors[:, :DIMENSIONS],
        decisions=decisions,
    )


def _embedded(
    snapshot: Snapshot, encoder: Encoder, texts: Sequence[str]
) -> tuple[dict[str, Embedding], NDArray[np.float32]]:
    """The embeddings of all that the pipeline reads, and the vector of what it scores of each text."""
    read = texts_read(snapshot, texts)
    rows = encoder.encode(read)
    place = {text: number for number, text in enumerate(read)}
    scored = [place[snapshot.read(text).text] for text in texts]
    return dict(zip(read, embeddings_of(rows), strict=True)), rows[scored]


def _best(decision: Decision) -> str:
    return decision.candidates[0].route if decision.candidates else decision.route


def _places(routes: Sequence[str], names: Sequence[str]) -> Labels:
    place = {route: number for number, route in enumerate(routes)}
    return np.array([place[name] if name else ABSTAIN for name in names], np.intp)


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], np.float64)
