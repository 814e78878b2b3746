"""Whom a cascade asks, in which order, and what is generated for it."""

from pathlib import Path
from typing import Any

from extproc.envoyconf.bootstrap import resources
from extproc.envoyconf.chains import Call, chains
from extproc.envoyconf.typed_config import Names, Site
from extproc.registry.cascade_settings import Cascade, Tier
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, RouteSettings
from extproc.vocabulary import Api

CHAT, MESSAGES = [Api.OPENAI_CHAT], [Api.ANTHROPIC_MESSAGES]


def registry(default: Any = "c", models: dict[str, list[Api]] | None = None, **cascade: Any) -> Registry:
    speaks = models or dict.fromkeys("abc", CHAT)
    tiers = [Tier(model="a", gate="g"), Tier(model="b", gate="g")]
    return Registry(
        models={name: Model(base_url="http://127.0.0.1:1", apis=apis) for name, apis in speaks.items()},
        default=default,
        cascades={"x": Cascade(**{"tiers": tiers, **cascade}), "unused": Cascade(tiers=tiers)},
        routes={"r": RouteSettings(candidates=["a", "b"], cascade="x")},
    )


def asked(registry: Registry) -> dict[str, list[tuple[str, int | None, bool]]]:
    return {
        name: [(call.model, call.tier, call.judged) for call in calls]
        for name, calls in chains(registry).items()
    }


def test_from_each_tier_on_and_then_the_default() -> None:
    assert asked(registry()) == {
        "cascade-x-a|b|c": [("a", 0, True), ("b", 1, True), ("c", None, False)],
        "cascade-x-b|c": [("b", 1, True), ("c", None, False)],
        "cascade-x-c": [("c", None, False)],
    }


def test_a_default_that_is_a_tier_is_not_asked_again_and_the_last_is_not_judged() -> None:
    assert asked(registry(default="b")) == {
        "cascade-x-a|b": [("a", 0, True), ("b", 1, False)],
        "cascade-x-b": [("b", 1, False)],
    }


def test_no_more_calls_than_may_be_made() -> None:
    assert asked(registry(max_calls=2))["cascade-x-a|b"] == [("a", 0, True), ("b", 1, False)]
    assert asked(registry(max_calls=1))["cascade-x-a"] == [("a", 0, False)]


def test_a_tier_that_does_not_speak_the_api_is_passed_over() -> None:
    found = asked(
        registry(
            default={"openai.chat": "c", "anthropic.messages": "b"},
            models={"a": [*CHAT, *MESSAGES], "b": MESSAGES, "c": CHAT},
        )
    )
    assert found["cascade-x-a|c"] == [("a", 0, True), ("c", None, False)]
    assert found["cascade-x-a|b"] == [("a", 0, True), ("b", 1, False)]


def test_hops_that_differ_are_other_listeners() -> None:
    hops = {call.hop for calls in chains(registry()).values() for call in calls}
    assert hops == {"hop-a~x.0.judged", "hop-b~x.1.judged", "hop-c~x.last"}
    assert Call("a").hop == "hop-a"


def test_a_cascade_that_no_route_names_costs_nothing() -> None:
    used = registry()
    unused = Registry(
        models=used.models, default="c", cascades=used.cascades, routes={"r": RouteSettings(candidates="a")}
    )
    plain = Registry(models=used.models, default="c", routes={"r": RouteSettings(candidates="a")})
    site = Site(Path())
    assert resources(unused, "", site, Names()) == resources(plain, "", site, Names())
