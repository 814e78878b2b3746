"""What the embedding queue decides when more comes than the encoder can take, and right after.

    .venv/bin/python benchmarks/overload.py

The queue is the one that serves; the encoder sleeps 12 ms a text, so that its capacity is known. Texts
come independently of each other, each with the default budget of a decision, 200 ms.
"""

import asyncio
import random
import time
from collections.abc import Sequence

import msgspec
import numpy as np

from extproc.embedding.batching import BatchingEmbedder, Encoded
from extproc.errors import Overloaded

_TEXT_S = 0.012
_BUDGET_S = 0.2
_TOKENS = 16
_SECONDS = 10.0
_LOADS = (1.2, 2.0, 10.0)


class SleepingEncoder:
    """Takes the same time for every text."""

    batch_tokens = 4096

    def __init__(self) -> None:
        self.encoded = 0

    def estimate_tokens(self, text: str) -> int:
        """All are equally long."""
        return _TOKENS

    def embed(self, texts: Sequence[str]) -> Encoded:
        """Sleeps."""
        time.sleep(_TEXT_S * len(texts))
        self.encoded += len(texts)
        vectors = np.ones((len(texts), 1), np.float32)
        return Encoded(vectors, vectors, np.full(len(texts), _TOKENS, np.int32))


class Tally(msgspec.Struct):
    """What became of the texts of one phase."""

    decided: int = 0
    late: int = 0  # their budget ran out while they waited
    refused: list[float] = []  # seconds until each was

    @property
    def offered(self) -> int:
        """Texts that came."""
        return self.decided + self.late + len(self.refused)


async def ask(embedder: BatchingEmbedder, tally: Tally) -> None:
    """One decision."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_BUDGET_S):
            await embedder.embed("text", _BUDGET_S)
        tally.decided += 1
    except TimeoutError:
        tally.late += 1
    except Overloaded:
        tally.refused.append(time.perf_counter() - began)


async def phase(embedder: BatchingEmbedder, load: float, seconds: float) -> Tally:
    """Texts at ``load`` times the capacity."""
    tally, chance, loop = Tally(refused=[]), random.Random(7), asyncio.get_running_loop()
    came = began = loop.time()
    async with asyncio.TaskGroup() as asking:
        while (came := came + chance.expovariate(load / _TEXT_S)) < began + seconds:
            await asyncio.sleep(max(0.0, came - loop.time()))
            asking.create_task(ask(embedder, tally))
    return tally


async def main() -> None:
    """Print the table."""
    encoder = SleepingEncoder()
    embedder = BatchingEmbedder(encoder, queue=256)
    serving = asyncio.create_task(embedder.run())
    await phase(embedder, 0.5, 1.0)
    print(f"capacity {1 / _TEXT_S:.0f}/s")
    print(
        "load | decided/s | encoded/s | refused | refused after, ms p50 p99 | late | next second at half load"
    )
    for load in _LOADS:
        before = encoder.encoded
        found = await phase(embedder, load, _SECONDS)
        encoded = encoder.encoded - before
        after = await phase(embedder, 0.5, 1.0)
        p50, p99 = np.quantile(found.refused or [0.0], (0.5, 0.99)) * 1000
        print(
            f"{load:g} | {found.decided / _SECONDS:.1f} | {encoded / _SECONDS:.1f} | "
            f"{len(found.refused) / found.offered:.0%} | {p50:.2f} {p99:.2f} | "
            f"{found.late / found.offered:.1%} | {after.decided} of {after.offered}"
        )
    await embedder.close()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
