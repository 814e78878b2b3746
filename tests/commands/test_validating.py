"""`extproc validate` holds a registry to its holdout with the encoder that serves."""

from pathlib import Path

import pytest

from extproc.cli import main
from extproc.embedding.files import EncoderFiles

REGISTRY = """\
models: {a: {base_url: 'http://h:1'}}
default: a
holdout: {data: holdout.jsonl, min_accuracy: 1}
routes:
  code: {candidates: a, examples: [Fix this bug, Write a bash script]}
  poetry: {candidates: a, examples: [Write a sonnet about the sea, Compose a poem on autumn]}
"""
ROWS = """\
{"text": "Write a Python script", "route": "code"}
{"text": "Write a poem about the sea", "route": "poetry"}
"""


@pytest.fixture
def registry(tmp_path: Path, encoder_files: EncoderFiles) -> Path:
    (tmp_path / "holdout.jsonl").write_text(ROWS)
    path = tmp_path / "r.yaml"
    path.write_text(REGISTRY)
    return path


def test_a_registry_that_routes_its_holdout_is_good(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(registry)]) == 0
    assert "; holdout: 2 of 2 rows right (1.000)\n" in capsys.readouterr().out


def test_one_that_does_not_fails_with_the_line(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped = REGISTRY.replace("code:", "c:").replace("poetry:", "code:").replace("c:", "poetry:", 1)
    registry.write_text(swapped)
    assert main(["validate", str(registry)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(
        f"extproc: {registry}:3: holdout: 0 of 2 rows right (0.000): below min_accuracy 1;"
    )
    assert "wrong in holdout.jsonl, lines 1, 2" in told
