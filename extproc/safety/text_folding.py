"""Folds text to what a reader sees, so that a pattern finds it in any spelling.

- NFKC: full-width, mathematical, circled and superscript forms become plain letters and digits.
- Invisible characters are removed: zero-width spaces and joiners, bidirectional controls, tags,
  variation selectors, soft hyphens (Unicode's ``Default_Ignorable_Code_Point``), and combining marks
  that NFKC leaves by themselves.
- Decimal digits of every script become ASCII digits.
- Characters that look like an ASCII character become that one (``confusables``).

No ASCII character ever changes. Unicode's own skeletons (UTS 39) turn 1 and I into l, and a pattern such as
``\\d{16}`` would find nothing in them. Folding confuses letters of different languages, so the
result is matched in addition to the text itself, never instead of it.
"""

import functools
import unicodedata
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extproc.safety.confusables import CONFUSABLES

# Default_Ignorable_Code_Point of Unicode 14.0, DerivedCoreProperties.txt.
_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
_SCRIPTS = range(0x80, 0x20000)  # above are ideographs, private use and ``_IGNORABLE``
_REMOVED = 0xFFFFFFFF

# Normalization sorts a run of combining marks in quadratic time, so a run is cut where Unicode's
# stream-safe format (UAX 15) breaks it.
_LONGEST_RUN = 30
# One character of which NFKC makes 18, and one of which it makes 8. No other makes more than 4.
_LONG_LIGATURES = str.maketrans("\ufdfa\ufdfb", "  ")


def folded(text: str) -> str:
    """``text`` as a reader sees it; the same object if it is ASCII. Linear in its length."""
    if text.isascii():
        return text
    normal = unicodedata.normalize("NFKC", _bounded(text))
    codes = _tables().folded[_codes(normal)]
    return _text(codes[codes != _REMOVED])


def folded_with_origins(text: str) -> tuple[str, NDArray[np.intp]]:
    """``text`` folded character by character, and for each character of the result where it comes from.

    Unlike ``folded``, it puts no letters and marks together, so each character has one origin. Linear.
    """
    codes = _codes(text)
    distinct, inverse = np.unique(codes, return_inverse=True)
    forms = [_folded_character(chr(code)) for code in distinct]
    lengths = np.array([len(form) for form in forms])
    origins = np.repeat(np.arange(len(codes)), lengths[inverse])
    width = int(lengths.max(initial=0))
    table = np.zeros((len(forms), max(1, width)), np.uint32)
    for row, form in enumerate(forms):
        table[row, : len(form)] = _codes(form)
    # The place of each character within the form of its origin.
    places = np.arange(len(origins)) - np.searchsorted(origins, origins)
    return _text(table[inverse[origins], places]), origins


@functools.lru_cache(maxsize=8192)
def _folded_character(character: str) -> str:
    return folded(character) if ord(character) < 0xD800 or ord(character) > 0xDFFF else character


def prepare() -> None:
    """Build the tables now. It takes 0.1 s, and no request should wait for that."""
    _tables()


def _bounded(text: str) -> str:
    """``text`` without what would make normalization take long."""
    if "\ufdfa" in text or "\ufdfb" in text:
        text = text.translate(_LONG_LIGATURES)
    codes = _codes(text)
    marks = _tables().combining[codes]
    if not marks.any():
        return text
    index = np.arange(len(codes))
    nearest_base = np.maximum.accumulate(np.where(marks, -1, index))
    keep = index - nearest_base <= _LONGEST_RUN
    return text if keep.all() else _text(codes[keep])


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _text(codes: NDArray[np.uint32]) -> str:
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


class _Tables(NamedTuple):
    """By code point."""

    folded: NDArray[np.uint32]  # what it becomes
    combining: NDArray[np.bool_]  # whether normalization sorts it among its neighbours


@functools.cache
def _tables() -> _Tables:
    table = np.arange(0x110000, dtype=np.uint32)
    combining = np.zeros(0x110000, dtype=np.bool_)
    for code in _SCRIPTS:
        character = chr(code)
        digit = unicodedata.decimal(character, None)
        if digit is not None:
            table[code] = ord("0") + digit
        elif unicodedata.category(character) in ("Mn", "Me"):
            table[code] = _REMOVED
        if unicodedata.combining(character):
            combining[code] = True
    for ascii_character, lookalikes in CONFUSABLES.items():
        table[[ord(lookalike) for lookalike in lookalikes]] = ord(ascii_character)
    for first, last in _IGNORABLE:
        table[first : last + 1] = _REMOVED
    return _Tables(table, combining)
