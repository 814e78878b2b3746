"""The lock files of serving: one for every machine, and one without CUDA."""

import re
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"


def pins(name: str) -> dict[str, str]:
    """Each pinned distribution with its version and marker, without its hashes."""
    lines = (DEPLOY / name).read_text().splitlines()
    found = [re.match(r"([a-z0-9_.-]+)==(.*?) *\\?$", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_the_cpu_lock_differs_by_onnxruntime_alone() -> None:
    everywhere, cpu = pins("requirements.txt"), pins("requirements-cpu.txt")
    assert len(everywhere) > 20
    assert everywhere.pop("onnxruntime-gpu") == cpu.pop("onnxruntime")
    assert cpu == everywhere


def test_every_pin_of_the_cpu_lock_has_hashes() -> None:
    text = (DEPLOY / "requirements-cpu.txt").read_text()
    for pin in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in pin, pin
