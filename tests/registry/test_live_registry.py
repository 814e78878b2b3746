"""A registry that changes while it serves: the last good version decides, whatever comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from extproc.errors import EncoderFailed, HoldoutFailed, RegistryError
from extproc.registry.live_registry import LiveRegistry, Result, State
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.releases import Release, Releases, release_of
from extproc.routing.snapshot import Snapshot

GOOD = "models:\n  a: {base_url: 'http://h:1'}\ndefault: a\n"
OTHER = GOOD.replace("h:1", "h:2")
ROUTED = GOOD + "routes:\n  r: {candidates: a, examples_file: more.txt}\n"


class World:
    """A live registry, what it reported, and a compiler that fails when told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: list[Result] = []
        self.states: list[State] = []
        self.failure: Exception | None = None
        self.compared: list[str | None] = []  # the version that served when each was compiled
        self.releases: Releases
        self.newest: list[Release] = []  # in the order in which they became the newest
        self.live = LiveRegistry(path, clock=lambda: 0.0)

    def compiled(self, loaded: LoadedRegistry, serving: Release | None) -> Release:
        self.compared.append(serving.version if serving else None)
        if self.failure is not None:
            raise self.failure
        snapshot = Snapshot(
            version=loaded.version, targets={}, routes={}, defaults={}, deny_rules=(), route_rules=(),
            meaning=None, budget_s=1.0,
        )  # fmt: skip
        return release_of(loaded, snapshot)

    async def put(self, text: str) -> State:
        """Replace the registry; returns how things stand once that was noticed."""
        aside = self.path.with_suffix(".new")
        aside.write_text(text)
        aside.replace(self.path)
        return await self.told()

    async def told(self, act: Callable[[], object] = lambda: None) -> State:
        known = len(self.states)
        act()
        async with asyncio.timeout(60):
            while len(self.states) == known:
                await asyncio.sleep(0.01)
        return self.states[-1]


@asynccontextmanager
async def running(tmp_path: Path, text: str = GOOD) -> AsyncIterator[World]:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    world = World(path)
    world.releases = await world.live.begin(world.compiled, world.newest.append)
    following = asyncio.create_task(
        world.live.follow(changed=world.states.append, count=world.results.append)
    )
    try:
        yield world
    finally:
        following.cancel()


async def test_a_new_version_decides_beside_the_old(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        first = world.live.version
        state = await world.put(OTHER)
        assert state == State(load(world.path).version)
        assert world.releases.versions == (first, state.version)
        assert world.live.version == state.version
        assert world.newest[-1] is world.releases.newest
        assert world.results == [Result.LOADED]


async def test_a_mistake_keeps_the_last_good_version_and_is_told_by_line(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        first = world.live.version
        state = await world.put(GOOD + "defualt: a\n")
        assert (state.version, world.releases.versions) == (first, (first,))
        assert str(state).startswith(f"version {first}; the last reload failed: {world.path}:4: ")
        assert "unknown key `defualt`" in str(state)
        assert world.results == [Result.REFUSED]
        assert (await world.put(GOOD)).problem == ""
        assert world.results == [Result.REFUSED, Result.UNCHANGED]


@pytest.mark.parametrize(
    ("failure", "result"), [(EncoderFailed("nan"), Result.REFUSED), (ZeroDivisionError("x"), Result.FAILED)]
)
async def test_what_cannot_be_compiled_keeps_the_last_good_version(
    tmp_path: Path, failure: Exception, result: Result
) -> None:
    async with running(tmp_path) as world:
        first, world.failure = world.live.version, failure
        state = await world.put(OTHER)
        assert (state.version, world.live.version) == (first, first)
        assert [release.version for release in world.newest] == [first]
        assert str(failure) in state.problem
        assert world.results == [result]
        world.failure = None
        assert (await world.told(world.live.reload)).problem == ""  # SIGHUP tries again
        assert world.results == [result, Result.LOADED]


async def test_what_fails_its_holdout_is_refused_under_its_version_until_the_files_change(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        first = world.live.version
        world.failure = HoldoutFailed("r.yaml", 3, "holdout: 1 of 2 rows right")
        state = await world.put(OTHER)
        assert world.live.refused == {load(world.path).version: "r.yaml:3: holdout: 1 of 2 rows right"}
        assert (state.version, world.releases.versions) == (first, (first,))
        assert world.results == [Result.REFUSED]
        assert world.compared == [None, first]
        world.failure = None
        assert (await world.put(GOOD)).problem == ""
        assert world.live.refused == {}


async def test_an_examples_file_is_followed_too_even_when_its_absence_was_the_mistake(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        assert "more.txt" in (await world.put(ROUTED)).problem
        state = await world.told(lambda: (tmp_path / "more.txt").write_text("hello\n"))
        assert state.problem == ""
        again = await world.told(lambda: (tmp_path / "more.txt").write_text("hello\ngoodbye\n"))
        assert again.version != state.version


async def test_a_token_that_is_replaced_is_told_and_the_version_stays(tmp_path: Path) -> None:
    async with running(tmp_path, GOOD + "feedback: {token: {file: token}}\n") as world:
        first = world.live.version  # the token is not there yet, which is no mistake
        for content in ("one", "another"):
            state = await world.told(lambda content=content: (tmp_path / "token").write_text(content))  # type: ignore[misc]
            assert state == State(first)
        assert world.results == [Result.UNCHANGED, Result.UNCHANGED]


async def test_what_counts_from_the_next_start_only_is_said(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        state = await world.put(GOOD + "encoder: {max_tokens: 64}\nenvoy: {max_body_bytes: 2048}\n")
        assert state.restart_for == ("encoder", "envoy.max_body_bytes")
        assert "restart to apply encoder, envoy.max_body_bytes" in str(state)
        assert (await world.put(OTHER)).restart_for == ()
        assert (await world.put(GOOD + "telemetry: {trace_share: 1}\n")).restart_for == ()
        assert world.releases.newest.telemetry.trace_share == 1.0


def test_a_mistake_at_the_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("models: {}\n")
    with pytest.raises(RegistryError):
        LiveRegistry(tmp_path / "r.yaml", clock=lambda: 0.0)


async def test_a_first_version_that_fails_its_holdout_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    world = World(tmp_path / "r.yaml")
    world.failure = HoldoutFailed("r.yaml", 3, "holdout: 1 of 2 rows right")
    with pytest.raises(HoldoutFailed):
        await world.live.begin(world.compiled, world.newest.append)
    assert world.compared == [None]
