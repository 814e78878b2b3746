"""A wheel of this project, installed by pip without a package index."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    folder = str(tmp_path_factory.mktemp("wheel"))
    return Path(next(WheelBuilder(str(checkout)).build(directory=folder, versions=["standard"])))


def run(command: list[str], **environment: str) -> str:
    """What it prints; it must succeed and say nothing on stderr."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize(("extra", "package"), [("eval", "scipy"), ("convert", "onnx")])
def test_pip_takes_the_wheel_with_an_extra(wheel: Path, tmp_path: Path, extra: str, package: str) -> None:
    report = tmp_path / "report.json"
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--no-index", "--quiet"]
    run([*PIP, "install", *options, "--report", str(report), f"{wheel}[{extra}]"])
    (installed,) = json.loads(report.read_text())["install"]
    metadata: dict[str, Any] = installed["metadata"]
    assert installed["requested_extras"] == [extra]
    assert extra in metadata["provides_extra"]
    of_extra = [
        each for each in metadata["requires_dist"] if each.replace('"', "'").endswith(f"extra == '{extra}'")
    ]
    assert any(each.startswith(f"{package}==") for each in of_extra)


def test_what_a_wheel_installs_runs_and_keeps_its_encoder_in_the_users_cache(
    wheel: Path, tmp_path: Path
) -> None:
    target = tmp_path / "site-packages"
    run([*PIP, "install", "--no-deps", "--no-index", "--quiet", "--target", str(target), str(wheel)])
    asked = (
        "import extproc.cli, os; from extproc.embedding.encoder_files import default_directory; "
        "from extproc.missing_extras import install_command; "
        "print(extproc.__file__, default_directory({'XDG_CACHE_HOME': '/cache'}), install_command('convert'), sep='\\n')"
    )
    package, encoder, command = run([sys.executable, "-P", "-c", asked], PYTHONPATH=str(target)).splitlines()
    assert package == str(target / "extproc/__init__.py")
    assert encoder == "/cache/envoy-semantic-router/all-MiniLM-L6-v2"
    assert command.startswith("pip install onnx==")
