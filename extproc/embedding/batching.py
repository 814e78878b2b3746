"""Shares one encoder between all requests: a bounded queue and dynamic batches.

While the device is busy, texts queue. When it is free, the next batch is what has queued, up to a budget of
padded tokens. There is no timer: an idle device takes a single text at once. A text that cannot be encoded in
time is rejected before it queues (see ``encode_backlog``).
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.encode_backlog import Backlog
from extproc.errors import DecisionError, EncoderFailed, Overloaded
from extproc.vocabulary import Embedding

# The share of a caller's time within which its text must be encoded. The rest is for later stages and for
# batches that take longer than expected.
MARGIN: Final = 0.8


@dataclass(frozen=True)
class Encoded:
    """The result of one call of the encoder."""

    vectors: NDArray[np.float32]  # (texts, dimensions), unit length
    inner: NDArray[np.float32]  # (texts, inner dimensions): see vocabulary.Embedding
    tokens: NDArray[np.int32]  # (texts,), after truncation


class BatchEncoder(Protocol):
    """The blocking encoder behind the queue. It is called from one thread, one call at a time."""

    @property
    def batch_tokens(self) -> int:
        """The greatest number of padded tokens of a batch."""
        ...

    def estimate_tokens(self, text: str) -> int:
        """The approximate number of tokens of a text. Takes microseconds, because the event loop calls it."""
        ...

    def embed(self, texts: Sequence[str]) -> Encoded:
        """Tokenize and run the model. An error fails this batch and no other."""
        ...


@dataclass(frozen=True, eq=False)
class _Waiter:
    text: str
    tokens: int  # an estimate
    queued_at: float
    due: float  # the time by which it must be encoded, by the same clock
    answer: asyncio.Future[Embedding]


class BatchingEmbedder:
    """A ``vocabulary.Embedder``. It works while ``run`` runs on the same event loop."""

    def __init__(
        self, encoder: BatchEncoder, queue: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``queue``: how many texts may wait. ``clock`` returns seconds."""
        self._encoder = encoder
        self._clock = clock
        self._backlog: Backlog[_Waiter] = Backlog(queue)
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._stopped = asyncio.Event()  # set while ``run`` does not run
        self._stopped.set()
        self._closing = False

    @property
    def depth(self) -> int:
        """The number of texts that wait for the device, without those in it."""
        return len(self._backlog)

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        """See ``vocabulary.Embedder``. The text of a cancelled caller leaves the queue."""
        if self._stopped.is_set() or self._closing:
            raise Overloaded("the encoder is not running")
        now = self._clock()
        answer: asyncio.Future[Embedding] = asyncio.get_running_loop().create_future()
        due = math.inf if within_s is None else now + MARGIN * within_s
        waiter = _Waiter(text, self._encoder.estimate_tokens(text), now, due, answer)
        self._backlog.add(waiter, now)
        self._arrived.set()
        try:
            return await answer
        finally:
            self._backlog.discard(waiter)

    async def run(self) -> None:
        """Serve the queue until ``close``. One call at a time.

        An error while a batch is encoded or answered fails that batch. Any other error ends this call and
        fails the waiting texts. Then ``run`` may be called again.
        """
        self._stopped.clear()
        try:
            while not self._closing:
                await self._arrived.wait()
                self._arrived.clear()
                while not self._closing and (batch := self._take()):
                    await self._encode(batch)
        finally:
            self._stopped.set()
            _fail(self._backlog.abandon(), _not_served)

    async def close(self) -> None:
        """Fail the waiting texts, and wait until the batch in the device ends."""
        self._closing = True
        _fail(self._backlog.clear(), _shutting_down)
        self._arrived.set()
        try:
            await self._stopped.wait()
        finally:
            self._thread.shutdown(wait=False)

    def _take(self) -> list[_Waiter]:
        """The next batch. Empty: no text waits."""
        for waiter in self._backlog:
            if waiter.answer.cancelled():  # its caller has not left the queue yet
                self._backlog.discard(waiter)
        batch, late = self._backlog.take(self._clock(), self._encoder.batch_tokens)
        _fail(late, _too_late)
        return batch

    async def _encode(self, batch: Sequence[_Waiter]) -> None:
        texts = [waiter.text for waiter in batch]
        began = self._clock()
        try:
            loop = asyncio.get_running_loop()
            encoded = await loop.run_in_executor(self._thread, self._encoder.embed, texts)
            _answer(batch, encoded, began, self._clock() - began)
        except asyncio.CancelledError:
            _fail(batch, _shutting_down)
            raise
        except Exception as error:
            cause = error
            _fail(batch, lambda: _encoder_failed(cause))
        finally:
            self._backlog.finish(self._clock())


def _answer(batch: Iterable[_Waiter], encoded: Encoded, began: float, infer_s: float) -> None:
    rows = zip(batch, encoded.vectors, encoded.inner, encoded.tokens, strict=True)
    for waiter, vector, inner, tokens in rows:
        if not waiter.answer.done():
            queue_s = began - waiter.queued_at
            waiter.answer.set_result(Embedding(vector, int(tokens), queue_s, infer_s, inner))


def _fail(waiters: Iterable[_Waiter], error: Callable[[], DecisionError]) -> None:
    """Fail each waiter with its own error, because a shared one would collect all tracebacks."""
    for waiter in waiters:
        if not waiter.answer.done():
            waiter.answer.set_exception(error())


def _encoder_failed(cause: Exception) -> EncoderFailed:
    failed = EncoderFailed(f"the encoder failed: {cause}")
    failed.__cause__ = cause
    return failed


def _not_served() -> Overloaded:
    return Overloaded("the encoder has stopped")


def _too_late() -> Overloaded:
    return Overloaded("the encoder is slower than expected and cannot encode the text in time")


def _shutting_down() -> Overloaded:
    return Overloaded("the encoder is shutting down")
