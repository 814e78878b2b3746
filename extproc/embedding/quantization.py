"""Int8 products whose result does not depend on the other texts in the batch.

Dynamic quantization of ONNX Runtime scales a whole tensor by its largest value. So a text's embedding changes
with the other texts in the batch (measured: cosine down to 0.955 between alone and batched), and a decision
could not be explained afterwards. Here instead:

- Inputs from a layer normalization or an attention have nearly the same range for every text. Their scale is
  calibrated once and then constant.
- The feed-forward activation has outliers that depend on the text. Each token (row) is scaled by its own
largest
  value.
- Before that, ``smoothing`` moves the size of outlier channels from the inputs into the weights (SmoothQuant,
  https://arxiv.org/abs/2211.10438, equation 4).

Weights have one scale per output column and seven bits. On CPUs without VNNI, the product of uint8 and int8
adds pairs in 16 bits: 127 * 255 * 2 overflows and 63 * 255 * 2 does not. So every CPU computes the same
integers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.graph import ONNX, GraphBuilder, product_name
from extproc.embedding.weights import HEADS, Dense, Floats, Layer

MIGRATION = 0.6  # how much of an outlier moves into the weights: the best of 0.5 ... 0.95 here
WEIGHT_LIMIT = 63
_TINY = 1e-6


@dataclass(frozen=True)
class ChannelRange:
    """The smallest and largest observed value of each channel of one product's input."""

    low: Floats  # (inputs,)
    high: Floats

    @property
    def magnitude(self) -> Floats:
        """The largest absolute value per channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def divided(self, by: Floats) -> "ChannelRange":
        """The range of the input after a division of its channels by ``by``."""
        return ChannelRange(self.low / by, self.high / by)

    @classmethod
    def union(cls, ranges: Sequence["ChannelRange"]) -> "ChannelRange":
        """The smallest range that contains all ``ranges``."""
        return cls(
            np.min([seen.low for seen in ranges], axis=0), np.max([seen.high for seen in ranges], axis=0)
        )


@dataclass(frozen=True)
class StaticScale:
    """``value = (quantized - zero) * scale`` for a whole tensor of uint8."""

    scale: np.float32
    zero: np.uint8


@dataclass(frozen=True)
class Int8Weight:
    """A weight as int8 with one scale per output column."""

    values: NDArray[np.int8]  # (inputs, outputs), within ±WEIGHT_LIMIT
    scales: Floats  # (outputs,)


def smoothing(seen: ChannelRange, weight: Floats) -> Floats:
    """The factors by which to divide each input channel and multiply its row of the weight."""
    inputs = np.maximum(seen.magnitude, _TINY) ** MIGRATION
    rows = np.maximum(np.abs(weight).max(axis=1), _TINY) ** (1 - MIGRATION)
    factors = inputs / rows
    centred: Floats = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return centred


def static_scale(seen: ChannelRange) -> StaticScale:
    """The scale that maps the observed range to uint8. Values outside it saturate."""
    low = min(float(seen.low.min()), 0.0)
    high = max(float(seen.high.max()), 0.0)
    scale = max(high - low, _TINY) / 255
    return StaticScale(np.float32(scale), np.uint8(round(-low / scale)))


def quantize_weight(weight: Floats) -> Int8Weight:
    """The nearest int8 weight, column by column."""
    scales = np.maximum(np.abs(weight).max(axis=0), _TINY) / WEIGHT_LIMIT
    return Int8Weight(np.round(weight / scales).astype(np.int8), scales.astype(np.float32))


class Int8Products:
    """``graph.MatrixProducts`` in int8. ``ranges``: the range of every product's input, by its name."""

    def __init__(self, ranges: Mapping[str, ChannelRange]) -> None:
        self._ranges = ranges

    def attention(self, graph: GraphBuilder, where: str, x: str, mask: str, layer: Layer) -> str:
        """See ``graph.MatrixProducts``."""
        name = product_name(where, "attention")
        qkv = self._value_smoothed(where, layer)
        x, weight, seen = self._smoothed(graph, name, x, qkv.weight)
        x, scale, zero = _quantized_input(graph, name, x, static_scale(seen))
        values, scales = _quantized_weight(graph, name, weight)
        bias = graph.weight(f"{name}.bias", qkv.bias)
        inputs = [x, values, bias, scale, scales, mask, zero]
        return graph.node("QAttention", inputs, name, num_heads=HEADS)

    def attention_output(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """See ``graph.MatrixProducts``."""
        name = product_name(where, "attention_output")
        factors = self._factors(name, layer.attention_output)
        scale = static_scale(self._ranges[name].divided(factors))
        weight = layer.attention_output.weight * factors[:, None]
        return _static_product(graph, name, x, weight, scale)

    def up(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """See ``graph.MatrixProducts``."""
        name = product_name(where, "up")
        x, weight, seen = self._smoothed(graph, name, x, layer.up.weight)
        return _static_product(graph, name, x, weight, static_scale(seen))

    def down(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """See ``graph.MatrixProducts``."""
        name = product_name(where, "down")
        x, weight, _ = self._smoothed(graph, name, x, layer.down.weight)
        return _row_scaled_product(graph, name, x, weight)

    def _factors(self, name: str, dense: Dense) -> Floats:
        return smoothing(self._ranges[name], dense.weight)

    def _value_smoothed(self, where: str, layer: Layer) -> Dense:
        """The fused projection, with the smoothing of the attention's result folded in.

        That result is linear in the value projection, so its division costs nothing here.
        """
        factors = self._factors(product_name(where, "attention_output"), layer.attention_output)
        query_and_key = np.ones(2 * factors.size, np.float32)
        divisor = np.concatenate([query_and_key, factors])
        return Dense(layer.qkv.weight / divisor, layer.qkv.bias / divisor)

    def _smoothed(
        self, graph: GraphBuilder, name: str, x: str, weight: Floats
    ) -> tuple[str, Floats, ChannelRange]:
        """The input divided by its factors, the weight multiplied, and the input's new range."""
        seen = self._ranges[name]
        factors = smoothing(seen, weight)
        reciprocal = graph.constant(f"{name}.smoothing", 1 / factors)
        x = graph.node("Mul", [x, reciprocal], f"{name}.smoothed", ONNX)
        return x, weight * factors[:, None], seen.divided(factors)


def _static_product(graph: GraphBuilder, name: str, x: str, weight: Floats, how: StaticScale) -> str:
    x, scale, zero = _quantized_input(graph, name, x, how)
    values, scales = _quantized_weight(graph, name, weight)
    return graph.node("MatMulIntegerToFloat", [x, values, scale, scales, zero], name)


def _row_scaled_product(graph: GraphBuilder, name: str, x: str, weight: Floats) -> str:
    """Each row is divided by its largest magnitude before the product, and multiplied by it afterwards.

    No row is all zeros, because it is the activation of about 1,500 biased channels.
    """
    axis = graph.constant("row_axis", np.array([-1], np.int64))
    magnitude = graph.node("Abs", [x], f"{name}.magnitude", ONNX)
    largest = graph.node("ReduceMax", [magnitude, axis], f"{name}.largest", ONNX, keepdims=1)
    x = graph.node("Div", [x, largest], f"{name}.unit", ONNX)
    x, scale, zero = _quantized_input(graph, name, x, StaticScale(np.float32(1 / 127), np.uint8(128)))
    values, scales = _quantized_weight(graph, name, weight)
    product = graph.node("MatMulIntegerToFloat", [x, values, scale, scales, zero], f"{name}.of_unit")
    return graph.node("Mul", [product, largest], name, ONNX)


def _quantized_input(graph: GraphBuilder, name: str, x: str, how: StaticScale) -> tuple[str, str, str]:
    scale = graph.constant(f"{name}.scale", np.asarray(how.scale))
    zero = graph.constant(f"{name}.zero", np.asarray(how.zero))
    return graph.node("QuantizeLinear", [x, scale, zero], f"{name}.quantized", ONNX), scale, zero


def _quantized_weight(graph: GraphBuilder, name: str, weight: Floats) -> tuple[str, str]:
    quantized = quantize_weight(weight)
    values = graph.constant(f"{name}.weight", quantized.values)
    return values, graph.constant(f"{name}.weight_scales", quantized.scales)
