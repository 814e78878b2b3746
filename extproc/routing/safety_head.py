"""The safety head: how probable it is that a request belongs to a class of harm, by its embedding.

It reads the same embeddings as the router, with the encoder's inner layers, so it needs no second encoder. It
reads the user's turns, the latest first, each by its beginning and its end, in at most ``PIECES`` pieces. The
surest piece counts. It does not read system prompts, answers, or what tools return.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.routing.trained_heads import Inputs, Trained, log_softmax
from extproc.vocabulary import ChatRequest, Embedding

PIECES: Final = 4
PIECE: Final = 600  # characters: about as much as the encoder reads at a time


class SafetyHead(msgspec.Struct, frozen=True):
    """A head whose first class is ordinary traffic."""

    head: Trained
    classes: tuple[str, ...]  # without the ordinary one
    thresholds: tuple[float, ...]  # of each class: a greater probability counts

    def probabilities(self, embeddings: Sequence[Embedding]) -> NDArray[np.float64]:
        """Of each class, that of the surest piece; shape (classes,)."""
        vectors = np.stack([embedding.vector for embedding in embeddings])
        inner = np.stack([embedding.inner for embedding in embeddings if embedding.inner is not None])
        of_pieces = probabilities(self.head, Inputs(vectors=vectors, inner=inner))
        surest: NDArray[np.float64] = of_pieces.max(axis=0)
        return surest

    def above(self, found: NDArray[np.float64]) -> tuple[str, ...]:
        """The classes whose probability is greater than their threshold."""
        return tuple(
            name
            for name, probability, threshold in zip(self.classes, found, self.thresholds, strict=True)
            if probability > threshold
        )


def probabilities(head: Trained, inputs: Inputs) -> NDArray[np.float64]:
    """Of each row and each class but the ordinary one; shape (rows, classes)."""
    of_all: NDArray[np.float64] = np.exp(log_softmax(head.logits(inputs)).astype(np.float64))
    return of_all[:, 1:]


def pieces_of(request: ChatRequest) -> tuple[str, ...]:
    """What the head reads of a request; empty if its user wrote nothing."""
    turns = request.user_turns or ((request.user_text,),)
    found: list[str] = []
    for parts in reversed(turns):
        found += pieces_of_text("\n".join(parts))
        if len(found) >= PIECES:
            break
    return tuple(dict.fromkeys(found[:PIECES]))


def pieces_of_text(text: str) -> tuple[str, ...]:
    """The beginning and the end of a text, or all of a short one."""
    text = text.strip()
    if len(text) <= PIECE:
        return (text,) if text else ()
    return text[:PIECE], text[-PIECE:]
