"""Splits by content: equal texts are always on the same side, and near-duplicates stay together.

The side depends on the hash of the text and the seed, not on the place in the file, so new rows do not move
the others.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extproc.lab.measure.classification_metrics import Floats, Labels
from extproc.routing.lexical_features import Sparse

ALIKE = 0.8  # the least Jaccard similarity (1912) of near-duplicates' lexical features
BANDS, PER_BAND = 8, 3  # texts of similarity s share a band with probability 1 - (1 - s^3)^8: 0.997 at 0.8
_PRIME = np.uint64(0xD6E8FEB86659FD93)


def groups_of(words: Sparse) -> Labels:
    """A number for each text, equal for near-duplicates and, in turn, for their near-duplicates.

    Candidates are found by min-hashing (Broder, 1997) in bands (Leskovec, Rajaraman and Ullman, 2014, 3.4).
    Each is compared with the first text of its band, so the time grows linearly with the number of texts.
    """
    parent = np.arange(len(words))
    for band in range(BANDS):
        keys = _band_keys(words, band)
        order = np.argsort(keys, kind="stable")
        first = order[0] if len(order) else 0
        for row in order[1:].tolist():
            if keys[row] != keys[first]:
                first = row
            elif _root(parent, row) != _root(parent, first) and _alike(words, row, first):
                parent[_root(parent, row)] = _root(parent, first)
    return np.array([_root(parent, row) for row in range(len(words))], np.intp)


def places(texts: Sequence[str], groups: Labels, seed: int) -> Floats:
    """A place in [0, 1) for each text, equal within a group: the smallest hash of its texts."""
    digests = np.array(
        [
            int.from_bytes(
                hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()[:6], "big"
            )
            for text in texts
        ],
        np.float64,
    )
    smallest = np.full(len(texts), np.inf)
    np.minimum.at(smallest, groups, digests)
    found: Floats = smallest[groups] / 2.0**48
    return found


def folds_of(places: Floats, labels: Labels, groups: Labels, folds: int) -> Labels:
    """A fold for each row. The groups of a route go to the folds in turn, in the order of their places.

    So a route with as many groups as folds has rows in every fold. A group of several routes goes to the fold
    of its first row.
    """
    fold_of_group: dict[int, int] = {}
    turns: dict[int, int] = {}
    for row in np.argsort(places, kind="stable").tolist():
        group, label = int(groups[row]), int(labels[row])
        if group not in fold_of_group:
            fold_of_group[group] = turns.get(label, 0) % folds
            turns[label] = turns.get(label, 0) + 1
    return np.array([fold_of_group[int(group)] for group in groups], np.intp)


def _band_keys(words: Sparse, band: int) -> NDArray[np.uint64]:
    """A number for each text, made of its features' smallest hashes under ``PER_BAND`` functions."""
    keys = np.zeros(len(words), np.uint64)
    empty = np.diff(words.starts) == 0
    for function in range(PER_BAND):
        salt = np.uint64(2 * (band * PER_BAND + function) + 1)
        hashed = (words.columns.astype(np.uint64) + np.uint64(1)) * salt * _PRIME
        hashed = (hashed ^ (hashed >> np.uint64(29))) * _PRIME
        hashed ^= hashed >> np.uint64(32)
        padded = np.append(hashed, np.uint64(0))  # so that a text without features has a place to start
        smallest = np.minimum.reduceat(padded, words.starts[:-1]) if len(words) else keys
        keys = keys * _PRIME + np.where(empty, np.uint64(0), smallest)
    return keys


def _alike(words: Sparse, one: int, other: int) -> bool:
    first, second = words.row(one), words.row(other)
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared >= ALIKE * (len(first) + len(second) - shared)


def _root(parent: NDArray[np.intp], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row
