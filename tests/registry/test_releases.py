"""Which versions of the registry can serve, and for how long."""

from typing import cast

import pytest
from msgspec import structs

from extproc.gate.judge import Judge
from extproc.gate.judged_tier import JudgedTier
from extproc.registry.model_settings import PriceSettings
from extproc.registry.releases import Release, Releases
from extproc.vocabulary import Api, Mode, Served, Terms
from tests.releases import release


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def releases(clock: Clock) -> Releases:
    return Releases(release("v1"), clock)


def version_of(found: Release | None) -> str:
    return cast(Release, found).version


def test_an_envoy_that_does_not_say_gets_the_newest(releases: Releases) -> None:
    releases.add(release("v2"))
    assert version_of(releases.of("")) == "v2"
    assert releases.newest.version == "v2"


def test_an_envoy_gets_the_version_that_it_holds(releases: Releases) -> None:
    releases.add(release("v2"))
    assert version_of(releases.of("v1")) == "v1"
    assert releases.versions == ("v1", "v2")


def test_a_version_that_is_not_here_is_no_other(releases: Releases) -> None:
    assert releases.of("v0") is None


def test_what_a_version_decided_that_is_not_here_is_recorded_by_the_newest(releases: Releases) -> None:
    releases.add(release("v2"))
    assert [releases.recorded(version).version for version in ("v1", "v2", "v0", "")] == [
        "v1",
        "v2",
        "v2",
        "v2",
    ]


def test_a_version_that_comes_back_is_the_newest_again(releases: Releases) -> None:
    releases.add(release("v2"))
    releases.add(release("v1"))
    assert releases.versions == ("v2", "v1")
    assert releases.newest.version == "v1"


def test_what_was_superseded_ten_minutes_ago_is_dropped(releases: Releases, clock: Clock) -> None:
    releases.add(release("v2"))
    releases.add(release("v3"))
    clock.now = 599
    assert releases.drop_unused() == ()
    clock.now = 601
    assert releases.drop_unused() == ("v1",)
    assert releases.of("v1") is None


def test_the_two_newest_are_kept_whatever_their_age(releases: Releases, clock: Clock) -> None:
    releases.add(release("v2"))
    clock.now = 10_000
    assert releases.drop_unused() == ()
    assert releases.versions == ("v1", "v2")


def test_a_version_that_an_envoy_still_asks_for_is_kept(releases: Releases, clock: Clock) -> None:
    releases.add(release("v2"))
    releases.add(release("v3"))
    clock.now = 500
    releases.of("v1")
    clock.now = 1_000
    assert releases.drop_unused() == ()
    clock.now = 1_101
    assert releases.drop_unused() == ("v1",)


def test_time_counts_from_when_a_version_was_superseded(releases: Releases, clock: Clock) -> None:
    clock.now = 5_000
    releases.add(release("v2"))
    releases.add(release("v3"))
    clock.now = 5_100
    assert releases.drop_unused() == ()


def test_a_versions_terms_are_its_own_and_of_an_unknown_one_the_newest_tells_mode_and_whether_it_denies(
    releases: Releases,
) -> None:
    terms = Terms(Mode.OBSERVE, "x-chat", {Api.OPENAI_CHAT: Served("small", "small-8b")}, checks=True)
    assert releases.terms("v1") == Terms()
    releases.add(release("v2", terms))
    assert releases.terms("v1") == Terms()
    assert releases.terms("v2") == terms
    assert releases.terms("v3") == Terms(Mode.OBSERVE, checks=True)


def test_a_version_that_an_envoy_names_keeps_its_gates_and_prices_however_many_versions_come(
    releases: Releases,
) -> None:
    tier = JudgedTier(gate="g", judge=Judge([]), stream="hold", prefix_chars=1, prefix_events=1)
    price = PriceSettings(input=1.0, output=2.0)
    releases.add(structs.replace(release("v2"), tiers={"x/0": tier}, prices={"small": price}))
    for number in range(20):
        releases.add(release(f"w{number}"))
    assert releases.tiers("v2") == {"x/0": tier}
    assert cast(Release, releases.of("v2")).prices == {"small": price}
    assert releases.tiers("v0") == {}
    assert releases.snapshot("v0") is None
