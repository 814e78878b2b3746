"""A static encoder: embeds a text from its tokens alone, in microseconds.

Each token of the encoder's vocabulary has one vector: what the encoder makes of that token alone, reduced
to its principal components and weighted by rarity. A text's vector is the mean of its tokens' vectors, as in
Model2Vec (Tulkens and van Dongen, 2024). It is coarser than the encoder's, and good enough to find the
sentence of a long turn that asks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.tokenizer import Ids, Tokenizer
from extproc.errors import EncoderMissing
from extproc.routing.scorers import Matrix, spherical_k_means

COMPONENTS = 256
DOCUMENT_KINDS = 300  # directions that stand for the sentences of documents
_SENTENCES = "document_sentences.txt"
_UNKNOWN, _CLS, _SEP = 100, 101, 102  # tokens of the vocabulary that stand for no text
_FIRST_WORD = 1996  # the ids below are special tokens, letters and marks
STATIC_MAX_TOKENS = 128  # of one text; a longer one is cut as the encoder cuts it

EmbedIds = Callable[[Sequence[Ids]], Matrix]


class TokenVectorEncoder:
    """Implements ``turn_reading.StaticEncoder``. Thread-safe."""

    def __init__(self, tokens: NDArray[np.float16], documents: Matrix, tokenizer: Tokenizer) -> None:
        """``tokens`` has a row for each token of the vocabulary, shape (vocabulary, components).

        ``documents`` has unit rows, shape (kinds, components).
        """
        self._tokens = tokens
        self._tokenizer = tokenizer
        self.documents = documents

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Unit vectors of shape (len(texts), components); zero for a text without known tokens."""
        found = np.empty((len(texts), self._tokens.shape[1]), np.float32)
        for row, ids in zip(found, self._tokenizer.tokenize(texts), strict=True):
            self._tokens[ids[1:-1]].sum(axis=0, dtype=np.float32, out=row)
            row /= np.float32(max(math.sqrt(float(row @ row)), 1e-12))
        return found

    @cached_property
    def words(self) -> Mapping[str, int]:
        """The whole words of the vocabulary with their rank; a frequent word has a low rank."""
        return {
            token: number
            for token, number in self._tokenizer.vocabulary().items()
            if number >= _FIRST_WORD and len(token) > 1 and token.isalpha()
        }


def open_static_encoder(tokens: Path, documents: Path, tokenizer: Path) -> TokenVectorEncoder:
    """Open the files that ``distil`` and ``document_kinds`` made.

    The tokens' vectors are mapped into memory, so that processes share them. Raises ``EncoderMissing``.
    """
    try:
        mapped = np.asarray(np.load(tokens, mmap_mode="r"))  # a plain array of it is faster to index
        return TokenVectorEncoder(mapped, np.load(documents), Tokenizer(tokenizer, STATIC_MAX_TOKENS))
    except (OSError, ValueError) as error:
        raise EncoderMissing(f"{tokens} or {documents} cannot be read: {error}") from error


def distil(embed: EmbedIds, vocabulary: int) -> NDArray[np.float16]:
    """A vector for each token, shape (vocabulary, COMPONENTS).

    The vocabulary is ordered by frequency, so the logarithm of a token's number gives rare tokens more
    weight (Zipf's law), as inverse document frequency does.
    """
    alone = embed([np.array([_CLS, token, _SEP], np.int32) for token in range(vocabulary)])
    centred = (alone - alone.mean(axis=0)).astype(np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    reduced = centred @ directions[:, ::-1][:, :COMPONENTS]
    reduced *= np.log1p(np.arange(vocabulary))[:, None]
    reduced[[_UNKNOWN, _CLS, _SEP]] = 0.0
    tokens: NDArray[np.float16] = reduced.astype(np.float16)
    return tokens


def document_kinds(static: TokenVectorEncoder) -> Matrix:
    """The directions of sentences in documents, shape (DOCUMENT_KINDS, components)."""
    lines = resources.files("extproc.embedding").joinpath(_SENTENCES).read_text("utf-8").splitlines()
    return spherical_k_means(static.encode([line.strip() for line in lines if line.strip()]), DOCUMENT_KINDS)
