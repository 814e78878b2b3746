import asyncio
import itertools
import logging
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extproc.embedding import encoder_session
from extproc.embedding.batching import BatchingEmbedder, Encoded
from extproc.embedding.embedding_cache import CachedEncoder
from extproc.embedding.encoder_files import RECIPE, EncoderFiles
from extproc.embedding.encoder_session import (
    CHUNK,
    DeepEncoder,
    OnnxEncoder,
    ReportingEncoder,
    allowed_cores,
    batches_by_length,
    calls_at_once,
    default_threads,
    open_encoder,
)
from extproc.embedding.tokenizer import Tokenizer
from extproc.errors import EncoderFailed, EncoderMissing, OperatorError
from extproc.registry import schema
from extproc.vocabulary import Embedding

REQUESTS = (
    "set an alarm for seven tomorrow",
    "what is on my shopping list right now",
    "move two hundred dollars from savings to checking",
    "how do i say good morning in another language",
    "which documents do i need to open a second account for my company",
    "hi",
    "play the song that was on yesterday",
    "why was my card declined at the petrol station this afternoon when there is money on it",
    "remind me to water the plants",
    "book a table for two in a quiet place near the river on saturday",
    "what's the tallest mountain of the continent",
    "please shorten this text",
    "my flight was cancelled and the airline will not answer its phone",
    "turn the lights down a little",
    "where is the closest place to change a tyre",
    "is it going to rain before the match ends",
    "tell me a joke about computers",
    "how long should i boil an egg so that it stays soft",
    "the transfer i made last week has still not arrived",
    "add milk and bread",
    "ok",
    "can you raise the limit on my credit card",
    "write a function that sorts a list of numbers",
    "does this restaurant take reservations",
)
TEXTS = ("hi", "what is the capital of Peru?", "word " * 300, "", "please shorten this text", "ok")


@pytest.fixture(scope="module")
def encoder(encoder_files: EncoderFiles) -> OnnxEncoder:
    return open_encoder(encoder_files, schema.EncoderSettings(device="cpu"))


class FakeSession:
    """As much of a session as the encoder uses; gives ``answer`` or raises it."""

    def __init__(self, answer: float | Exception) -> None:
        self.answer = answer

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        widths = {"embedding": 384, "inner": 768}
        return [np.full((len(inputs["input_ids"]), widths[name]), self.answer, np.float32) for name in names]


def encoder_on(session: FakeSession, files: EncoderFiles) -> OnnxEncoder:
    return OnnxEncoder(session, Tokenizer(files.tokenizer, 16), "fp32")


def no_cuda() -> int:
    return 0


def a_cuda_device_whose_libraries_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime does then: a session that silently runs on the CPU."""
    monkeypatch.setattr("extproc.embedding.encoder_session._PROVIDERS", {"cuda": CPU_ONLY, "cpu": CPU_ONLY})
    monkeypatch.setattr("extproc.embedding.encoder_session._preload_cuda_libraries", lambda: None)


CPU_ONLY = ["CPUExecutionProvider"]


def test_vectors_have_unit_length_in_the_order_of_their_texts(encoder: OnnxEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-6)


@pytest.fixture(scope="module", params=["int8", "fp32"])
def either_encoder(encoder_files: EncoderFiles, request: pytest.FixtureRequest) -> OnnxEncoder:
    return open_encoder(encoder_files, schema.EncoderSettings(device="cpu", precision=request.param))


def alone(encoder: OnnxEncoder, texts: Sequence[str]) -> list[bytes]:
    """The exact vectors of texts that are encoded one by one, with the inner layers."""
    return [_bytes_of(encoder.embed([text]))[0] for text in texts]


def _bytes_of(encoded: Encoded) -> list[bytes]:
    rows = zip(encoded.vectors, encoded.inner, strict=True)
    return [vector.tobytes() + inner.tobytes() for vector, inner in rows]


@pytest.mark.parametrize("seed", range(5))
def test_any_grouping_and_order_gives_the_exact_vectors_of_texts_encoded_alone(
    either_encoder: OnnxEncoder, seed: int
) -> None:
    draw = random.Random(seed)
    expected = alone(either_encoder, REQUESTS)
    order = draw.sample(range(len(REQUESTS)), len(REQUESTS))
    while order:
        size = draw.randint(1, len(order))
        group, order = order[:size], order[size:]
        found = _bytes_of(either_encoder.embed([REQUESTS[index] for index in group]))
        assert found == [expected[index] for index in group]


def test_a_cache_that_knows_some_of_the_texts_changes_no_vector(encoder: OnnxEncoder, tmp_path: Path) -> None:
    cached = CachedEncoder(DeepEncoder(encoder), tmp_path / "vectors.npz")
    cached.encode(REQUESTS[::3])
    assert [row.tobytes() for row in cached.encode(REQUESTS)] == alone(encoder, REQUESTS)


async def test_requests_that_arrive_together_get_the_vectors_of_texts_encoded_alone(
    encoder: OnnxEncoder,
) -> None:
    embedder = BatchingEmbedder(encoder, queue=len(REQUESTS))
    serving = asyncio.create_task(embedder.run())
    await asyncio.sleep(0)
    served = await asyncio.gather(*(embedder.embed(text) for text in REQUESTS))
    await embedder.close()
    await serving
    assert [one.vector.tobytes() + _inner_of(one).tobytes() for one in served] == alone(encoder, REQUESTS)


def _inner_of(embedding: Embedding) -> NDArray[np.float32]:
    assert embedding.inner is not None
    return embedding.inner


def test_tokens_are_those_read_after_truncation(encoder: OnnxEncoder) -> None:
    np.testing.assert_array_equal(encoder.embed(["hello there", "", "word " * 5000]).tokens, [4, 2, 128])


def test_no_texts_give_no_vectors(encoder: OnnxEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_on_the_cpu_auto_means_int8_and_the_name_says_all_that_makes_a_vector(
    encoder: OnnxEncoder,
) -> None:
    assert (encoder.device, encoder.precision) == ("cpu", "int8")
    assert encoder.name == f"all-MiniLM-L6-v2/int8/128/r{RECIPE}"


@pytest.mark.parametrize(
    "settings",
    [
        schema.EncoderSettings(device="cpu", precision="fp32"),
        schema.EncoderSettings(device="cpu", max_tokens=64),
    ],
)
def test_another_precision_or_length_is_another_name(
    encoder_files: EncoderFiles, encoder: OnnxEncoder, settings: schema.EncoderSettings
) -> None:
    assert open_encoder(encoder_files, settings).name != encoder.name


def test_without_a_cuda_device_auto_runs_on_the_cpu_and_says_so(
    encoder_files: EncoderFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="extproc.embedding")
    encoder = open_encoder(encoder_files, schema.EncoderSettings(), count_devices=no_cuda)
    assert (encoder.device, encoder.precision) == ("cpu", "int8")
    assert "encoder not on cuda: the driver shows no CUDA device" in caplog.text
    assert "runs on cpu" in caplog.text


def test_opening_on_the_cpu_says_nothing_on_standard_error(
    encoder_files: EncoderFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    open_encoder(encoder_files, schema.EncoderSettings(), count_devices=no_cuda)
    assert capfd.readouterr() == ("", "")


def test_cuda_demanded_without_a_device_is_the_operators_error(encoder_files: EncoderFiles) -> None:
    with pytest.raises(OperatorError, match="is cuda, but the driver shows no CUDA device"):
        open_encoder(encoder_files, schema.EncoderSettings(device="cuda"), count_devices=no_cuda)


def test_int8_on_cuda_is_refused_rather_than_run_elsewhere(encoder_files: EncoderFiles) -> None:
    with pytest.raises(OperatorError, match="int8 runs on the CPU only"):
        open_encoder(
            encoder_files, schema.EncoderSettings(device="cuda", precision="int8"), count_devices=lambda: 1
        )


def test_the_device_is_read_from_the_session_not_from_what_was_asked(
    encoder_files: EncoderFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_cuda_device_whose_libraries_are_absent(monkeypatch)
    with pytest.raises(OperatorError, match="could not load its CUDA libraries"):
        open_encoder(encoder_files, schema.EncoderSettings(device="cuda"), count_devices=lambda: 1)
    fallen_back = open_encoder(encoder_files, schema.EncoderSettings(), count_devices=lambda: 1)
    assert (fallen_back.device, fallen_back.precision) == ("cpu", "int8")


def test_a_graph_that_is_not_one_is_the_operators_error(encoder_files: EncoderFiles, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(encoder_files.tokenizer.absolute())
    (tmp_path / "int8.onnx").write_bytes(b"not a graph")
    damaged = EncoderFiles(tmp_path, encoder_files.manifest)
    with pytest.raises(EncoderMissing, match=r"int8\.onnx cannot be opened"):
        open_encoder(damaged, schema.EncoderSettings(device="cpu"))


def test_deep_rows_are_the_embedding_and_the_inner_layers_under_a_name_of_their_own(
    encoder_files: EncoderFiles,
) -> None:
    encoder = open_encoder(encoder_files, schema.EncoderSettings(device="cpu"))
    deep, encoded = DeepEncoder(encoder), encoder.embed(["hello", "good bye"])
    rows = deep.encode(["hello", "good bye"])
    np.testing.assert_array_equal(rows, np.hstack([encoded.vectors, encoded.inner]))
    assert deep.name != encoder.name


def test_a_failing_runtime_is_an_encoder_failure_with_its_cause(encoder_files: EncoderFiles) -> None:
    cause = RuntimeError("out of memory")
    with pytest.raises(EncoderFailed, match="out of memory") as raised:
        encoder_on(FakeSession(cause), encoder_files).encode(["a"])
    assert raised.value.__cause__ is cause


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_an_encoder_failure(
    encoder_files: EncoderFiles, number: float
) -> None:
    with pytest.raises(EncoderFailed, match="not finite"):
        encoder_on(FakeSession(number), encoder_files).encode(["a"])


LENGTHS = st.lists(st.integers(2, 512), max_size=60)


@given(LENGTHS, st.integers(1, 1024), st.booleans())
def test_batches_hold_every_text_once_within_the_budget(
    lengths: list[int], budget: int, padding: bool
) -> None:
    tokens = np.array(lengths, np.int32)
    batches = list(batches_by_length(tokens, budget, padding=padding))
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * tokens[batch].max() <= budget


@given(LENGTHS, st.integers(1, 1024), st.booleans())
def test_no_batch_is_closed_before_it_had_to_be(lengths: list[int], budget: int, padding: bool) -> None:
    tokens = np.array(lengths, np.int32)
    batches = list(batches_by_length(tokens, budget, padding=padding))
    for batch, following in itertools.pairwise(batches):
        is_longer = tokens[following[0]] > tokens[batch[0]]
        assert (len(batch) + 1) * tokens[following[0]] > budget or (not padding and is_longer)


@given(LENGTHS, st.integers(1, 1024))
def test_without_padding_all_texts_of_a_batch_have_the_same_length(lengths: list[int], budget: int) -> None:
    tokens = np.array(lengths, np.int32)
    for batch in batches_by_length(tokens, budget, padding=False):
        assert len(set(tokens[batch].tolist())) == 1


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)])
def test_the_encoder_takes_half_of_the_cores_up_to_four(cores: int, threads: int) -> None:
    assert default_threads(cores) == threads


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_a_quota_cuts_the_cores_that_the_node_shows(tmp_path: Path, content: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert allowed_cores(tmp_path / "cpu.max") == cores


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert allowed_cores(tmp_path / "absent") == 8


class Lengths:
    """An encoder whose vectors are the texts' lengths."""

    name = "lengths"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[len(text)] for text in texts], np.float32).reshape(len(texts), 1)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(
    ("count", "done"),
    [(0, []), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, CHUNK + 1])],
)
def test_progress_is_reported_for_every_chunk_and_no_vector_changes(
    count: int, done: list[int], at_once: int
) -> None:
    reports: list[tuple[int, int]] = []
    encoder = ReportingEncoder(Lengths(), lambda done, total: reports.append((done, total)), at_once)
    texts = ["x" * number for number in range(count)]
    assert encoder.name == "lengths"
    assert (encoder.encode(texts) == Lengths().encode(texts)).all()
    assert encoder.encode(texts).shape == (count, 1)
    assert reports[: len(done)] == [(each, count) for each in done]


@pytest.mark.parametrize(("cores", "threads", "calls"), [(1, 0, 1), (2, 0, 2), (16, 0, 4), (2, 1, 1)])
def test_a_command_uses_all_cores_unless_the_registry_limits_the_threads(
    encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, calls: int
) -> None:
    monkeypatch.setattr(encoder_session, "allowed_cores", lambda: cores)
    assert calls_at_once(encoder, schema.EncoderSettings(device="cpu", threads=threads)) == calls
