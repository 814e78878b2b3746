"""Changes of the registry while sidecars or the writer are restarted, and on a mount as Kubernetes has it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from extproc.demo.demo_stack import running_stack
from tests.e2e.reloading import BASE, CLIENTS, Config, Reloading, reloading, unstarted

DECISIONS = "router_decisions_total"

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reloading]:
    async with reloading(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def world(shared_world: Reloading) -> Reloading:
    """The module's stack, as it was at first."""
    return await shared_world.as_at_first()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reloading]:
    async with reloading(tmp_path_factory.mktemp("pair"), sidecars=2) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def pair(shared_pair: Reloading) -> Reloading:
    """The same of a stack with two sidecars."""
    return await shared_pair.as_at_first()


async def test_two_sidecars_share_the_load_and_switch_to_the_same_version(pair: Reloading) -> None:
    before = [await pair.counted(DECISIONS, sidecar) for sidecar in (0, 1)]
    async with pair.load():
        await pair.reached(pair.put(Config(poet="poet", code="code-next")))
        await pair.reached(pair.put(BASE))
    assert pair.nearly_all_decided
    shares = [await pair.counted(DECISIONS, sidecar) - before[sidecar] for sidecar in (0, 1)]
    assert min(shares) > 0.25 * sum(shares)


async def test_a_killed_sidecar_of_two_loses_nothing_and_comes_back_with_the_new_version(
    pair: Reloading,
) -> None:
    async with pair.load():
        await pair.stack.stop_sidecar(signal.SIGKILL, sidecar=1)
        version = pair.put(Config(poet="poet", code="code-next"))
        await pair.reached(version)
        assert pair.status()["sidecars_skipped"] == [f"unix:{pair.stack.run_dir}/sidecar-1.sock"]
        await pair.stack.start_sidecar(1)
        await pair.stack.sidecars_used()
        await pair.reached(version)
    assert await pair.counted(DECISIONS, 1) > 0
    assert pair.undecided <= CLIENTS  # those that were with the one that was killed


async def test_a_lone_sidecar_restarted_between_versions_never_decides_by_another(world: Reloading) -> None:
    """It comes up with the new version only, while Envoy holds the old one until it is told."""
    async with world.load():
        await world.stack.stop_writer()
        await world.stack.stop_sidecar(signal.SIGKILL)
        version = world.put(Config(poet="poet", code="code-next"))
        await world.stack.start_sidecar()
        await world.stack.sidecars_used()
        assert world.answered[version] == 0
        await world.stack.start_writer()
        await world.reached(version)
    assert world.undecided > 0  # answered by the default model meanwhile, under its own name


async def test_a_restarted_writer_takes_up_where_the_files_are(world: Reloading) -> None:
    async with world.load():
        await world.reached(world.put(Config(poet="poet")))
        await world.stack.stop_writer(signal.SIGKILL)
        version = world.put(Config(code="code-next"))
        await asyncio.sleep(1.0)
        assert world.answered[version] == 0
        await world.stack.start_writer()
        await world.reached(version)
        # The poet's and the first code's: requests may still be on their way.
        assert world.status()["old"] == 2
    assert world.nearly_all_decided


async def test_the_writer_goes_on_when_its_directory_was_away_and_envoy_follows(world: Reloading) -> None:
    stack = world.stack
    retried = stack.writer_log.read_text().count("retrying")
    async with world.load():
        aside = stack.xds.rename(stack.xds.with_name("aside"))
        version = world.put(Config(poet="poet"))
        await world.until(lambda: stack.writer_log.read_text().count("retrying") > retried)
        aside.rename(stack.xds)
        await world.reached(version)
    assert stack.writer.returncode is None
    await world.until(lambda: (world.status()["version"], world.status()["problem"]) == (version, ""))
    assert list(stack.xds.glob(".*.part")) == []
    assert world.nearly_all_decided


async def test_a_configmap_that_is_swapped_is_followed(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()

    def swap(number: int, text: str) -> None:
        """As the kubelet does it: registry.yaml -> ..data/registry.yaml, ..data -> ..NUMBER."""
        (mount / f"..{number}").mkdir()
        (mount / f"..{number}/registry.yaml").write_text(text)
        (mount / "..next").symlink_to(f"..{number}")
        (mount / "..next").rename(mount / "..data")

    async with unstarted(tmp_path) as world:
        world.registry = mount / "registry.yaml"
        swap(1, world.prepare(BASE)[0])
        world.registry.symlink_to("..data/registry.yaml")
        async with running_stack(world.registry, tmp_path / "run") as world.stack, world.load():
            text, version = world.prepare(Config(poet="poet"))
            swap(2, text)
            await world.reached(version)
        assert world.nearly_all_decided
