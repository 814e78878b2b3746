"""What is pinned can be fetched from whichever index a machine is set up for."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").glob("requirements*.txt")), ids=lambda path: path.name
)
def test_python_packages_are_pinned_by_hash_and_name_no_index(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"index-url|find-links|://", text)
    packages = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, re.DOTALL | re.MULTILINE)
    assert packages
    assert [package for package in packages if "==" not in package or "--hash=sha256:" not in package] == []


def test_npm_packages_are_pinned_by_hash_and_name_no_registry() -> None:
    lock = json.loads((ROOT / "tests/clients/package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if "integrity" not in package] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []
