"""Converts multilingual-e5-small to the files that serving reads.

Its vectors lie in a narrow cone: two texts of unlike meaning have a cosine of 0.75. ``centre.npy`` is the
mean of the vectors of ``conversion.SENTENCES``. The encoder subtracts it, so that similarities have the same
scale as those of all-MiniLM-L6-v2, and the floors mean the same.

Needs the ``convert`` extra; serving never imports this module.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from extproc.embedding.conversion import SENTENCES, calibrate, save
from extproc.embedding.e5_weights import E5File, read_e5
from extproc.embedding.encoder_files import CENTRE, TOKENIZER, WORDS, graph_name
from extproc.embedding.encoder_models import E5_WEIGHTS, MULTILINGUAL
from extproc.embedding.graph import INPUTS, OUTPUT, FloatProducts, build
from extproc.embedding.quantization import Int8Products
from extproc.embedding.tokenizer import Tokenizer, pad
from extproc.embedding.weights import Floats

Progress = Callable[[str], None]

_CONTROLS = Regex(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\ufeff]")
_SPACES = Regex(r"\s+")
_SPACE = "\u2581"  # that pieces of the vocabulary begin with


def convert_e5(directory: Path, progress: Progress) -> None:
    """Write the tokenizer, the word embeddings, the graphs and the centre beside the weights.

    Raises ``EncoderMissing`` if the weights are damaged.
    """
    file, inner = read_e5((directory / E5_WEIGHTS).read_bytes()), MULTILINGUAL.inner_layers
    file.bert.words.tofile(directory / WORDS)
    unigram_tokenizer(file).save(str(directory / TOKENIZER))
    progress("building the fp32 graph")
    save(build(file.bert, FloatProducts(), words_file=WORDS, inner_layers=inner), directory, "fp32")
    progress("building the fp16 graph")
    save(build(file.bert, FloatProducts(), float_type=np.float16, inner_layers=inner), directory, "fp16")
    progress("calibrating and building the int8 graph")
    longest = int(file.bert.positions.shape[0])
    tokenizer = Tokenizer(directory / TOKENIZER, longest, MULTILINGUAL.prefix)
    ranges = calibrate(file.bert, tokenizer)
    save(build(file.bert, Int8Products(ranges), words_file=WORDS, inner_layers=inner), directory, "int8")
    np.save(directory / CENTRE, _centre(directory, tokenizer))


def unigram_tokenizer(file: E5File) -> tokenizers.Tokenizer:
    """The SentencePiece tokenizer of the file. It normalizes by NFKC, as the file's own table does."""
    made = tokenizers.Tokenizer(models.Unigram(list(file.pieces), file.unknown, False))
    made.normalizer = normalizers.Sequence(
        [normalizers.Replace(_CONTROLS, ""), normalizers.NFKC(), normalizers.Replace(_SPACES, " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "always", True)
    begin, end = file.pieces[file.begin][0], file.pieces[file.end][0]
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, file.begin), (end, file.end)]
    )
    return made


def _centre(directory: Path, tokenizer: Tokenizer) -> Floats:
    session = onnxruntime.InferenceSession(
        str(directory / graph_name("fp32")), providers=["CPUExecutionProvider"]
    )
    rows = [
        session.run([OUTPUT], dict(zip(INPUTS, pad([ids]), strict=True)))[0][0]
        for ids in tokenizer.tokenize(SENTENCES)
    ]
    centre: Floats = np.stack(rows).mean(axis=0, dtype=np.float32)
    return centre
