"""The queue in front of a fake encoder that holds each batch until the test lets it go."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from extproc.embedding.batching import BatchingEmbedder, Encoded
from extproc.errors import EncoderFailed, Overloaded
from extproc.vocabulary import Embedding

PATIENCE = 5.0  # only a failing test waits as long
Asked = asyncio.Task[Embedding]


class HeldEncoder:
    """One token a character; the vector of a text is its length. "poison" raises."""

    batch_tokens = 10

    def __init__(self) -> None:
        self.entered: queue.Queue[list[str]] = queue.Queue()
        self.threads: set[int] = set()
        self._released = threading.Semaphore(0)

    def estimate_tokens(self, text: str) -> int:
        return len(text)

    def embed(self, texts: Sequence[str]) -> Encoded:
        self.threads.add(threading.get_ident())
        self.entered.put(list(texts))
        assert self._released.acquire(timeout=PATIENCE)
        if "poison" in texts:
            raise ValueError("I do not like this text")
        lengths = [len(text) for text in texts]
        vectors = np.array(lengths, np.float32)[:, None]
        return Encoded(vectors, 10 * vectors, np.array(lengths, np.int32))

    def release(self, batches: int = 1) -> None:
        self._released.release(batches)

    async def batch(self) -> list[str]:
        """The texts of the next batch to reach the device."""
        return await asyncio.to_thread(self.entered.get, timeout=PATIENCE)


class Clock:
    """Blocks until it is released."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def embedder(encoder: HeldEncoder, clock: Clock) -> AsyncIterator[BatchingEmbedder]:
    async with running(BatchingEmbedder(encoder, queue=4, clock=clock)) as embedder:
        yield embedder
        encoder.release(100)


@asynccontextmanager
async def running(embedder: BatchingEmbedder) -> AsyncIterator[BatchingEmbedder]:
    """It, while its queue is served."""
    serving = asyncio.create_task(embedder.run())
    await asyncio.sleep(0)
    yield embedder
    await embedder.close()
    await serving


async def ask(embedder: BatchingEmbedder, texts: Iterable[str]) -> list[Asked]:
    """Starts a caller per text and lets each come as far as the queue."""
    return await ask_within(embedder, texts, None)


async def ask_within(embedder: BatchingEmbedder, texts: Iterable[str], within_s: float | None) -> list[Asked]:
    tasks = [asyncio.create_task(embedder.embed(text, within_s)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def occupy(embedder: BatchingEmbedder, encoder: HeldEncoder) -> Asked:
    """Fills the device, so that what comes next must queue."""
    (task,) = await ask(embedder, ["first"])
    assert await encoder.batch() == ["first"]
    return task


async def test_each_text_gets_its_own_rows_of_the_batch(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    first = asyncio.create_task(embedder.embed("abc"))
    await encoder.batch()
    others = [asyncio.create_task(embedder.embed(text)) for text in ("a", "ab")]
    encoder.release(2)
    found = [await task for task in (first, *others)]
    assert [(one.vector.tolist(), one.inner.tolist()) for one in found if one.inner is not None] == [
        ([3.0], [30.0]),
        ([1.0], [10.0]),
        ([2.0], [20.0]),
    ]


async def test_an_idle_device_takes_a_lone_text_at_once(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    (task,) = await ask(embedder, ["hello"])
    assert await encoder.batch() == ["hello"]
    encoder.release()
    embedding = await task
    assert embedding.tokens == 5
    np.testing.assert_array_equal(embedding.vector, [5.0])


async def test_what_queued_while_the_device_was_busy_is_the_next_batch(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    first = await occupy(embedder, encoder)
    others = await ask(embedder, ["a", "bb", "ccc"])
    assert embedder.depth == 3
    encoder.release()
    assert await encoder.batch() == ["a", "bb", "ccc"]
    assert embedder.depth == 0
    encoder.release()
    assert [(await task).vector[0] for task in (first, *others)] == [5.0, 1.0, 2.0, 3.0]


async def test_a_batch_closes_on_its_budget_of_padded_tokens(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    """Two texts of four tokens and one of two are 10 tokens, but 12 when padded to the longest."""
    await occupy(embedder, encoder)
    await ask(embedder, ["aaaa", "bb", "cccc", "d"])
    encoder.release(3)
    assert await encoder.batch() == ["aaaa", "bb"]
    assert await encoder.batch() == ["cccc", "d"]


async def test_a_text_longer_than_the_budget_goes_alone(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    await occupy(embedder, encoder)
    await ask(embedder, ["a", "b" * 50, "c"])
    encoder.release(4)
    assert [await encoder.batch() for _ in range(3)] == [["a"], ["b" * 50], ["c"]]


async def test_a_full_queue_sheds_at_once(embedder: BatchingEmbedder, encoder: HeldEncoder) -> None:
    await occupy(embedder, encoder)
    waiting = await ask(embedder, "abcd")
    with pytest.raises(Overloaded, match="4 texts already wait"):
        await embedder.embed("e")
    encoder.release(2)
    assert [(await task).tokens for task in waiting] == [1, 1, 1, 1]


async def test_there_is_room_again_once_the_queue_has_moved(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    await occupy(embedder, encoder)
    await ask(embedder, "abcd")
    encoder.release()
    await encoder.batch()
    (late,) = await ask(embedder, ["late"])
    encoder.release(2)
    assert (await late).tokens == 4


async def test_a_cancelled_caller_costs_no_inference_and_frees_its_place(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    await occupy(embedder, encoder)
    gone, *_ = await ask(embedder, ["gone", "a", "b", "c"])
    gone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert embedder.depth == 3
    await ask(embedder, ["d"])
    encoder.release()
    assert await encoder.batch() == ["a", "b", "c", "d"]


async def test_a_caller_cancelled_in_the_very_moment_its_batch_is_formed_is_left_out(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    """The queue's task, which runs first, meets a caller that could not yet leave the queue."""
    gone, kept = await ask(embedder, ["gone", "kept"])
    gone.cancel()
    assert embedder.depth == 2
    assert await encoder.batch() == ["kept"]
    encoder.release()
    assert (await kept).tokens == 4


async def test_when_every_caller_of_a_batch_is_gone_the_device_is_left_alone(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    (gone,) = await ask(embedder, ["gone"])
    gone.cancel()
    await asyncio.sleep(0)
    await occupy(embedder, encoder)


async def test_a_caller_cancelled_during_inference_does_not_disturb_its_batch(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    await occupy(embedder, encoder)
    gone, stays = await ask(embedder, ["gone", "stays"])
    encoder.release()
    assert await encoder.batch() == ["gone", "stays"]
    gone.cancel()
    encoder.release()
    assert (await stays).tokens == 5


async def test_an_encoder_that_raises_fails_its_batch_and_no_other(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    first = await occupy(embedder, encoder)
    poison, sharer, next_batch = await ask(embedder, ["poison", "x", "y" * 9])
    encoder.batch_tokens = 12
    encoder.release(3)
    assert (await first).tokens == 5
    for task in (poison, sharer):
        with pytest.raises(EncoderFailed, match="I do not like this text") as raised:
            await task
        assert isinstance(raised.value.__cause__, ValueError)
    assert (await next_batch).tokens == 9


async def test_failed_callers_do_not_share_one_exception(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    await occupy(embedder, encoder)
    encoder.batch_tokens = 100
    tasks = await ask(embedder, ["poison", "x"])
    encoder.release(2)
    one, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert one is not other


async def test_each_answer_has_its_own_waiting_time_and_its_batchs_inference_time(
    embedder: BatchingEmbedder, encoder: HeldEncoder, clock: Clock
) -> None:
    first = await occupy(embedder, encoder)
    clock.now = 101.0
    (early,) = await ask(embedder, ["a"])
    clock.now = 103.0
    (late,) = await ask(embedder, ["b"])
    clock.now = 104.0
    encoder.release()
    assert await encoder.batch() == ["a", "b"]
    clock.now = 104.5
    encoder.release()
    found = [await task for task in (first, early, late)]
    assert [(embedding.queue_s, embedding.infer_s) for embedding in found] == [
        (0.0, 4.0),
        (3.0, 0.5),
        (1.0, 0.5),
    ]


async def test_every_batch_runs_in_the_same_thread_and_not_on_the_loop(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    encoder.release(2)
    await embedder.embed("a")
    await embedder.embed("b")
    assert len(encoder.threads) == 1
    assert threading.get_ident() not in encoder.threads


async def test_close_lets_the_batch_in_the_device_finish_and_sheds_the_rest(
    embedder: BatchingEmbedder, encoder: HeldEncoder
) -> None:
    first = await occupy(embedder, encoder)
    (waiting,) = await ask(embedder, ["waiting"])
    closing = asyncio.create_task(embedder.close())
    with pytest.raises(Overloaded, match="shutting down"):
        await waiting
    assert not closing.done()
    encoder.release()
    await closing
    assert (await first).tokens == 5
    assert encoder.entered.empty()


async def test_after_close_there_is_no_task_and_nothing_is_taken(encoder: HeldEncoder) -> None:
    before = asyncio.all_tasks()
    async with running(BatchingEmbedder(encoder, queue=4)) as embedder:
        pass
    assert asyncio.all_tasks() == before
    with pytest.raises(Overloaded, match="not running"):
        await embedder.embed("a")
    await embedder.close()


async def test_before_start_nothing_is_taken(encoder: HeldEncoder) -> None:
    embedder = BatchingEmbedder(encoder, queue=4)
    with pytest.raises(Overloaded, match="not running"):
        await embedder.embed("a")
    await embedder.close()


async def test_a_queue_that_is_cancelled_sheds_the_batch_that_hangs(encoder: HeldEncoder) -> None:
    embedder = BatchingEmbedder(encoder, queue=4)
    serving = asyncio.create_task(embedder.run())
    await asyncio.sleep(0)
    hanging = await occupy(embedder, encoder)
    serving.cancel()
    with pytest.raises(Overloaded, match="shutting down"):
        await hanging
    encoder.release()
    await embedder.close()


class Careless(HeldEncoder):
    """Gives fewer vectors than it got texts."""

    def embed(self, texts: Sequence[str]) -> Encoded:
        encoded = super().embed(texts)
        return Encoded(encoded.vectors[:-1], encoded.inner, encoded.tokens) if len(texts) > 1 else encoded


async def test_what_an_encoder_gives_wrongly_fails_its_batch_and_no_other() -> None:
    encoder = Careless()
    async with running(BatchingEmbedder(encoder, queue=4)) as embedder:
        first = await occupy(embedder, encoder)
        others = await ask(embedder, ["a", "b"])
        encoder.release(3)
        assert (await first).tokens == 5
        assert isinstance((await asyncio.gather(*others, return_exceptions=True))[1], EncoderFailed)
        assert (await embedder.embed("next")).tokens == 4


class Defective(HeldEncoder):
    """Has a defect that shows in the queue's own task."""

    broken = True

    @property
    def batch_tokens(self) -> int:
        if self.broken:
            raise ZeroDivisionError
        return 10


async def test_a_queue_that_died_answers_at_once_and_can_be_served_again() -> None:
    encoder = Defective()
    embedder = BatchingEmbedder(encoder, queue=4)
    serving = asyncio.create_task(embedder.run())
    await asyncio.sleep(0)
    waiting = await ask(embedder, ["a", "b"])
    with pytest.raises(ZeroDivisionError):
        await serving
    for task in waiting:
        with pytest.raises(Overloaded, match="has stopped"):
            await task
    with pytest.raises(Overloaded, match="not running"):
        await embedder.embed("c")
    encoder.broken = False
    encoder.release(1)
    async with running(embedder):
        assert (await embedder.embed("again")).tokens == 5


async def test_a_text_that_would_be_late_is_refused_at_once(
    embedder: BatchingEmbedder, encoder: HeldEncoder, clock: Clock
) -> None:
    first = await occupy(embedder, encoder)
    clock.now += 5.0  # one second a token
    encoder.release()
    await first
    busy = await occupy(embedder, encoder)
    with pytest.raises(Overloaded, match=r"would take 7\.000 s"):
        await embedder.embed("xx", within_s=7.0)
    (taken,) = await ask_within(embedder, ["xx"], 11.0)
    encoder.release(2)
    assert [(await task).tokens for task in (busy, taken)] == [5, 2]


async def test_a_text_that_has_become_late_is_not_encoded(
    embedder: BatchingEmbedder, encoder: HeldEncoder, clock: Clock
) -> None:
    first = await occupy(embedder, encoder)
    old, new = await ask_within(embedder, ["old"], 10.0), await ask_within(embedder, ["new"], 100.0)
    clock.now += 50.0
    encoder.release(2)
    await first
    with pytest.raises(Overloaded, match="slower than expected"):
        await old[0]
    assert await encoder.batch() == ["new"]
    await new[0]


async def test_many_callers_all_get_their_own_answer(encoder: HeldEncoder) -> None:
    encoder.release(1000)
    texts = ["x" * (1 + number % 23) for number in range(500)]
    async with running(BatchingEmbedder(encoder, queue=1000)) as embedder:
        found = await asyncio.gather(*(embedder.embed(text) for text in texts))
        assert [embedding.tokens for embedding in found] == [len(text) for text in texts]
        assert embedder.depth == 0
