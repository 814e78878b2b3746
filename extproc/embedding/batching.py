"""One encoder shared by all requests: a bounded queue, and batches that form by themselves.

While the device is busy, texts queue; when it is free, the next batch is whatever has queued,
up to a budget of padded tokens. There is no timer: an idle device takes a lone text at once.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extproc.errors import DecisionError, EncoderFailed, Overloaded
from extproc.vocabulary import Embedding


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
    answer: asyncio.Future[Embedding]


class BatchingEmbedder:
    """A ``vocabulary.Embedder``: started and closed once, on the loop that uses it."""

    def __init__(
        self, encoder: BatchEncoder, queue: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``queue`` is how many texts may wait; ``clock`` gives seconds."""
        self._encoder = encoder
        self._queue = queue
        self._clock = clock
        self._waiting: dict[_Waiter, None] = {}  # a set in order of arrival
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def depth(self) -> int:
        """Texts that wait for the device, without those already in it."""
        return len(self._waiting)

    def start(self) -> None:
        """Starts the task that owns the queue."""
        self._task = asyncio.create_task(self._serve(), name="embedding queue")

    async def embed(self, text: str) -> Embedding:
        """See ``vocabulary.Embedder``. A caller cancelled while it waits costs no inference."""
        if self._task is None or self._closing:
            raise Overloaded("the encoder is not running")
        if len(self._waiting) >= self._queue:
            raise Overloaded(f"{self._queue} texts already wait for the encoder")
        answer: asyncio.Future[Embedding] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(text, self._encoder.estimate_tokens(text), self._clock(), answer)
        self._waiting[waiter] = None
        self._arrived.set()
        try:
            return await answer
        finally:
            self._waiting.pop(waiter, None)

    async def close(self) -> None:
        """Sheds the texts that wait, lets the batch in the device finish, and leaves no task."""
        self._closing = True
        _fail(self._waiting, _shutting_down)
        self._waiting.clear()
        self._arrived.set()
        try:
            if self._task is not None:
                await self._task
        finally:
            self._thread.shutdown(wait=False)

    async def _serve(self) -> None:
        while not self._closing:
            await self._arrived.wait()
            if batch := self._take():
                await self._run(batch)

    def _take(self) -> list[_Waiter]:
        """The oldest texts that fit the budget together; at least one, if any wait."""
        batch: list[_Waiter] = []
        longest = 0
        for waiter in list(self._waiting):
            longest = max(longest, waiter.tokens)
            if batch and longest * (len(batch) + 1) > self._encoder.batch_tokens:
                break
            del self._waiting[waiter]
            if not waiter.answer.cancelled():
                batch.append(waiter)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _run(self, batch: Sequence[_Waiter]) -> None:
        texts = [waiter.text for waiter in batch]
        began = self._clock()
        try:
            loop = asyncio.get_running_loop()
            encoded = await loop.run_in_executor(self._thread, self._encoder.embed, texts)
        except asyncio.CancelledError:
            _fail(batch, _shutting_down)
            raise
        except Exception as error:
            cause = error
            _fail(batch, lambda: _encoder_failed(cause))
        else:
            _answer(batch, encoded, began, self._clock() - began)


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


def _shutting_down() -> Overloaded:
    return Overloaded("the encoder is shutting down")
