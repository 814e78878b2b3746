"""Every YAML example of the documentation is a good registry's part, and every key there is has its example."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml

from docs.generate import declaring, examples_of, guide_blocks, keys_shown
from extproc.registry.json_schema import json_schema, sections
from extproc.registry.registry_loading import load
from extproc.registry.schema import Registry
from extproc.registry.section import Section
from tests.docs.pages import Block, blocks

SCHEMA = jsonschema_rs.validator_for(json_schema())
ALL_APIS = ["openai.chat", "openai.completions", "openai.responses", "anthropic.messages"]


def whole(block: str) -> dict[str, Any]:
    """A registry that has this part; the block itself where it is a whole one."""
    part: dict[str, Any] = yaml.safe_load(block)
    if isinstance(part.get("default"), str) and part["default"] in part.get("models", {}):
        return part
    price = {"input": 1, "output": 1}
    models = {
        "small": {"base_url": "http://127.0.0.1:1", "price": price},
        "large": {"base_url": "http://127.0.0.1:2", "price": price, "apis": ALL_APIS},
    }
    routes = {"code": {"candidates": "small", "examples": ["Write a bash script"]}}
    return {"default": "large", "routes": routes, **part, "models": models | part.get("models", {})}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_an_example_is_good(block: Block, tmp_path: Path) -> None:
    (tmp_path / "more-code.txt").write_text("Implement binary search in Rust\n")
    (tmp_path / "holdout.jsonl").write_text('{"text": "Sort a list in Python", "route": "code"}\n')
    path = tmp_path / "registry.yaml"
    path.write_text(yaml.safe_dump(whole(block.text), sort_keys=False))
    assert load(path, untrained=True).registry.models
    assert [error.message for error in SCHEMA.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize("section", sections(), ids=lambda kind: str(kind.__name__))
def test_every_key_is_shown_at_its_own_place(section: type[Section]) -> None:
    shown = examples_of(guide_blocks())
    keys = [(declaring(section, field.name), field.encode_name) for field in msgspec.structs.fields(section)]
    assert [key for owner, key in keys if (owner, key) not in shown] == []


def test_a_key_of_another_section_with_the_same_name_does_not_count() -> None:
    of_registry = {key for key, _ in keys_shown(Registry, {"thresholds": {"margin": 0.1}})}
    of_route = {key for key, _ in keys_shown(Registry, {"routes": {"a": {"thresholds": {"margin": 0.2}}}})}
    assert {name for _, name in of_registry} == {"thresholds", "margin"}
    assert {name for _, name in of_route} == {"routes", "thresholds", "margin"}
    assert of_registry.isdisjoint(of_route)
