"""A small world: an encoder that counts words, and a registry that it can route."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.lab.measure.replay import CandidateRegistry
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot

REGISTRY = """\
models:
  small: {base_url: 'http://127.0.0.1:1'}
  large: {base_url: 'http://127.0.0.1:2'}
default: large
rules:
  - name: secrets
    when: {keyword: password}
    deny: No passwords, please.
  - name: bugs
    when: {keyword: bug}
    route: code
routes:
  code:
    candidates: large
    examples: [fix my python code, write python code, my code fails]
  greeting:
    candidates: small
    examples: [hello dear friend, good morning friend, hello good day]
thresholds: {margin: 0.1, similarity: 0.3}
"""


class WordCounts:
    """A ``vocabulary.Encoder``: each word is a direction of its own, nearly."""

    name = "word-counts"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.full((len(texts), 64), 1e-3, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.split():
                row[zlib.crc32(word.encode()) % 64] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def candidate_of(path: Path, text: str = REGISTRY) -> CandidateRegistry:
    """The registry ``text``, written to ``path`` and compiled with the word counter."""
    path.write_text(text)
    loaded, encoder = load(path), WordCounts()
    return CandidateRegistry(loaded, compile_snapshot(loaded, encoder), encoder)


@pytest.fixture
def candidate(tmp_path: Path) -> CandidateRegistry:
    return candidate_of(tmp_path / "registry.yaml")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight rows: five in scope, three out; two paraphrase groups, one of them split."""
    path = tmp_path / "holdout.jsonl"
    path.write_text(
        """\
{"text": "please fix python code", "route": "code", "group": "a"}
{"text": "fix the python code", "route": "code", "group": "a"}
{"text": "hello friend", "route": "greeting", "group": "b"}
{"text": "greetings", "route": "greeting", "group": "b"}
{"text": "good morning friend", "route": "greeting"}
{"text": "will it rain", "route": null}
{"text": "hello code", "route": null}
{"text": "my password is rosebud", "route": null}
"""
    )
    return path
