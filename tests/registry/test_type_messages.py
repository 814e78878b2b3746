"""A value of the wrong type is reported in plain words, with what was expected."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from extproc.registry.model_settings import Model, PriceSettings
from extproc.registry.schema import Cors, Registry, RouteSettings, ScorerSettings, When
from extproc.registry.section import Section
from extproc.registry.type_messages import TypeMistake, keys_at, stand_in, type_mistake

MODEL = {"base_url": "http://h"}
REGISTRY = {"models": {}, "default": "a"}


def mistake(kind: type, value: Any) -> TypeMistake:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, kind)
    return type_mistake(caught.value, kind)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (Model, MODEL | {"price": 0.5}, "must be a mapping such as {input: 0.1, output: 0.3}; got a decimal number"),
        (Model, MODEL | {"endpoints": ["h:1"]}, "must be a mapping with `address`; got text"),
        (Model, MODEL | {"load_balancing": 5}, "must be one of least_request, round_robin, random; got a whole number"),
        (Model, MODEL | {"max_requests": 1.5}, "must be a whole number; got a decimal number"),
        (Model, MODEL | {"max_requests": 0}, "must be a whole number >= 1"),
        (Model, {}, "missing key `base_url`"),
        (RouteSettings, {"rollout": []}, "must be a number or text; got a list"),
        (RouteSettings, {"mode": "off"}, "must be one of active, observe; got 'off'"),
        (RouteSettings, {"examples": [""]}, "must not be empty"),
        (ScorerSettings, {"kind": None}, "must be one of centroid, prototypes, logistic; got nothing"),
        (Cors, {"origins": []}, "must not be empty"),
        (Registry, REGISTRY | {"envoy": True}, "must be a mapping; got true or false"),
        (Registry, REGISTRY | {"without_sidecar": {"openai.chat": "deny"}}, "must be one of default, refuse; got 'deny'"),
        (When, {5: 5}, "must be text"),
    ],
)  # fmt: skip
def test_the_problem_says_what_was_expected_and_what_was_given(kind: type, value: Any, problem: str) -> None:
    assert mistake(kind, value).problem == problem


def test_a_secret_in_place_of_a_mapping_is_not_repeated() -> None:
    found = mistake(Model, MODEL | {"auth": "sk-123"})
    assert found.problem == "must be passthrough or a mapping such as {env: NAME_OF_A_VARIABLE}"


def test_the_path_leads_to_the_value_or_to_the_mapping_whose_key_is_not_known() -> None:
    rules = REGISTRY | {"rules": [{"name": "a", "when": {"header": {"x": 5}}}]}
    found = mistake(Registry, rules)
    assert (found.place, found.path) == ("rules[0].when.header[...]", ("rules", 0, "when", "header"))
    assert mistake(When, []).path == ()


def test_missing_and_unknown_keys_are_named() -> None:
    assert mistake(PriceSettings, {"input": 1}).missing == "output"
    assert mistake(PriceSettings, {"input": 1, "outputs": 1, "output": 1}).unknown == "outputs"


def test_the_keys_of_a_section_are_those_that_a_registry_takes() -> None:
    assert keys_at(Model, ("price",)) == ["input", "output"]
    assert keys_at(Registry, ("rules", 0)) == ["name", "when", "in", "deny", "route", "model", "label"]


def sections(kind: type[Section]) -> Iterator[type[Section]]:
    for each in kind.__subclasses__():
        yield each
        yield from sections(each)


@pytest.mark.parametrize("section", sorted(set(sections(Section)), key=lambda kind: kind.__name__))
def test_a_required_key_has_a_value_that_can_stand_in_for_it(section: type[Section]) -> None:
    for key, kind in (
        (each.encode_name, each.type) for each in msgspec.structs.fields(section) if each.required
    ):
        value = stand_in(section, (key,))
        assert (
            value in ({}, [{}]) or msgspec.convert(value, kind) == value
        )  # the keys of a mapping have stand-ins of their own
