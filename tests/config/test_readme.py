"""Every example of config/README.md is a good registry's part, and every key there is has its example."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from extproc.registry import cascades, gates, schema, upstreams
from extproc.registry.loading import load
from extproc.registry.section import Section

README = (Path(__file__).parents[2] / "config" / "README.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
ALL_APIS = ["openai.chat", "openai.completions", "openai.responses", "anthropic.messages"]


def whole(block: str) -> dict[str, Any]:
    """A registry that has this part."""
    part = yaml.safe_load(block)
    price = {"input": 1, "output": 1}
    models = {
        "small": {"base_url": "http://127.0.0.1:1", "price": price},
        "large": {"base_url": "http://127.0.0.1:2", "price": price, "apis": ALL_APIS},
    }
    routes = {"code": {"candidates": "small", "examples": ["Write a bash script"]}}
    return {"default": "large", "routes": routes, **part, "models": models | part.get("models", {})}


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_is_good(block: str, tmp_path: Path) -> None:
    (tmp_path / "more-code.txt").write_text("Implement binary search in Rust\n")
    (tmp_path / "holdout.jsonl").write_text('{"text": "Sort a list in Python", "route": "code"}\n')
    path = tmp_path / "registry.yaml"
    path.write_text(yaml.safe_dump(whole(block), sort_keys=False))
    assert load(path).registry.models


def sections() -> Iterator[type[Section]]:
    for module in (schema, upstreams, cascades, gates):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Section) and value is not Section:
                yield value


@pytest.mark.parametrize("section", sorted(set(sections()), key=lambda kind: kind.__name__))
def test_every_key_is_shown(section: type[Section]) -> None:
    shown = set(re.findall(r"(\w+):(?=[ \n])", "".join(BLOCKS)))
    assert {field.encode_name for field in msgspec.structs.fields(section)} <= shown
