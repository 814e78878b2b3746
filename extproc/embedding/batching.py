"""One encoder shared by all requests: a bounded queue, and batches that form by themselves.

While the device is busy, texts queue; when it is free, the next batch is whatever has queued,
up to a budget of padded tokens. There is no timer: an idle device takes a lone text at once.
A text that would not be encoded in time is refused before it queues; see ``encode_backlog``.
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

# Share of a caller's time by which its text must be encoded. The rest is for what follows, and for
# batches that take longer than expected.
MARGIN: Final = 0.8


@dataclass(frozen=True)
class Encoded:
    """What one call of the encoder gives."""

    vectors: NDArray[np.float32]  # (texts, dimensions), unit length
    inner: NDArray[np.float32]  # (texts, inner dimensions): see vocabulary.Embedding
    tokens: NDArray[np.int32]  # (texts,), read after truncation


class BatchEncoder(Protocol):
    """The blocking encoder behind the queue; it is called from one thread, never two at once."""

    @property
    def batch_tokens(self) -> int:
        """Padded tokens that one batch should not exceed."""
        ...

    def estimate_tokens(self, text: str) -> int:
        """About how many tokens a text has; called on the event loop, so it takes microseconds."""
        ...

    def embed(self, texts: Sequence[str]) -> Encoded:
        """Tokenises and infers. Whatever it raises fails this batch and no other."""
        ...


@dataclass(frozen=True, eq=False)
class _Waiter:
    text: str
    tokens: int  # estimated
    queued_at: float
    due: float  # when it must be encoded, by the same clock
    answer: asyncio.Future[Embedding]


class BatchingEmbedder:
    """A ``vocabulary.Embedder``: works while ``run`` does, on the loop that uses it."""

    def __init__(
        self, encoder: BatchEncoder, queue: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``queue`` is how many texts may wait; ``clock`` gives seconds."""
        self._encoder = encoder
        self._clock = clock
        self._backlog: Backlog[_Waiter] = Backlog(queue)
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._stopped = asyncio.Event()  # whether nothing serves the queue
        self._stopped.set()
        self._closing = False

    @property
    def depth(self) -> int:
        """Texts that wait for the device, without those already in it."""
        return len(self._backlog)

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        """See ``vocabulary.Embedder``. A caller cancelled while it waits costs no inference."""
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
        """Serve the queue until ``close``; one call at a time.

        An error while a batch is encoded or answered fails that batch. Any other ends this call, and
        fails the texts that wait; it may be called again.
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
        """Sheds the texts that wait, and lets the batch in the device finish."""
        self._closing = True
        _fail(self._backlog.clear(), _shutting_down)
        self._arrived.set()
        try:
            await self._stopped.wait()
        finally:
            self._thread.shutdown(wait=False)

    def _take(self) -> list[_Waiter]:
        """The next batch; empty: nothing waits."""
        for waiter in self._backlog:
            if waiter.answer.cancelled():  # its caller could not leave the queue yet
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
    """Each waiter gets an error of its own: a shared one would collect all their tracebacks."""
    for waiter in waiters:
        if not waiter.answer.done():
            waiter.answer.set_exception(error())


def _encoder_failed(cause: Exception) -> EncoderFailed:
    failed = EncoderFailed(f"the encoder failed: {cause}")
    failed.__cause__ = cause
    return failed


def _not_served() -> Overloaded:
    return Overloaded("the encoder's queue is not served")


def _too_late() -> Overloaded:
    return Overloaded("the encoder is slower than expected: the text would be late")


def _shutting_down() -> Overloaded:
    return Overloaded("the encoder is shutting down")
