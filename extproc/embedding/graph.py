"""One ONNX graph of the whole encoder: token ids in, unit vectors out.

It is built directly from the weights with ONNX Runtime's fused ``com.microsoft`` operators, without an
exporter, torch or a graph optimizer. The inputs ``input_ids`` and ``attention_mask`` are int32 of shape
(batch, tokens), padded on the right. The outputs are float32, mean-pooled over tokens and of unit length.
``embedding`` of shape (batch, width) is that of the last layer. ``inner`` of shape (batch, len(INNER_LAYERS)
* width) concatenates the same of inner layers. These contain details of the wording that the last layer does
not, and cost only the pooling.

Needs the ``convert`` extra (onnx); serving never imports this module.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from extproc.embedding.encoder_models import MINILM
from extproc.embedding.weights import HEADS, LAYER_NORM_EPSILON, Bert, Dense, Layer, Norm

MICROSOFT = "com.microsoft"
ONNX = ""
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "embedding"
INNER_OUTPUT = "inner"
INNER_LAYERS = MINILM.inner_layers

_OPSET = 18
_IR_VERSION = 10  # readable by the oldest supported ONNX Runtime


class GraphBuilder:
    """Collects the nodes and constants of a graph; ``float_type`` is that of its weights."""

    def __init__(self, float_type: type[np.floating[Any]] = np.float32) -> None:
        self.float_type = float_type
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def node(
        self, operator: str, inputs: Sequence[str], output: str, domain: str = MICROSOFT, **attributes: Any
    ) -> str:
        """Adds one operator with one output; returns the output's name. An empty input is absent."""
        return self.nodes(operator, inputs, [output], domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = MICROSOFT,
        **attributes: Any,
    ) -> Sequence[str]:
        """Adds one operator with several outputs; returns their names."""
        name = f"{outputs[0]}:{operator}"
        self._nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))
        return outputs

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Adds a constant unchanged. Float weights go through ``weight``."""
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, name: str, array: NDArray[np.float32]) -> str:
        """Adds a constant in the graph's float type."""
        return self.constant(name, array.astype(self.float_type))

    def external(self, name: str, array: NDArray[np.float32], file: str) -> str:
        """Adds a constant with the bytes of ``file``, which is in the directory of the graph's file."""
        tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", "0"), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=value)
        self._constants[name] = tensor
        return name

    def model(self, width: int) -> onnx.ModelProto:
        """The finished model."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "tokens"]) for name in INPUTS
        ]
        widths = {OUTPUT: width, INNER_OUTPUT: len(INNER_LAYERS) * width}
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
            for name, size in widths.items()
        ]
        graph = helper.make_graph(self._nodes, "encoder", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid(ONNX, _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


class MatrixProducts(Protocol):
    """The matrix products of a layer, which take nearly all of the time. The precisions differ only in them.

    Each method adds its operators and returns the name of the product, ``product_name(where, kind)``.
    ``where`` is the layer's name. Only ``attention`` includes its bias. For the others, the next operator
    adds it.
    """

    def attention(self, graph: GraphBuilder, where: str, x: str, mask: str, layer: Layer) -> str:
        """Self-attention with the fused projection, before its output projection."""
        ...

    def attention_output(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """The projection of the attention's result."""
        ...

    def up(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """The first product of the feed-forward block."""
        ...

    def down(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """The second product of the feed-forward block."""
        ...


def product_name(where: str, kind: str) -> str:
    """The graph's name for one product of one layer."""
    return f"{where}/{kind}"


class FloatProducts:
    """``MatrixProducts`` in the graph's own float type.

    ``inputs`` has the input tensor of each product, which calibration observes.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}

    def attention(self, graph: GraphBuilder, where: str, x: str, mask: str, layer: Layer) -> str:
        """See ``MatrixProducts``."""
        name = self._seen(where, "attention", x)
        weight = graph.weight(f"{name}.weight", layer.qkv.weight)
        bias = graph.weight(f"{name}.bias", layer.qkv.bias)
        return graph.node("Attention", [x, weight, bias, mask], name, num_heads=HEADS)

    def attention_output(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """See ``MatrixProducts``."""
        return self._product(graph, self._seen(where, "attention_output", x), x, layer.attention_output)

    def up(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """See ``MatrixProducts``."""
        return self._product(graph, self._seen(where, "up", x), x, layer.up)

    def down(self, graph: GraphBuilder, where: str, x: str, layer: Layer) -> str:
        """See ``MatrixProducts``."""
        return self._product(graph, self._seen(where, "down", x), x, layer.down)

    def _seen(self, where: str, kind: str, x: str) -> str:
        name = product_name(where, kind)
        self.inputs[name] = x
        return name

    def _product(self, graph: GraphBuilder, name: str, x: str, dense: Dense) -> str:
        return graph.node("MatMul", [x, graph.weight(f"{name}.weight", dense.weight)], name, ONNX)


def build(
    bert: Bert,
    products: MatrixProducts,
    *,
    float_type: type[np.floating[Any]] = np.float32,
    words_file: str = "",
    inner_layers: tuple[int, int] = INNER_LAYERS,
) -> onnx.ModelProto:
    """The encoder as one graph.

    ``words_file`` is a file of raw float32 word embeddings in the directory of the graph's file. The runtime
    maps it into memory: it has more than half of the weights, and a request needs a few rows. Empty: the
    graph contains the embeddings in its float type. ``inner_layers`` are those of the second output.
    """
    graph = GraphBuilder(float_type)
    x, mask = _embed(graph, bert, words_file)
    pool = _Pool(graph)
    inner = []
    for index, layer in enumerate(bert.layers):
        x = _layer(graph, f"layer{index}", x, mask, layer, products)
        if index in inner_layers:
            inner.append(pool.unit_mean(x, f"layer{index}/pooled"))
    graph.node("Concat", inner, INNER_OUTPUT, ONNX, axis=1)
    pool.unit_mean(x, OUTPUT)
    return graph.model(bert.width)


def _embed(graph: GraphBuilder, bert: Bert, words_file: str) -> tuple[str, str]:
    """Words plus positions, normalized; and the number of tokens per text, for attention."""
    words = (
        graph.external("words", bert.words, words_file) if words_file else graph.weight("words", bert.words)
    )
    norm = _norm_weights(graph, "embedded", bert.norm)
    inputs = ["input_ids", "", words, graph.weight("positions", bert.positions), "", *norm, "attention_mask"]
    embedded, mask = graph.nodes(
        "EmbedLayerNormalization", inputs, ["embedded", "tokens_per_text"], epsilon=LAYER_NORM_EPSILON
    )
    return embedded, mask


def _layer(graph: GraphBuilder, name: str, x: str, mask: str, layer: Layer, products: MatrixProducts) -> str:
    attended = products.attention(graph, name, x, mask, layer)
    projected = products.attention_output(graph, name, attended, layer)
    x = _add_norm(graph, f"{name}/attended", projected, x, layer.attention_norm, layer.attention_output.bias)
    raised = products.up(graph, name, x, layer)
    activated = graph.node(
        "BiasGelu", [raised, graph.weight(f"{name}/up.bias", layer.up.bias)], f"{name}/activated"
    )
    lowered = products.down(graph, name, activated, layer)
    return _add_norm(graph, f"{name}/output", lowered, x, layer.output_norm, layer.down.bias)


def _add_norm(
    graph: GraphBuilder, name: str, x: str, skip: str, norm: Norm, bias: NDArray[np.float32]
) -> str:
    inputs = [x, skip, *_norm_weights(graph, name, norm), graph.weight(f"{name}.bias", bias)]
    return graph.node("SkipLayerNormalization", inputs, name, epsilon=LAYER_NORM_EPSILON)


def _norm_weights(graph: GraphBuilder, name: str, norm: Norm) -> tuple[str, str]:
    return graph.weight(f"{name}.gamma", norm.gamma), graph.weight(f"{name}.beta", norm.beta)


class _Pool:
    """The mean over the tokens without padding, with unit length.

    The sum is not divided by the number of tokens, because the division by the length follows. All values are
    float32, because the sum of squares overflows in half precision.
    """

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        self._axis = graph.constant("pooled_axis", np.array([1], np.int64))
        mask = graph.node("Cast", ["attention_mask"], "mask", ONNX, to=TensorProto.FLOAT)
        self._row = graph.node("Unsqueeze", [mask, self._axis], "mask_row", ONNX)

    def unit_mean(self, x: str, output: str) -> str:
        """Adds the pooling of ``x``; returns ``output``, the name of the result."""
        graph, axis = self._graph, self._axis
        hidden = graph.node("Cast", [x], f"{output}/hidden", ONNX, to=TensorProto.FLOAT)
        summed = graph.node("MatMul", [self._row, hidden], f"{output}/summed", ONNX)
        total = graph.node("Squeeze", [summed, axis], f"{output}/total", ONNX)
        length = graph.node("ReduceL2", [total, axis], f"{output}/length", ONNX, keepdims=1)
        return graph.node("Div", [total, length], output, ONNX)
