"""Lexical features: hashed word and character n-grams of a text, in tens of microseconds.

They describe the words of a text, and an embedding describes its meaning. One extractor serves the linear
heads beside the embedding and the fast path, which needs no encoder.

Text is lower-cased; letters, digits and apostrophes make words, and every run of other ASCII is a
space. Features are words, pairs of neighbouring words, and character n-grams of 3 to 5 that may
span words. Each is hashed into one of ``BUCKETS`` (the hashing trick, Weinberger et al., 2009), so
no vocabulary is kept. A feature is present or absent. All of it is array arithmetic on code points
in numpy, with no loop over n-grams.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

BITS = 16
BUCKETS = 1 << BITS  # of words; as many again of characters
WIDTH = 2 * BUCKETS
CHARACTERS = (3, 4, 5)
LONGEST = 2048  # characters read: the first and the last half of a longer text

_Codes = NDArray[np.uint64]
_SPACE = 32
_AT_EDGE = np.array([3], np.uint64)  # stands where a pair of words has no neighbour
_LONGEST_WORD = 64  # code points beyond it are hashed as if all stood at this place
_ODD = np.uint64(0x9E3779B97F4A7C15)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_SHIFT = np.uint64(64 - BITS)


def _powers(base: np.uint64, count: int) -> _Codes:
    found = [1]
    for _ in range(count - 1):
        found.append(found[-1] * int(base) % 2**64)
    return np.array(found, np.uint64)


_NOTHING = np.zeros(0, np.uint64)
_POWERS = _powers(_ODD, _LONGEST_WORD + 1)
_SALTS = _powers(_PAIR, 8)
_IN_WORD = np.array([chr(code).isalnum() or code == ord("'") for code in range(128)] + [True])


class Sparse(msgspec.Struct, frozen=True):
    """Rows of few non-zero features: ``columns[starts[i]:starts[i + 1]]`` are those of row i."""

    columns: NDArray[np.int32]  # sorted and distinct within a row, below ``WIDTH``
    starts: NDArray[np.intp]  # (rows + 1,)
    words: NDArray[np.int32]  # (rows,) how many of a row's columns are of words; they come first

    def __len__(self) -> int:
        return len(self.words)

    def row(self, index: int) -> NDArray[np.int32]:
        """The columns of one row."""
        return self.columns[self.starts[index] : self.starts[index + 1]]


def lexical(texts: Sequence[str]) -> Sparse:
    """The features of each text. It accepts any text; an empty one has no features."""
    rows = [_columns(text) for text in texts]
    sizes = [len(words) + len(characters) for words, characters in rows]
    parts = [part for row in rows for part in row]
    return Sparse(
        columns=np.concatenate(parts) if parts else np.zeros(0, np.int32),
        starts=np.cumsum([0, *sizes]).astype(np.intp),
        words=np.array([len(words) for words, _ in rows], np.int32),
    )


def _columns(text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    codes = _spaced(text)
    words = _words(codes)
    buckets = _bucket(np.concatenate([*words, *_characters(codes), _NOTHING]))  # in one go, for speed
    split = sum(map(len, words))
    return _distinct(buckets[:split]), _distinct(buckets[split:]) + np.int32(BUCKETS)


def _distinct(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """The distinct values, sorted. For few values it is much faster than `np.unique`."""
    values.sort()
    last = np.ones(len(values), bool)  # of equal ones
    np.not_equal(values[1:], values[:-1], out=last[:-1])
    distinct: NDArray[np.int32] = values[last]
    return distinct


def _spaced(text: str) -> _Codes:
    """Code points of the words, lower case, with one space before, between and behind them."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} {text[-LONGEST // 2 :]}"
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    in_word = _IN_WORD[np.minimum(codes, 128)]
    kept = in_word.copy()
    kept[1:] |= in_word[:-1]  # of a run of other characters only the first, as a space
    spaced = np.empty(int(kept.sum()) + 2, np.uint64)
    spaced[0] = spaced[-1] = _SPACE
    spaced[1:-1] = np.where(in_word, codes, _SPACE)[kept]
    return spaced[:-1] if spaced[-2] == _SPACE else spaced


def _words(codes: _Codes) -> list[_Codes]:
    """Hashes of words and of pairs of neighbours; a text's ends count as neighbours."""
    is_space = codes == _SPACE
    spaces = np.flatnonzero(is_space)
    if len(spaces) < 2:
        return []
    every = np.arange(len(codes))
    place = every - np.maximum.accumulate(every * is_space)
    terms = codes * _POWERS[np.minimum(place, _LONGEST_WORD)]
    words = np.add.reduceat(terms[:-1], spaces[:-1])  # without the last space, which begins no word
    edged = np.concatenate([_AT_EDGE, words, _AT_EDGE])
    return [words * _SALTS[1], (edged[:-1] * _PAIR + edged[1:]) * _SALTS[2]]


def _characters(codes: _Codes) -> list[_Codes]:
    """Hashes of every n-gram; each size goes on where the one before it stopped."""
    parts = []
    hashes = np.zeros(len(codes), np.uint64)
    for place in range(max(CHARACTERS)):
        count = len(codes) - place
        if count <= 0:
            break
        hashes = hashes[:count] + codes[place:] * _POWERS[place]
        if place + 1 in CHARACTERS:
            parts.append(hashes * _SALTS[place + 1])
    return parts


def _bucket(hashes: _Codes) -> NDArray[np.int32]:
    """The upper bits once all bits have been mixed into them; arithmetic is modulo 2^64."""
    mixed = (hashes ^ (hashes >> _HALF)) * _MIX
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX
    return (mixed >> _SHIFT).astype(np.int32)
