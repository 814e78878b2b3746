"""Texts are decided in bulk exactly as the pipeline decides them one by one."""

import math
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.embedding.encoder_files import EncoderFiles
from extproc.errors import Denied, OperatorError
from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.measure.replay import CandidateRegistry, ReplayedDecisions, decide_all, open_candidate
from extproc.routing.pipeline import Pipeline
from extproc.routing.rehearsal import plain_question
from extproc.vocabulary import Embedding, Encoder
from tests.lab.conftest import REGISTRY

TEXTS = [
    "fix this python code",
    "hello friend",
    "quantum",
    "hello code",
    "a bug bites",
    "password: x",
    "hello friend",
]


class Direct:
    """An ``Embedder`` that asks the encoder for each text alone."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        return Embedding(self._encoder.encode([text])[0], 0, 0.0, 0.0)


def decided(candidate: CandidateRegistry) -> ReplayedDecisions:
    return decide_all(candidate.snapshot, candidate.encoder, TEXTS, candidate.routes)


async def test_every_decision_is_the_pipelines(candidate: CandidateRegistry) -> None:
    import asyncio

    bulk = await asyncio.to_thread(decided, candidate)
    pipeline = Pipeline(Direct(candidate.encoder), lambda _: candidate.snapshot, time.perf_counter)
    for i, text in enumerate(TEXTS):
        route = bulk.routes[bulk.route[i]] if bulk.route[i] != ABSTAIN else ""
        try:
            alone = await pipeline.decide(plain_question(text))
        except Denied:
            assert (route, math.isnan(bulk.margin[i])) == ("", True)
            continue
        assert route == alone.route
        for name in ("probability", "margin", "similarity"):
            expected = getattr(alone, name)
            assert getattr(bulk, name)[i] == pytest.approx(
                math.nan if expected is None else expected, nan_ok=True, abs=1e-6
            )
        assert bulk.routes[bulk.best[i]] == (alone.candidates[0].route if alone.candidates else alone.route)


def test_reasons_are_counted_with_refusals_among_them(candidate: CandidateRegistry) -> None:
    reasons = decided(candidate).reasons
    assert reasons["rule"] == 1
    assert reasons["denied"] == 1
    assert reasons["matched"] >= 3
    assert sum(reasons.values()) == len(TEXTS)


def test_routes_may_be_told_in_another_order_and_with_more_of_them(candidate: CandidateRegistry) -> None:
    bulk = decide_all(candidate.snapshot, candidate.encoder, TEXTS[:2], ("new", "greeting", "code"))
    assert bulk.route.tolist() == [2, 1]


def test_a_decision_that_fails_ends_the_measurement(candidate: CandidateRegistry) -> None:
    class Broken:
        starts = np.array([0])

        def score(self, vector: NDArray[np.float32]) -> None:
            raise ZeroDivisionError

    broken = msgspec.structs.replace(candidate.snapshot, meaning=Broken())
    with pytest.raises(OperatorError, match="no decision for text 1: internal_error"):
        decide_all(broken, candidate.encoder, TEXTS, candidate.routes)


def test_opening_a_registry_embeds_with_the_real_encoder_and_remembers(
    tmp_path: Path, encoder_files: EncoderFiles
) -> None:
    directory = tmp_path / "encoder"
    directory.mkdir()
    for file in encoder_files.directory.iterdir():
        if file.suffix != ".npz":
            (directory / file.name).symlink_to(file)
    (tmp_path / "r.yaml").write_text(REGISTRY)
    told: list[tuple[int, int]] = []
    for _ in range(2):
        opened = open_candidate(tmp_path / "r.yaml", directory, lambda *at: told.append(at))
    assert opened.routes == ("code", "greeting")
    assert told == [(6, 6)]  # the second time, everything was known
    assert len(list(directory.glob("evaluation-*.npz"))) == 1
