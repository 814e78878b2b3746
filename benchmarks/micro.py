"""Single steps of a decision, in this process: what they cost without any wire."""

import asyncio
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import workload
from extproc import apis
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.embedding_scorer import Meaning, fit_meaning
from extproc.routing.pipeline import Pipeline
from extproc.routing.scorers import fit_centroids
from extproc.vocabulary import Api, Embedding, Question, RequestHead

_DIMENSIONS = 384
_EXAMPLES = 20  # a route
_REPEATS = 5  # the best counts: what disturbs a step can only make it slower
_CALLS = 2_000


def measure(registry: Path) -> dict[str, float]:
    """Microseconds by step; ``registry`` is one that the workload wrote."""
    body = workload.chat_body("A sentence of a prompt that goes on for longer. " * 39)
    embedding = Embedding(_RandomEncoder().encode([""])[0], tokens=2, queue_s=0.0, infer_s=0.0)
    few, many = _meaning(3), _meaning(150)
    return {
        f"reading a chat body of {len(body):,} bytes": _best(lambda: apis.parse(Api.OPENAI_CHAT, body)),
        "a decision by rule": asyncio.run(_rule_decision(registry)),
        "scoring an embedding against 3 routes": _best(lambda: few.score(embedding, "")),
        "scoring an embedding against 150 routes": _best(lambda: many.score(embedding, "")),
    }


def _best(step: Callable[[], object]) -> float:
    return min(timeit.repeat(step, number=_CALLS, repeat=_REPEATS)) / _CALLS * 1e6


async def _rule_decision(registry: Path) -> float:
    snapshot = compile_snapshot(load(registry), _RandomEncoder())
    pipeline = Pipeline(_NoEmbedder(), lambda _: snapshot, time.perf_counter)
    request = apis.parse(Api.OPENAI_CHAT, workload.chat_body(workload.RULE_16))
    question = Question(request, RequestHead("POST", "/v1/chat/completions", {}))
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for _ in range(_CALLS):
            await pipeline.decide(question)
        seconds.append(time.perf_counter() - began)
    return min(seconds) / _CALLS * 1e6


def _meaning(routes: int) -> Meaning:
    """Fitted on noise: scoring takes as long. By centroids, which cost as much as the logistic scorer."""
    examples = {f"route-{route}": [f"{route}/{i}" for i in range(_EXAMPLES)] for route in range(routes)}
    return fit_meaning(examples, _RandomEncoder(), fit_centroids)


class _RandomEncoder:
    """Unit vectors of noise, the same at every run."""

    name = "noise"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``vocabulary.Encoder``."""
        vectors = np.random.default_rng(0).standard_normal((len(texts), _DIMENSIONS), np.float32)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class _NoEmbedder:
    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        """A decision by rule that asks for an embedding is a defect."""
        raise AssertionError(f"a rule should have settled {text!r}")
