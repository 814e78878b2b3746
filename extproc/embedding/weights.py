"""Reads the encoder's original weights from safetensors, and arranges them for the graph.

The format is an 8-byte little-endian length, a JSON header, and raw little-endian arrays. So
numpy reads it without a library (https://huggingface.co/docs/safetensors, "Format").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.errors import EncoderMissing

Floats = NDArray[np.float32]

LAYERS = 6
HEADS = 12
LAYER_NORM_EPSILON = 1e-12


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Norm:
    """A layer normalization: ``gamma * (x - mean) / std + beta``, both of shape (width,)."""

    gamma: Floats
    beta: Floats


@dataclass(frozen=True)
class Dense:
    """``x @ weight + bias``: weight of shape (inputs, outputs), bias of shape (outputs,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class Layer:
    """One transformer layer. One matrix has its query, key and value projections."""

    qkv: Dense
    attention_output: Dense
    attention_norm: Norm
    up: Dense
    down: Dense
    output_norm: Norm


@dataclass(frozen=True)
class Bert:
    """Every weight of the encoder.

    ``positions`` includes the embedding of segment 0. The router never encodes a pair of texts, so the
    segment input would be constant.
    """

    words: Floats  # (vocabulary, width)
    positions: Floats  # (longest text, width)
    norm: Norm
    layers: tuple[Layer, ...]

    @property
    def width(self) -> int:
        """The width of the hidden state, which is the dimensions of an embedding."""
        return int(self.words.shape[1])


def read_safetensors(data: bytes) -> dict[str, Floats]:
    """The float32 arrays of a safetensors file, as views into ``data``.

    Raises ``EncoderMissing`` if the file is truncated or not a safetensors file.
    """
    try:
        header_end = 8 + int.from_bytes(data[:8], "little")
        header = msgspec.json.decode(data[8:header_end], type=dict[str, dict[str, Any]])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
        return {
            name: _view(data, header_end, entry) for name, entry in entries.items() if entry.dtype == "F32"
        }
    except (msgspec.MsgspecError, ValueError) as error:
        raise EncoderMissing(f"the encoder's weights are damaged: {error}") from error


def bert(tensors: Mapping[str, Floats]) -> Bert:
    """The weights of a Hugging Face ``BertModel`` with ``LAYERS`` layers.

    Raises ``EncoderMissing`` if an array is absent, as in another model.
    """
    try:
        segment = tensors["embeddings.token_type_embeddings.weight"][0]
        return Bert(
            words=tensors["embeddings.word_embeddings.weight"],
            positions=tensors["embeddings.position_embeddings.weight"] + segment,
            norm=_norm(tensors, "embeddings.LayerNorm"),
            layers=tuple(_layer(tensors, f"encoder.layer.{index}") for index in range(LAYERS)),
        )
    except KeyError as absent:
        raise EncoderMissing(f"the encoder's weights lack {absent}: is it another model?") from absent


def _view(data: bytes, header_end: int, entry: _Entry) -> Floats:
    start, end = entry.data_offsets
    flat = np.frombuffer(data[header_end + start : header_end + end], dtype="<f4")
    return flat.reshape(entry.shape)


def _norm(tensors: Mapping[str, Floats], name: str) -> Norm:
    return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _dense(tensors: Mapping[str, Floats], *names: str) -> Dense:
    """These layers concatenated. PyTorch stores (outputs, inputs)."""
    weight = np.concatenate([tensors[f"{name}.weight"].T for name in names], axis=1)
    return Dense(weight, np.concatenate([tensors[f"{name}.bias"] for name in names]))


def _layer(tensors: Mapping[str, Floats], name: str) -> Layer:
    attention = f"{name}.attention.self"
    return Layer(
        qkv=_dense(tensors, f"{attention}.query", f"{attention}.key", f"{attention}.value"),
        attention_output=_dense(tensors, f"{name}.attention.output.dense"),
        attention_norm=_norm(tensors, f"{name}.attention.output.LayerNorm"),
        up=_dense(tensors, f"{name}.intermediate.dense"),
        down=_dense(tensors, f"{name}.output.dense"),
        output_norm=_norm(tensors, f"{name}.output.LayerNorm"),
    )
