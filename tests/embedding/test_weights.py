import json
from typing import Any

import numpy as np
import pytest

from extproc.embedding.weights import LAYERS, bert, read_safetensors
from extproc.errors import EncoderMissing

WIDTH = 4


def safetensors(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        kind = {"float32": "F32", "int64": "I64"}[str(array.dtype)]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    """A model four wide whose every number is different."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (5, WIDTH),
        "embeddings.position_embeddings.weight": (3, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        for name, outputs, inputs in (
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", 4 * WIDTH, WIDTH),
            ("output.dense", WIDTH, 4 * WIDTH),
        ):
            shapes[f"{layer}.{name}.weight"] = (outputs, inputs)
            shapes[f"{layer}.{name}.bias"] = (outputs,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}.{name}.weight"] = (WIDTH,)
            shapes[f"{layer}.{name}.bias"] = (WIDTH,)
    numbers = iter(range(10**6))
    return {
        name: np.array([next(numbers) for _ in range(int(np.prod(shape)))], np.float32).reshape(shape)
        for name, shape in shapes.items()
    }


def test_float_arrays_are_read_with_their_shapes_and_others_are_left_out() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_safetensors(safetensors({"ids": np.arange(3), "matrix": matrix}))
    assert list(found) == ["matrix"]
    np.testing.assert_array_equal(found["matrix"], matrix)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_file_cut_short_is_refused(kept: int) -> None:
    whole = safetensors({"matrix": np.arange(6, dtype=np.float32).reshape(2, 3)})
    with pytest.raises(EncoderMissing, match="damaged"):
        read_safetensors(whole[:kept])


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(EncoderMissing, match="damaged"):
        read_safetensors(b"\x02\0\0\0\0\0\0\0[]")


def test_weights_of_another_model_are_refused_by_the_name_they_lack() -> None:
    lacking = tensors()
    del lacking["encoder.layer.3.output.dense.weight"]
    with pytest.raises(EncoderMissing, match=r"encoder\.layer\.3\.output\.dense\.weight"):
        bert(lacking)


def test_every_position_carries_the_embedding_of_the_only_segment_there_is() -> None:
    given = tensors()
    segment = given["embeddings.token_type_embeddings.weight"][0]
    np.testing.assert_array_equal(
        bert(given).positions, given["embeddings.position_embeddings.weight"] + segment
    )


def test_query_key_and_value_stand_side_by_side_as_inputs_by_outputs() -> None:
    given = tensors()
    qkv = bert(given).layers[2].qkv
    for place, name in enumerate(("query", "key", "value")):
        columns = slice(place * WIDTH, (place + 1) * WIDTH)
        original = f"encoder.layer.2.attention.self.{name}"
        np.testing.assert_array_equal(qkv.weight[:, columns], given[f"{original}.weight"].T)
        np.testing.assert_array_equal(qkv.bias[columns], given[f"{original}.bias"])


def test_the_two_normalisations_of_a_layer_are_not_confused() -> None:
    given = tensors()
    layer = bert(given).layers[1]
    np.testing.assert_array_equal(
        layer.attention_norm.gamma, given["encoder.layer.1.attention.output.LayerNorm.weight"]
    )
    np.testing.assert_array_equal(layer.output_norm.beta, given["encoder.layer.1.output.LayerNorm.bias"])
