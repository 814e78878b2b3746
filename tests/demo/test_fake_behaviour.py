import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo.fake_behaviour import gzipped, rechunk

PIECES = st.lists(st.binary(max_size=20), max_size=8)


@given(PIECES, st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
def test_rechunk_keeps_every_byte_in_writes_of_the_sizes_asked(
    pieces: list[bytes], sizes: tuple[int, ...]
) -> None:
    writes = list(rechunk(pieces, sizes))
    assert b"".join(writes) == b"".join(pieces)
    expected = [sizes[number % len(sizes)] for number in range(len(writes))]
    assert [len(write) for write in writes[:-1]] == expected[:-1]
    assert all(0 < len(write) <= size for write, size in zip(writes, expected, strict=True))


def test_rechunk_without_sizes_keeps_one_write_an_event() -> None:
    assert list(rechunk([b"one", b"two"], ())) == [b"one", b"two"]


@pytest.mark.parametrize("sizes", [(0,), (3, 0), (-1,)])
def test_rechunk_refuses_a_size_that_would_never_end(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        list(rechunk([b"one"], sizes))


@given(PIECES)
def test_gzipped_is_one_gzip_member_of_the_same_bytes(pieces: list[bytes]) -> None:
    assert gzip.decompress(b"".join(gzipped(pieces))) == b"".join(pieces)


def test_each_gzipped_piece_can_be_read_when_it_arrives() -> None:
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    compressed = gzipped([b"first", b"second"])
    assert reader.decompress(next(compressed)) == b"first"
    assert reader.decompress(next(compressed)) == b"second"
