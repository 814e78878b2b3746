"""Converts texts to token ids, and cuts both to what the encoder can read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from extproc.errors import EncoderMissing

Ids = NDArray[np.int32]

# English prose has 4 to 5 characters a token, so a cut text nearly always fills the encoder. The tokenizer
# reads a kilobyte in 0.2 ms, and 16 KB in 4 ms.
CUT_CHARS_PER_TOKEN = 8
ESTIMATED_CHARS_PER_TOKEN = 4
_SPECIAL_TOKENS = 2  # [CLS] before and [SEP] behind every text
_JOINT = "\n"


def cut(text: str, max_tokens: int) -> str:
    """The head and the tail of a text that is too long for the encoder. A shorter text does not change.

    People paste a document with a question before or after it. So equal parts of both ends are kept, and the
    middle is removed. The result has at most ``CUT_CHARS_PER_TOKEN`` characters per token. If it still has
    too many tokens, these are cut the same way.
    """
    limit = CUT_CHARS_PER_TOKEN * max_tokens
    if len(text) <= limit:
        return text
    tail = (limit - len(_JOINT)) // 2
    head = limit - len(_JOINT) - tail
    return text[:head] + _JOINT + text[-tail:]


def estimate_tokens(text: str, max_tokens: int) -> int:
    """The approximate number of tokens of a text, from its length alone."""
    return min(max_tokens, len(text) // ESTIMATED_CHARS_PER_TOKEN + _SPECIAL_TOKENS)


def pad(rows: Sequence[Ids]) -> tuple[Ids, Ids]:
    """Token ids and attention mask, both (len(rows), longest row), padded on the right."""
    lengths = np.array([row.size for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int32)  # 0 is [PAD]
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.int32)


class Tokenizer:
    """The encoder's tokenizer. It returns ids for every str, so no text can fail its batch."""

    def __init__(self, path: Path, max_tokens: int, prefix: str = "") -> None:
        """``prefix`` goes before every text. Raises ``EncoderMissing`` if the file is not a tokenizer."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise EncoderMissing(f"{path} is not a tokenizer: {error}") from error
        # The file sets fixed padding, and a truncation that drops the tail.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens
        self._prefix = prefix

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text with [CLS] and [SEP], at most ``max_tokens``.

        Releases the GIL while it works.
        """
        encodings = self._tokenizer.encode_batch_fast([self._readable(text) for text in texts])
        return [self._truncated(np.array(encoding.ids, np.int32)) for encoding in encodings]

    def vocabulary(self) -> dict[str, int]:
        """The number of each token."""
        return self._tokenizer.get_vocab()

    def _readable(self, text: str) -> str:
        """The cut text. A lone surrogate, which is possible in JSON but not in UTF-8, becomes '?'."""
        return self._prefix + cut(text, self.max_tokens).encode("utf-8", "replace").decode("utf-8")

    def _truncated(self, ids: Ids) -> Ids:
        if ids.size <= self.max_tokens:
            return ids
        tail = self.max_tokens // 2
        return np.concatenate([ids[: self.max_tokens - tail], ids[-tail:]])
