"""The converted graphs against the original weights, by a forward pass written from the paper.

The reference is plain numpy and shares no code with the conversion: it reads the safetensors
file itself and computes BERT (https://arxiv.org/abs/1810.04805) layer by layer.
"""

import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray

from extproc.embedding.conversion import SENTENCES
from extproc.embedding.encoder_files import RECIPE, EncoderFiles, Precision
from extproc.embedding.encoder_session import OnnxEncoder, open_encoder
from extproc.embedding.graph import INNER_LAYERS
from extproc.embedding.quantization import MIGRATION, WEIGHT_LIMIT
from extproc.registry import schema

Floats = NDArray[np.float32]
erf = np.vectorize(math.erf, otypes=[np.float32])

QUESTIONS = (
    "hello there, how is it going?",
    "good morning!",
    "could you shorten this paragraph to two sentences",
    "turn the following notes into a polite e-mail",
    "translate 'the bridge is closed' into Spanish",
    "why does my loop never end in this C program",
    "write a shell script that renames all files in a folder",
    "what does a NullPointerException mean in Java",
    "how many prime numbers are there below one hundred",
    "if x + 3 = 10 what is 2x",
    "prove that there are infinitely many primes",
    "my head hurts and I feel dizzy when I stand up",
    "is it safe to take two painkillers at once",
    "my baby has a rash on her arms",
    "recommend a film for a rainy evening",
    "what is the tallest mountain in Africa",
    "how do I get a refund for a cancelled flight",
    "best way to learn the guitar as an adult",
    "what should I plant in a shady garden",
    "who wrote the music for this opera",
)
ANSWERS = (
    "Hi! Nice to meet you.",
    "Summarise the text below.",
    "Rewrite my message so that it sounds formal.",
    "How do you say this in French?",
    "Debug my Python function, it runs forever.",
    "Write a bash one-liner to move files.",
    "Explain this Java stack trace.",
    "Solve the equation for y.",
    "Show by induction that the sum holds for all n.",
    "Count the primes up to fifty.",
    "I have a strong headache and feel faint.",
    "Can I combine these two medicines?",
    "The skin of my child is red and itchy.",
    "Which movie should we watch tonight?",
    "What is the longest river in South America?",
    "I want my money back for the ticket.",
    "How long does it take to learn the piano?",
    "Which flowers grow without much sun?",
    "Who composed this symphony?",
    "Tell me a joke about cats.",
)
LONG = "The committee met on Tuesday and discussed the budget for the coming year in detail. " * 6


def read_tensors(files: EncoderFiles) -> dict[str, Floats]:
    data = files.weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    tensors: dict[str, Floats] = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            start, end = entry["data_offsets"]
            raw = data[8 + size + start : 8 + size + end]
            tensors[name] = np.frombuffer(raw, "<f4").reshape(entry["shape"])
    return tensors


def unit_mean(hidden: Floats) -> Floats:
    mean: Floats = hidden.mean(axis=0)
    return mean / np.linalg.norm(mean)


class Reference:
    """The encoder as its authors trained it: one text at a time, no padding, float32."""

    def __init__(self, files: EncoderFiles) -> None:
        self.tensors = read_tensors(files)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(files.tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)
        self.known: dict[str, Floats] = {}

    def encode(self, texts: tuple[str, ...]) -> Floats:
        for text in texts:
            if text not in self.known:
                self.known[text] = self.embedding(text)
        return np.stack([self.known[text] for text in texts])

    def embedding(self, text: str) -> Floats:
        ids = self.tokenizer.encode(text).ids
        return unit_mean(self.hidden(ids))

    def inner(self, text: str) -> Floats:
        """The vectors of layers 1 and 3 of 0 to 5, side by side."""
        ids = self.tokenizer.encode(text).ids
        return np.concatenate([unit_mean(self.hidden(ids, layers=2)), unit_mean(self.hidden(ids, layers=4))])

    def hidden(self, ids: list[int], layers: int = 6) -> Floats:
        tensors = self.tensors
        x = tensors["embeddings.word_embeddings.weight"][ids]
        x = x + tensors["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + tensors["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for index in range(layers):
            layer = f"encoder.layer.{index}"
            x = self.norm(
                x + self.dense(self.attention(x, layer), f"{layer}.attention.output.dense"),
                f"{layer}.attention.output.LayerNorm",
            )
            raised = self.dense(x, f"{layer}.intermediate.dense")
            activated = raised * 0.5 * (1 + erf(raised / math.sqrt(2)))
            x = self.norm(x + self.dense(activated, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return x

    def attention(self, x: Floats, layer: str) -> Floats:
        query, key, value = (
            self.dense(x, f"{layer}.attention.self.{name}").reshape(len(x), 12, 32).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(32)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: Floats = (weights @ value).transpose(1, 0, 2).reshape(len(x), 384)
        return attended

    def dense(self, x: Floats, name: str) -> Floats:
        product: Floats = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return product

    def norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        normed: Floats = centred / deviation * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
        return normed


@pytest.fixture(scope="module")
def reference(encoder_files: EncoderFiles) -> Reference:
    return Reference(encoder_files)


def open_on_cpu(files: EncoderFiles, precision: Precision) -> OnnxEncoder:
    return open_encoder(files, schema.EncoderSettings(device="cpu", precision=precision))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float_graphs_give_the_original_embeddings(
    encoder_files: EncoderFiles, reference: Reference, precision: Precision
) -> None:
    texts = (*QUESTIONS[:6], LONG)
    found = open_on_cpu(encoder_files, precision).encode(texts)
    cosines = (found * reference.encode(texts)).sum(axis=1)
    assert cosines.min() >= 0.999


@pytest.mark.parametrize(("precision", "floor"), [("fp32", 0.999), ("fp16", 0.999), ("int8", 0.99)])
def test_inner_layers_come_out_too(
    encoder_files: EncoderFiles, reference: Reference, precision: Precision, floor: float
) -> None:
    texts = (*QUESTIONS[:6], LONG)
    found = open_on_cpu(encoder_files, precision).embed(texts).inner.reshape(len(texts), 2, -1)
    expected = np.stack([reference.inner(text) for text in texts]).reshape(found.shape)
    assert (found * expected).sum(axis=2).min() >= floor
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1.0, atol=1e-5)


def test_int8_stays_close_to_the_original_embeddings(
    encoder_files: EncoderFiles, reference: Reference
) -> None:
    """The product asks for 0.98; the floor is where it is so that a slip in the arithmetic shows."""
    texts = (*QUESTIONS, *ANSWERS, LONG)
    found = open_on_cpu(encoder_files, "int8").encode(texts)
    cosines = (found * reference.encode(texts)).sum(axis=1)
    assert cosines.min() >= 0.99
    assert cosines.mean() >= 0.997


def test_int8_decides_like_the_original(encoder_files: EncoderFiles, reference: Reference) -> None:
    """The nearest neighbour agrees wherever the original has a clear one."""
    original = reference.encode(QUESTIONS) @ reference.encode(ANSWERS).T
    encoder = open_on_cpu(encoder_files, "int8")
    found = encoder.encode(QUESTIONS) @ encoder.encode(ANSWERS).T
    best, second = np.sort(original, axis=1)[:, :-3:-1].T
    clear = best - second > 0.02
    assert clear.sum() >= 15
    np.testing.assert_array_equal(found.argmax(axis=1)[clear], original.argmax(axis=1)[clear])


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_paraphrase_is_nearer_than_another_subject(
    encoder_files: EncoderFiles, precision: Precision
) -> None:
    question, paraphrase, other = open_on_cpu(encoder_files, precision).encode(
        [
            "how do I get a refund for a cancelled flight",
            "my flight was called off and I want my money back",
            "prove that there are infinitely many primes",
        ]
    )
    assert question @ paraphrase > 0.6
    assert question @ other < 0.2


def test_a_changed_int8_conversion_needs_a_new_recipe() -> None:
    """The recipe is part of the encoder's name, and equal names must mean equal vectors."""
    made_of = json.dumps([SENTENCES, MIGRATION, WEIGHT_LIMIT, INNER_LAYERS]).encode()
    assert {RECIPE: hashlib.sha256(made_of).hexdigest()[:16]} == {3: "bccad07cc5ffc906"}
