"""From the published weights to the files that serving reads.

Needs the ``convert`` extra; serving never imports this module.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from extproc.embedding.encoder_files import TOKENIZER, WEIGHTS, WORDS, Precision, graph_name
from extproc.embedding.graph import FloatProducts, build
from extproc.embedding.quantization import Int8Products
from extproc.embedding.range_calibration import calibrate
from extproc.embedding.tokenizer import Tokenizer
from extproc.embedding.weights import Bert, bert, read_safetensors

Progress = Callable[[str], None]


def convert(directory: Path, progress: Progress) -> None:
    """Writes the word embeddings and the three graphs beside the weights in ``directory``.

    Raises ``EncoderMissing`` when the weights or the tokenizer are damaged or another model's.
    """
    weights = bert(read_safetensors((directory / WEIGHTS).read_bytes()))
    weights.words.tofile(directory / WORDS)
    progress("building the fp32 graph")
    _save(build(weights, FloatProducts(), words_file=WORDS), directory, "fp32")
    progress("building the fp16 graph")
    _save(build(weights, FloatProducts(), float_type=np.float16), directory, "fp16")
    progress("calibrating and building the int8 graph")
    _save(_int8(weights, directory / TOKENIZER), directory, "int8")


def _int8(weights: Bert, tokenizer: Path) -> onnx.ModelProto:
    longest = int(weights.positions.shape[0])
    ranges = calibrate(weights, Tokenizer(tokenizer, longest))
    return build(weights, Int8Products(ranges), words_file=WORDS)


def _save(model: onnx.ModelProto, directory: Path, precision: Precision) -> None:
    (directory / graph_name(precision)).write_bytes(model.SerializeToString())
