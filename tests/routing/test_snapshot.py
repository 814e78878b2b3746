"""Which versions of the registry can decide, and for how long."""

from typing import cast

import msgspec
import pytest

from extproc.routing.snapshot import Snapshot, Snapshots
from extproc.vocabulary import Api, Mode, Served, Terms


def snapshot(version: str) -> Snapshot:
    return Snapshot(
        version=version, targets={}, routes={}, defaults={}, deny_rules=(), route_rules=(), meaning=None,
        budget_s=1.0,
    )  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def snapshots(clock: Clock) -> Snapshots:
    return Snapshots(snapshot("v1"), clock)


def version_of(found: Snapshot | None) -> str:
    return cast(Snapshot, found).version


def test_an_envoy_that_does_not_say_gets_the_newest(snapshots: Snapshots) -> None:
    snapshots.add(snapshot("v2"))
    assert version_of(snapshots.of("")) == "v2"
    assert snapshots.newest.version == "v2"


def test_an_envoy_gets_the_version_that_it_holds(snapshots: Snapshots) -> None:
    snapshots.add(snapshot("v2"))
    assert version_of(snapshots.of("v1")) == "v1"
    assert snapshots.versions == ("v1", "v2")


def test_a_version_that_is_not_here_is_no_other(snapshots: Snapshots) -> None:
    assert snapshots.of("v0") is None


def test_a_version_that_comes_back_is_the_newest_again(snapshots: Snapshots) -> None:
    snapshots.add(snapshot("v2"))
    snapshots.add(snapshot("v1"))
    assert snapshots.versions == ("v2", "v1")
    assert snapshots.newest.version == "v1"


def test_what_was_superseded_ten_minutes_ago_is_dropped(snapshots: Snapshots, clock: Clock) -> None:
    snapshots.add(snapshot("v2"))
    snapshots.add(snapshot("v3"))
    clock.now = 599
    assert snapshots.drop_unused() == ()
    clock.now = 601
    assert snapshots.drop_unused() == ("v1",)
    assert snapshots.of("v1") is None


def test_the_two_newest_are_kept_whatever_their_age(snapshots: Snapshots, clock: Clock) -> None:
    snapshots.add(snapshot("v2"))
    clock.now = 10_000
    assert snapshots.drop_unused() == ()
    assert snapshots.versions == ("v1", "v2")


def test_a_version_that_an_envoy_still_asks_for_is_kept(snapshots: Snapshots, clock: Clock) -> None:
    snapshots.add(snapshot("v2"))
    snapshots.add(snapshot("v3"))
    clock.now = 500
    snapshots.of("v1")
    clock.now = 1_000
    assert snapshots.drop_unused() == ()
    clock.now = 1_101
    assert snapshots.drop_unused() == ("v1",)


def test_time_counts_from_when_a_version_was_superseded(snapshots: Snapshots, clock: Clock) -> None:
    clock.now = 5_000
    snapshots.add(snapshot("v2"))
    snapshots.add(snapshot("v3"))
    clock.now = 5_100
    assert snapshots.drop_unused() == ()


def test_a_versions_terms_are_its_own_and_of_an_unknown_one_only_the_mode_is_believed(
    snapshots: Snapshots,
) -> None:
    terms = Terms(Mode.OBSERVE, "x-chat", {Api.OPENAI_CHAT: Served("small", "small-8b")})
    assert snapshots.terms("v1") == Terms()
    snapshots.add(msgspec.structs.replace(snapshot("v2"), terms=terms))
    assert snapshots.terms("v1") == Terms()
    assert snapshots.terms("v2") == terms
    assert snapshots.terms("v3") == Terms(Mode.OBSERVE)
