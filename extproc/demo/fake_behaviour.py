"""How a fake model answers: the delays, failures and resets of real inference servers."""

import itertools
import zlib
from collections.abc import Iterable, Iterator

import msgspec


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What a fake model does with a *valid* call of whichever API; the default is an answer at once.

    A request that the real API would refuse (wrong key, unknown model, bad JSON) is refused
    whatever the behaviour, so that an injected failure never hides a routing defect.
    """

    status: int = 200  # anything else: the API's error object with that status
    delay_before_headers_s: float = 0.0
    early_headers: bool = False  # send the headers before the first byte of the body is known
    delay_before_body_s: float = 0.0  # after the headers, where they are early
    delay_between_writes_s: float = 0.0
    write_sizes: tuple[int, ...] = ()  # body bytes per write, repeated; empty: one write an event
    reset_after_writes: int | None = None  # body writes before a TCP reset; 0: not one byte of the body
    end_after_writes: int | None = None  # body writes before the answer ends, as if it were whole
    in_prose: bool = False  # ignore the JSON object or schema that the client asks for
    omit_usage: bool = False
    delay_before_usage_s: float = 0.0  # before the last event of a stream that tells it
    gzip: bool = False  # compress where the request accepts it


def rechunk(pieces: Iterable[bytes], sizes: tuple[int, ...]) -> Iterator[bytes]:
    """The same bytes cut into pieces of ``sizes``, repeated; without sizes, the pieces as they are.

    The last piece may be shorter. Raises ValueError for a size that is not positive.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"sizes must be positive: {sizes}")
    if not sizes:
        yield from pieces
        return
    whole = b"".join(pieces)
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(whole):
            return
        yield whole[start : start + size]
        start += size


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One gzip member, flushed after every piece so that each can be read as it arrives."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        yield compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()
