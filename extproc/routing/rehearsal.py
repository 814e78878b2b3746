"""Decides texts outside of traffic, with the same stages, to measure a snapshot.

Rules, scorer and floors run as they do for traffic. Only the embeddings are computed before, in batches,
and the fast path is off.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from extproc.errors import Denied, NotCleared, OperatorError, Unsafe
from extproc.routing.llm_question import DoubtResolver
from extproc.routing.pipeline import Pipeline
from extproc.routing.rollout import Rollout
from extproc.routing.safety_head import pieces_of
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Api, ChatRequest, Decision, Embedding, Question, Reason, RequestHead

_PATIENCE_S = 60.0  # the decision's budget: a measurement must not depend on how busy the machine is
_FAILURES = frozenset({Reason.DEADLINE, Reason.OVERLOADED, Reason.ENCODER_ERROR, Reason.INTERNAL_ERROR})


async def rehearse(
    snapshot: Snapshot,
    texts: Sequence[str],
    embeddings: Mapping[str, Embedding],
    llm: DoubtResolver | None = None,
) -> list[Decision | None]:
    """The decision for each text; None if it is refused. ``embeddings`` has what ``texts_read`` gives.

    ``llm`` resolves the doubts, also where the registry only observes; without it they remain. Raises
    ``OperatorError`` if a decision failed, because a figure of the others would look too good.
    """
    # The encoder decides every text, as it does in traffic where a request has no id. The fast path is
    # left out because its watch counts traffic only, and belongs to the thread that serves.
    patient = msgspec.structs.replace(snapshot, budget_s=_PATIENCE_S, fast_path=None)
    if llm is not None:
        patient = msgspec.structs.replace(patient, rollout=Rollout())
    pipeline = Pipeline(_Remembered(embeddings), lambda _: patient, time.perf_counter, llm=llm)
    more_time = None if llm is None else _nobody_waits
    # A registry may speak one API alone, whichever that is; the route does not depend on it.
    api = Api.OPENAI_CHAT if Api.OPENAI_CHAT in snapshot.defaults else next(iter(snapshot.defaults))
    decisions: list[Decision | None] = []
    for number, text in enumerate(texts, start=1):
        try:
            decision = await pipeline.decide(plain_question(text, api), more_time)
        except (Denied, NotCleared, Unsafe):
            decisions.append(None)
            continue
        if decision.reason in _FAILURES:
            # The message may go to a log, so it does not contain the text, which may be a client's.
            raise OperatorError(f"no decision for text {number}: {decision.reason} (the log has the cause)")
        decisions.append(decision)
    return decisions


def texts_read(snapshot: Snapshot, texts: Sequence[str]) -> list[str]:
    """What the encoder reads to decide ``texts``, each text once."""
    parts = [snapshot.embedded(text, snapshot.read(text)) for text in texts]
    if snapshot.judges_by_head:
        parts += [pieces_of(plain_question(text).request) for text in texts]
    return list(dict.fromkeys(chain.from_iterable(parts)))


def plain_question(text: str, api: Api = Api.OPENAI_CHAT) -> Question:
    """A chat request with ``text`` as its only message, for model `auto`."""
    request = ChatRequest(
        api=api,
        model="auto",
        spans={},
        user_text=text,
        body_bytes=len(text.encode()),
    )
    return Question(request, RequestHead("POST", "/v1/chat/completions", {}))


async def _nobody_waits(_: float) -> None:
    """There is no Envoy to ask for more time."""


class _Remembered:
    """An ``Embedder`` of texts whose embeddings are known."""

    def __init__(self, embeddings: Mapping[str, Embedding]) -> None:
        self._embeddings = embeddings

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        return self._embeddings[text]
