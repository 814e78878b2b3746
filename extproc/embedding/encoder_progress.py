"""An encoder that tells how far it is: a first run over thousands of texts takes minutes."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from extproc.vocabulary import Encoder

CHUNK = 256  # texts between two reports of progress


class ReportingEncoder:
    """A ``vocabulary.Encoder`` that reports after every ``CHUNK`` texts."""

    def __init__(self, encoder: Encoder, progress: Callable[[int, int], None]) -> None:
        """``progress`` is told how many texts are done, and of how many."""
        self._encoder = encoder
        self._progress = progress

    @property
    def name(self) -> str:
        """That of the encoder behind."""
        return self._encoder.name

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``vocabulary.Encoder``."""
        parts = []
        for start in range(0, len(texts), CHUNK):
            parts.append(self._encoder.encode(texts[start : start + CHUNK]))
            self._progress(min(start + CHUNK, len(texts)), len(texts))
        return np.concatenate(parts) if parts else self._encoder.encode(texts)
