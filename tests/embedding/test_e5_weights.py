"""Reading the packed file of the multilingual encoder."""

import struct

import numpy as np
import pytest

from extproc.embedding.e5_weights import read_e5
from extproc.errors import EncoderMissing

WIDTH, FEED_FORWARD, VOCABULARY, POSITIONS = 96, 192, 5, 4
PIECES = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁Tee", -3.0)]


def packed(values: np.ndarray) -> bytes:
    """Q4_0: the codes of -8 to 7, with the scale 1."""
    codes = (values.reshape(-1, 32) + 8).astype(np.uint8)
    halves = codes[:, :16] | codes[:, 16:] << 4
    return b"".join(struct.pack("<e", 1.0) + half.tobytes() for half in halves)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"q": WIDTH, "k": WIDTH, "v": WIDTH, "ao": WIDTH, "fi": FEED_FORWARD, "fo": WIDTH}
    found = {
        "emb.word": rng.integers(-8, 8, (VOCABULARY, WIDTH)),
        "emb.pos": rng.random((POSITIONS, WIDTH)),
        "emb.type": rng.random(WIDTH),
    }
    for name, outputs in shapes.items():
        inputs = FEED_FORWARD if name == "fo" else WIDTH
        found |= {f"l0.{name}.w": rng.integers(-8, 8, (outputs, inputs)), f"l0.{name}.b": rng.random(outputs)}
    norms = ("emb.ln", "l0.aln", "l0.oln")
    return found | {f"{norm}.{part}": rng.random(WIDTH) for norm in norms for part in "wb"}


def file_of(found: dict[str, np.ndarray], magic: bytes = b"E5S1", version: int = 1) -> bytes:
    sizes = (WIDTH, 1, 12, FEED_FORWARD, VOCABULARY, POSITIONS, 1)
    texts = [piece.encode() for piece, _ in PIECES]
    head = struct.pack("<4sI7ifi", magic, version, *sizes, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 1, 1, 2, sum(map(len, texts)))
    head += np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 0, 0) + struct.pack("<i", len(found))
    bodies = [
        packed(value) if value.dtype == np.int64 else value.astype("<f4").tobytes()
        for value in found.values()
    ]
    at = len(head) + sum(2 + len(name) + struct.calcsize("<BIQQ") for name in found)
    for (name, value), body in zip(found.items(), bodies, strict=True):
        kind = int(value.dtype == np.int64)
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", kind, value.size, at, len(body))
        at += len(body)
    return head + b"".join(bodies)


def test_four_bit_numbers_are_read_as_they_were_packed() -> None:
    found = tensors()
    bert = read_e5(file_of(found)).bert
    np.testing.assert_array_equal(bert.words, found["emb.word"])
    np.testing.assert_array_equal(bert.layers[0].down.weight, found["l0.fo.w"].T)
    np.testing.assert_array_equal(bert.layers[0].qkv.weight[:, WIDTH : 2 * WIDTH], found["l0.k.w"].T)


def test_positions_have_the_segment_added() -> None:
    found = tensors()
    expected = found["emb.pos"].astype(np.float32) + found["emb.type"].astype(np.float32)
    np.testing.assert_allclose(read_e5(file_of(found)).bert.positions, expected)


def test_the_vocabulary_has_its_scores() -> None:
    file = read_e5(file_of(tensors()))
    assert file.pieces == tuple(PIECES)
    assert (file.begin, file.end, file.unknown) == (0, 1, 2)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "damaged"),
        (file_of(tensors(), magic=b"GGUF"), "GGUF"),
        (file_of(tensors(), version=2), "version 2"),
        (file_of(tensors())[:-400], "damaged"),
        (file_of({name: value for name, value in tensors().items() if name != "l0.fi.w"}), "l0.fi.w"),
    ],
    ids=["empty", "another format", "another version", "truncated", "a tensor is missing"],
)
def test_a_file_that_is_not_one_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(EncoderMissing, match=problem):
        read_e5(data)
