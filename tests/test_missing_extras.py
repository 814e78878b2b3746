"""What a message tells a user to install can be installed."""

import re
import tomllib
from pathlib import Path

import pytest

from extproc.errors import OperatorError
from extproc.missing_extras import install_command, needed

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
DISTRIBUTION = "envoy-semantic-router"
# An operator reads all of these.
TEXTS = [
    *(ROOT / "extproc").rglob("*.py"),
    *(ROOT / "deploy").glob("*.yaml"),
    *ROOT.glob("*.md"),
    *ROOT.glob("*/*.md"),
    ROOT / "Makefile",
]


@pytest.mark.parametrize("extra", ["convert", "eval"])
def test_the_command_installs_the_packages_of_the_extra(extra: str) -> None:
    assert install_command(extra).split() == ["pip", "install", *EXTRAS[extra]]


def test_a_message_says_what_is_missing_and_how_to_install_it() -> None:
    missing = ModuleNotFoundError("No module named 'onnx'", name="onnx")
    assert (
        needed("converting", missing, "convert")
        == f"converting needs onnx: pip install {EXTRAS['convert'][0]}"
    )


def test_an_extra_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OperatorError, match="no extra named 'gpu'"):
        install_command("gpu")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_installs_this_project_from_a_package_index(path: Path) -> None:
    # With ` @ SOURCE` behind the name, pip takes it from there.
    from_an_index = rf"(pip install|additional_dependencies).*{DISTRIBUTION}(\[\w+\])?['\"]?(?! @ )"
    assert re.findall(from_an_index + r"\W*$", path.read_text(), re.MULTILINE) == []
