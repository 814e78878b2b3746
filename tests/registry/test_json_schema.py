"""The JSON Schema accepts what the loader accepts, refuses mistyped keys, and describes every key."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml

from extproc.cli import main
from extproc.registry.json_schema import json_schema, key_comments, sections
from extproc.registry.section import Section

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
SMALL: dict[str, Any] = {"models": {"a": {"base_url": "http://h:1"}}, "default": "a"}


def errors(registry: object) -> list[str]:
    """What a JSON Schema validator has against it."""
    return [error.message for error in jsonschema_rs.validator_for(json_schema()).iter_errors(registry)]


def with_route(**keys: object) -> dict[str, Any]:
    return {**SMALL, "routes": {"code": {"candidates": "a", "examples": ["Fix this bug"], **keys}}}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.name))
def test_every_example_is_valid(example: Path) -> None:
    assert errors(yaml.safe_load(example.read_text())) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.name))
def test_a_mistyped_key_is_not_valid(example: Path) -> None:
    registry = yaml.safe_load(example.read_text())
    model = next(iter(registry["models"].values()))
    model["base_ulr"] = model.pop("base_url")
    assert any("base_ulr" in error for error in errors(registry))


@pytest.mark.parametrize(
    "keys",
    [
        {"candidates": ["a"]},
        {"candidates": "a"},
        {"timeout_s": 60},
        {"timeout_s": 0.5},
        {"rollout": 10},
        {"rollout": "10 %"},
        {"mode": "observe"},
        {"retry": {"attempts": 2, "statuses": [503]}},
    ],
)
def test_one_or_many_durations_and_percentages_are_valid(keys: dict[str, object]) -> None:
    assert errors(with_route(**keys)) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"candidates": 3},
        {"timeout_s": 0},
        {"timeout_s": "60s"},
        {"rollout": 110},
        {"rollout": "ten"},
        {"mode": "watch"},
        {"retry": {"statuses": [200]}},
    ],
)
def test_values_that_the_loader_refuses_are_not_valid(keys: dict[str, object]) -> None:
    assert errors(with_route(**keys)) != []


@pytest.mark.parametrize("section", sections(), ids=lambda kind: str(kind.__name__))
def test_every_key_has_a_description(section: type[Section]) -> None:
    keys = [field.encode_name for field in msgspec.structs.fields(section)]
    assert [key for key in keys if key not in key_comments(section)] == []


def test_a_description_is_the_comment_in_the_source() -> None:
    definitions = json_schema()["$defs"]
    reference = definitions["Registry"]["properties"]["routes"]["additionalProperties"]["$ref"]
    route = definitions[reference.removeprefix("#/$defs/")]["properties"]
    assert route["fallback"]["description"] == "models to ask, in this order, when the chosen one fails"
    assert route["timeout_s"]["description"].startswith("Seconds until a model begins to answer. It never")


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
