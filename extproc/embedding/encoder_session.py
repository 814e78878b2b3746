"""Runs the encoder on ONNX Runtime: texts in, unit vectors out."""

import contextlib
import ctypes
import io
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from extproc.embedding.batching import Encoded
from extproc.embedding.encoder_files import (
    CENTRE,
    DIMENSIONS,
    INNER_DIMENSIONS,
    EncoderFiles,
    Precision,
)
from extproc.embedding.encoder_models import MINILM, EncoderModel
from extproc.embedding.static_encoder import open_static_encoder
from extproc.embedding.tokenizer import Ids, Tokenizer, estimate_tokens, pad
from extproc.errors import EncoderFailed, EncoderMissing, OperatorError
from extproc.registry import schema
from extproc.routing.turn_reading import StaticEncoder
from extproc.vocabulary import Embedding, Encoder

logger = logging.getLogger("extproc.embedding")

Device = Literal["cpu", "cuda"]

_PROVIDERS: dict[Device, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
# Tokens of one inference, with the padding. A CPU is as fast per token at 256 as at 512, and slower at 2,048,
# so larger batches only make texts wait for each other. A GPU is faster with large batches.
BATCH_TOKENS: dict[Device, int] = {"cpu": 256, "cuda": 16_384}
_OUTPUTS = ["embedding", "inner"]  # the names in embedding.graph, which cannot be imported without onnx
DEEP = "/deep"  # the suffix of a `DeepEncoder`'s name
_ERRORS_ONLY = 3  # ONNX Runtime's severity scale
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
MOST_THREADS = 4
CHUNK = 256  # texts between two reports of progress


class OnnxEncoder:
    """A ``vocabulary.Encoder`` and a ``batching.BatchEncoder`` on ONNX Runtime. Thread-safe."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        tokenizer: Tokenizer,
        precision: Precision,
        static: StaticEncoder | None = None,
        model: EncoderModel = MINILM,
        centre: NDArray[np.float32] | None = None,
    ) -> None:
        """``static`` is the static encoder that was distilled from this one.

        ``centre`` of shape (dimensions,) is subtracted from each vector, which is then of unit length again.
        """
        self.static = static
        self._model = model
        self._centre = centre
        self._session = session
        self._tokenizer = tokenizer
        self.precision = precision
        self.dimensions = DIMENSIONS
        self.device = session_device(session)
        self.batch_tokens = BATCH_TOKENS[self.device]

    @property
    def name(self) -> str:
        """Model, precision, greatest number of tokens, conversion recipe: everything that affects vectors."""
        return f"{self._model.name}/{self.precision}/{self._tokenizer.max_tokens}/r{self._model.recipe}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of shape (len(texts), dimensions). Raises ``errors.EncoderFailed``."""
        return self.embed(texts).vectors

    def embed(self, texts: Sequence[str]) -> Encoded:
        """Vectors and token counts. Raises ``errors.EncoderFailed``.

        On a CPU, equal texts get equal vectors, bit for bit, whatever other texts are in the call: only texts
        of the same number of tokens run together, because padding changes the last bits of a vector. On
        CUDA, texts of similar length run together, and vectors may differ in the last bits.
        """
        rows = self._tokenizer.tokenize(texts)
        tokens = np.array([row.size for row in rows], np.int32)
        vectors = np.empty((len(rows), self.dimensions), np.float32)
        inner = np.empty((len(rows), INNER_DIMENSIONS), np.float32)
        for members in batches_by_length(tokens, self.batch_tokens, padding=self.device == "cuda"):
            vectors[members], inner[members] = self._run([rows[index] for index in members])
        return Encoded(vectors, inner, tokens)

    def estimate_tokens(self, text: str) -> int:
        """The approximate number of tokens that ``embed`` reads of a text, without tokenizing it."""
        return estimate_tokens(text, self._tokenizer.max_tokens)

    def _run(self, rows: Sequence[Ids]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        ids, mask = pad(rows)
        try:
            vectors, inner = self._session.run(_OUTPUTS, {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise EncoderFailed(f"inference failed: {error}") from error
        if not (np.isfinite(vectors).all() and np.isfinite(inner).all()):
            raise EncoderFailed("inference returned numbers that are not finite")
        return (vectors if self._centre is None else _centred(vectors, self._centre)), inner


class DeepEncoder:
    """A ``vocabulary.Encoder`` whose vectors include the inner layers, for training.

    Rows are (dimensions + inner dimensions,): the embedding first, then ``Embedding.inner``.
    """

    def __init__(self, encoder: OnnxEncoder) -> None:
        self._encoder = encoder

    @property
    def name(self) -> str:
        """The encoder's name with a suffix, because a cache must not mix the two kinds of rows."""
        return f"{self._encoder.name}{DEEP}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), dimensions + inner dimensions). Raises ``errors.EncoderFailed``."""
        encoded = self._encoder.embed(texts)
        return np.hstack([encoded.vectors, encoded.inner])


class ReportingEncoder:
    """A ``vocabulary.Encoder`` that reports progress, because thousands of texts take minutes."""

    def __init__(self, encoder: Encoder, progress: Callable[[int, int], None], at_once: int = 1) -> None:
        """``progress`` gets the number of encoded texts and of all texts.

        ``encoder`` is called from ``at_once`` threads, see ``calls_at_once``.
        """
        self._encoder = encoder
        self._progress = progress
        self._at_once = at_once

    @property
    def name(self) -> str:
        """The name of the wrapped encoder."""
        return self._encoder.name

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``vocabulary.Encoder``."""
        chunks, parts = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)], []
        with ThreadPoolExecutor(self._at_once) as threads:
            for part in threads.map(self._encoder.encode, chunks):
                parts.append(part)
                self._progress(min(len(parts) * CHUNK, len(texts)), len(texts))
        return np.concatenate(parts) if parts else self._encoder.encode(texts)


def embeddings_of(rows: NDArray[np.float32]) -> list[Embedding]:
    """An encoder's rows, deep or not, as the embeddings of requests."""
    inner = [row[DIMENSIONS:] if len(row) > DIMENSIONS else None for row in rows]
    return [
        Embedding(row[:DIMENSIONS], tokens=0, queue_s=0.0, infer_s=0.0, inner=layers)
        for row, layers in zip(rows, inner, strict=True)
    ]


def batches_by_length(tokens: NDArray[np.int32], budget: int, *, padding: bool) -> Iterator[NDArray[np.intp]]:
    """The indices of texts to run together: sorted by length, at most ``budget`` padded tokens per batch.

    Without ``padding``, all texts of a batch have the same length. A text longer than the budget is a batch
    of its own.
    """
    order = np.argsort(tokens, kind="stable")
    lengths = tokens[order].tolist()
    start = 0
    for end in range(1, len(lengths) + 1):
        if (
            end == len(lengths)
            or (end + 1 - start) * lengths[end] > budget
            or (not padding and lengths[end] > lengths[start])
        ):
            yield order[start:end]
            start = end


def session_device(session: onnxruntime.InferenceSession) -> Device:
    """The device that the session uses, which may differ from the requested one."""
    return "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"


def cuda_devices() -> int:
    """The number of CUDA devices, by the driver. 0 without a driver.

    This is checked first, because ONNX Runtime offers CUDA whenever it was built with it, and logs errors on
    standard error if it does not load.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def open_encoder(
    files: EncoderFiles, settings: schema.EncoderSettings, count_devices: Callable[[], int] = cuda_devices
) -> OnnxEncoder:
    """Open the encoder on the registry's device, and run it once.

    ``auto`` uses CUDA if it works, else the CPU, and logs which. Raises ``OperatorError`` if the registry
    requires ``cuda`` and it does not work, and ``EncoderMissing`` if a file cannot be opened.
    """
    encoder = _open_cuda(files, settings, count_devices)
    if encoder is None:
        encoder = _open(files, settings, "cpu")
    encoder.encode(["The first inference allocates, so it is not a client's."])
    logger.info("encoder %s runs on %s", encoder.name, encoder.device)
    return encoder


def _open_cuda(
    files: EncoderFiles, settings: schema.EncoderSettings, count_devices: Callable[[], int]
) -> OnnxEncoder | None:
    """The encoder on CUDA. None: the registry requires the CPU, or CUDA does not work and is not required."""
    if settings.device == "cpu":
        return None
    problem = ""
    if settings.precision == "int8":
        problem = "int8 runs on the CPU only"
    elif count_devices() == 0:
        problem = "the driver shows no CUDA device"
    else:
        _preload_cuda_libraries()
        encoder = _open(files, settings, "cuda")
        if encoder.device == "cuda":
            return encoder
        problem = "ONNX Runtime could not load its CUDA libraries; its log says which"
    if settings.device == "cuda":
        raise OperatorError(f"encoder.device is cuda, but {problem}")
    logger.info("encoder not on cuda: %s", problem)
    return None


def _open(files: EncoderFiles, settings: schema.EncoderSettings, device: Device) -> OnnxEncoder:
    precision = _precision(settings, device)
    session = _session(files.graph(precision), settings, device)
    tokenizer = Tokenizer(files.tokenizer, settings.max_tokens, files.model.prefix)
    if files.model.name != MINILM.name:  # its static vectors would be of a quarter of a million tokens
        return OnnxEncoder(session, tokenizer, precision, model=files.model, centre=_read_centre(files))
    static = open_static_encoder(files.static_tokens, files.static_documents, files.tokenizer)
    return OnnxEncoder(session, tokenizer, precision, static)


def _read_centre(files: EncoderFiles) -> NDArray[np.float32]:
    path = files.directory / CENTRE
    try:
        centre: NDArray[np.float32] = np.load(path)
    except (OSError, ValueError) as error:
        raise EncoderMissing(f"{path} cannot be read: {error}") from error
    return centre


def _centred(vectors: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = vectors - centre
    unit: NDArray[np.float32] = moved / np.sqrt((moved * moved).sum(axis=1, keepdims=True))
    return unit


def _precision(settings: schema.EncoderSettings, device: Device) -> Precision:
    if settings.precision != "auto":
        return settings.precision
    return "int8" if device == "cpu" else "fp16"


def _session(graph: Path, settings: schema.EncoderSettings, device: Device) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads or default_threads(allowed_cores())
    options.log_severity_level = _ERRORS_ONLY
    # Spinning makes two threads a third faster on an idle machine. On a busy one, it takes cores that Envoy
    # and the event loop need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=_PROVIDERS[device])
    except Exception as error:  # the runtime's exceptions share no base of their own
        raise EncoderMissing(f"{graph} cannot be opened: {error}") from error


def _preload_cuda_libraries() -> None:
    """Load CUDA and cuDNN from their Python packages, if these are installed.

    The runtime's helper prints what it does not find. These lines go to the log instead of standard output.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    for line in printed.getvalue().splitlines():
        logger.info("%s", line)


def default_threads(cores: int) -> int:
    """Half of the cores, at least one, at most ``MOST_THREADS``.

    Envoy and the event loop use the other half. A second thread makes a text of 16 tokens slower, because it
    must be woken (measured on two cores: 1.5 and 1.9 ms).
    """
    return max(1, min(MOST_THREADS, cores // 2))


def calls_at_once(encoder: OnnxEncoder, settings: schema.EncoderSettings) -> int:
    """How many calls keep all cores busy, for a command that has the machine to itself.

    It is 1 on CUDA, and where the registry limits the encoder's threads.
    """
    if encoder.device == "cuda" or settings.threads:
        return 1
    cores = allowed_cores()
    return max(1, cores // default_threads(cores))


def allowed_cores(cpu_max: Path = CPU_MAX) -> int:
    """The number of cores that this process may use: its affinity, limited by its cgroup's quota.

    A container limited to one CPU of a large node sees all cores of the node. Threads for all of them would
    use up the quota at once and then stop for the rest of each period.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):  # without cgroup v2, the quota is not known
        return cores
    if quota == "max":
        return cores
    return min(cores, math.ceil(int(quota) / int(period)))
