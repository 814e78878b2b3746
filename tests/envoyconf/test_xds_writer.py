"""The writer without an Envoy: what it writes, tells, keeps, drops and tries again."""

import asyncio
import contextlib
import errno
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from extproc.demo.loopback_ports import free
from extproc.envoyconf.xds_writer import Addresses, Writer
from extproc.errors import EnvoyRefused, NotYet, OperatorError, RegistryError, VersionRefused
from extproc.registry.registry_loading import load
from extproc.wire.grpc_health import ProbeResult

GOOD = "models:\n  a: {base_url: 'http://127.0.0.1:1', auth: {file: a.key}}\ndefault: a\n"
OTHER = GOOD.replace("0.1:1", "0.1:2")


class World:
    """A registry with its key, and a writer whose clock stands still until it is moved."""

    def __init__(self, folder: Path) -> None:
        self.registry = folder / "r.yaml"
        self.xds = folder / "xds"
        self.key = folder / "a.key"
        self.key.write_text("sk-a")
        self.key.chmod(0o600)
        self.registry.write_text(GOOD)
        self.now = 0.0
        self.refusing = ""  # why a sidecar refuses every version
        (self.admin,) = free(1)  # where no Envoy is
        self.writer = Writer(
            self.registry,
            self.xds,
            Addresses(listen="127.0.0.1:1", admin=f"127.0.0.1:{self.admin}", sidecars=("unix:/s",)),
            clock=lambda: self.now,
            ask=self.ask,
            kept_s=100.0,
        )

    async def ask(self, address: str, version: str) -> ProbeResult:
        if self.refusing:
            raise VersionRefused(self.refusing)
        return ProbeResult.YES

    def put(self, text: str) -> None:
        aside = self.registry.with_suffix(".new")
        aside.write_text(text)
        aside.replace(self.registry)

    def told(self, name: str) -> Any:
        return json.loads((self.xds / name).read_text())

    @property
    def clusters(self) -> int:
        return len(self.told("cds.json")["resources"])

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.02)

    async def until_retried(self, holds: Callable[[], bool]) -> None:
        """``until``, with a clock that has come to the next retry."""
        self.now += 10.0
        await self.until(holds)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        following = asyncio.create_task(self.writer.follow())
        try:
            await self.until(lambda: (self.xds / "status.json").exists())
            yield
        finally:
            following.cancel()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_once_writes_what_the_registry_says(world: World) -> None:
    status = await world.writer.once()
    version = load(world.registry).version
    assert (status.version, status.switched, status.problem) == (version, 1, "")
    assert not status.envoy_running
    assert world.told("rds.json")["version_info"] == version
    assert {path.stat().st_mode & 0o777 for path in world.xds.iterdir()} == {0o600}
    assert "sk-a" not in "".join(path.read_text() for path in world.xds.iterdir())
    bootstrap = (world.xds / "bootstrap.yaml").read_text()
    assert "path: /s" in bootstrap
    assert f"port_value: {world.admin}" in bootstrap


async def test_a_sidecar_that_others_can_reach_is_refused_as_in_the_registry(world: World) -> None:
    writer = Writer(world.registry, world.xds, Addresses(sidecars=("10.0.0.1:1",)), ask=world.ask)
    with pytest.raises(OperatorError, match=r"--sidecar: 10\.0\.0\.1:1 is plaintext TCP"):
        await writer.once()
    world.put(GOOD + "envoy: {sidecar_plaintext: true}\n")
    assert (await writer.once()).problem == ""


async def test_a_mistake_writes_nothing_and_is_told(world: World) -> None:
    await world.writer.once()
    before = (world.xds / "rds.json").read_text()
    world.put(GOOD + "defualt: a\n")
    with pytest.raises(RegistryError):
        await world.writer.once()
    status = world.told("status.json")
    assert "r.yaml:4: unknown key `defualt`" in status["problem"]
    assert (status["version"], status["refused"], status["switched"]) == (
        load_version(GOOD, world),
        1,
        1,
    )
    assert (world.xds / "rds.json").read_text() == before


async def test_what_envoy_would_refuse_is_never_written(world: World) -> None:
    world.put(GOOD.replace("auth: {file: a.key}", "tls: {ca_file: absent.pem}").replace("http:", "https:"))
    with pytest.raises(EnvoyRefused, match=r"absent\.pem"):
        await world.writer.once()
    assert not (world.xds / "cds.json").exists()
    assert world.told("status.json")["refused"] == 1


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("\n")])
async def test_a_key_that_is_absent_or_empty_is_waited_for(
    world: World, spoil: Callable[[Path], object]
) -> None:
    spoil(world.key)
    with pytest.raises(NotYet, match=r"models\.a: .*a\.key"):
        await world.writer.once()
    assert world.told("status.json")["postponed"] == 1
    world.key.write_text("sk-a")
    assert (await world.writer.once()).problem == ""


async def test_what_a_sidecar_refuses_by_its_holdout_is_never_written_and_told_with_the_reason(
    world: World,
) -> None:
    held = "holdout: {data: rows.jsonl, min_accuracy: 0.5}\n"
    (world.registry.parent / "rows.jsonl").write_text('{"text": "hello", "route": null}\n')
    world.put(GOOD + held)
    assert (await world.writer.once()).problem == ""  # the first: no version is replaced by it
    before = {path.name: path.read_text() for path in world.xds.iterdir() if path.name != "status.json"}
    world.refusing = "holdout: 0 of 1 rows right"
    world.put(OTHER + held)
    with pytest.raises(VersionRefused):
        await world.writer.once()
    status = world.told("status.json")
    assert status["problem"] == "holdout: 0 of 1 rows right"
    assert (status["version"], status["refused"]) == (load_version(GOOD + held, world), 1)
    now = {path.name: path.read_text() for path in world.xds.iterdir() if path.name != "status.json"}
    assert now == before
    world.refusing = ""
    world.put(OTHER + held.replace("0.5", "0.4"))
    assert (await world.writer.once()).problem == ""


async def test_following_takes_every_change_and_keeps_the_old_clusters_for_a_while(world: World) -> None:
    async with world.following():
        await world.until(lambda: world.told("status.json")["switched"] == 1)
        world.put(OTHER)
        await world.until(lambda: world.told("status.json")["switched"] == 2)
        assert (world.clusters, world.told("status.json")["old"]) == (2, 1)


async def test_what_only_old_versions_had_is_dropped_in_time(world: World) -> None:
    await world.writer.once()
    world.put(OTHER)
    await world.writer.once()
    assert world.clusters == 2
    world.now = 100.5
    world.writer._drop()
    assert (world.clusters, world.writer.status.old) == (1, 0)
    assert len(list(world.xds.glob("sds-*"))) == 1


async def test_each_is_kept_for_as_long_from_when_it_became_old(world: World) -> None:
    """Else a registry that changes often would never let go of anything."""
    for number in range(3):
        world.put(GOOD.replace("0.1:1", f"0.1:{number + 1}"))
        world.now = 60.0 * number
        await world.writer.once()
    assert world.writer.status.old == 2  # the first since 60, the second since 120
    world.now = 160.5
    world.writer._drop()
    assert (world.clusters, world.writer.status.old) == (2, 1)


async def test_a_version_that_comes_back_is_not_dropped(world: World) -> None:
    for text in (GOOD, OTHER, GOOD):
        world.put(text)
        await world.writer.once()
    world.now = 100.5
    world.writer._drop()
    assert 'port_value": 1' in (world.xds / "cds.json").read_text()
    assert world.clusters == 1


async def test_what_was_postponed_is_tried_again(world: World) -> None:
    world.key.unlink()
    async with world.following():
        await world.until(lambda: world.told("status.json")["postponed"] == 1)
        world.key.write_text("sk-a")
        world.writer.reload()
        await world.until(lambda: world.told("status.json")["switched"] == 1)


Full = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["real", "injected"])
def full(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    """Makes the disk of ``xds`` full: a small file system of its own where we may mount one, or an error."""
    xds = tmp_path / "xds"
    if request.param == "injected":
        yield lambda: no_space(xds, monkeypatch)
        return
    xds.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(xds)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda: filled(xds)
    finally:
        subprocess.run(["umount", "--lazy", str(xds)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1024))
    try:
        yield
    finally:
        (disk / "filler").unlink()


@contextmanager
def no_space(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    replace = os.replace

    def refuse(source: Any, destination: Any) -> None:
        if Path(destination).parent == disk:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        yield


async def test_a_full_disk_is_reported_and_what_it_did_not_take_is_written_once_there_is_room(
    full: Full, world: World
) -> None:
    async with world.following():
        await world.until(lambda: world.told("status.json")["switched"] == 1)
        with full():
            world.put(OTHER)
            await world.until(lambda: world.told("status.json")["postponed"] >= 1)
            assert "No space left on device" in world.told("status.json")["problem"]
            assert world.told("status.json")["version"] == load_version(GOOD, world)
            assert list(world.xds.glob(".*.part")) == []
        await world.until_retried(lambda: world.told("status.json")["switched"] == 2)
    assert world.told("status.json")["problem"] == ""
    assert world.told("rds.json")["version_info"] == load_version(OTHER, world)
    assert list(world.xds.glob(".*.part")) == []


async def test_old_clusters_that_a_full_disk_keeps_are_dropped_once_there_is_room(
    full: Full, world: World
) -> None:
    await world.writer.once()
    world.put(OTHER)
    async with world.following():
        await world.until(lambda: world.told("status.json")["old"] == 1)
        with full():
            world.now = 100.5
            world.writer.reload()
            await world.until(lambda: world.writer.status.postponed >= 1)
            assert "No space left on device" in world.told("status.json")["problem"]
            assert world.clusters == 2
        await world.until_retried(lambda: world.told("status.json")["old"] == 0)
    assert (world.clusters, world.told("status.json")["problem"]) == (1, "")


@pytest.mark.parametrize("due_s", [0.0, 100.5])
async def test_a_directory_that_is_away_is_waited_for_also_while_old_clusters_are_to_be_dropped(
    world: World, due_s: float
) -> None:
    await world.writer.once()
    world.put(OTHER)
    async with world.following():
        await world.until(lambda: world.told("status.json")["old"] == 1)
        aside = world.xds.rename(world.xds.with_name("aside"))
        world.now = due_s
        world.writer.reload()
        await world.until(lambda: "No such file or directory" in world.writer.status.problem)
        aside.rename(world.xds)
        await world.until_retried(lambda: world.told("status.json")["problem"] == "")
        await world.until(lambda: world.told("status.json")["old"] == (1 if due_s == 0.0 else 0))


async def test_a_directory_that_comes_back_empty_is_filled_again(world: World) -> None:
    await world.writer.once()
    async with world.following():
        await world.until(lambda: world.told("status.json")["switched"] == 2)
        world.xds.rename(world.xds.with_name("aside"))
        world.writer.reload()
        await world.until(lambda: "No such file or directory" in world.writer.status.problem)
        world.xds.mkdir(mode=0o700)
        await world.until_retried(lambda: (world.xds / "status.json").exists())
    assert world.clusters == 1


async def test_retries_come_at_increasing_intervals_up_to_a_limit_and_start_anew_after_a_success(
    world: World,
) -> None:
    world.key.unlink()
    waits = []
    for _ in range(6):
        world.writer._plan_retry(await world.writer._try_switch())
        waits.append(world.writer._within_s())
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    world.key.write_text("sk-a")
    world.writer._plan_retry(await world.writer._try_switch())
    assert world.writer._within_s() is None


async def test_a_writer_that_starts_anew_knows_the_old_clusters_from_the_files(
    world: World, tmp_path: Path
) -> None:
    await world.writer.once()
    world.put(OTHER)
    second = Writer(world.registry, world.xds, world.writer._addresses, ask=world.ask)
    assert (await second.once()).old == 1
    assert world.clusters == 2


def load_version(text: str, world: World) -> str:
    aside = world.registry.with_suffix(".aside")
    aside.write_text(text)
    return load(aside).version


def test_an_address_of_the_registry_may_be_elsewhere_for_this_envoy(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "models:\n  a: {base_url: 'http://127.0.0.1:1/v2'}\n  b: {base_url: 'http://127.0.0.1:2'}\ndefault: a\n"
        "passthrough: {base_url: 'http://127.0.0.1:1'}\n"
    )
    registry = Addresses(upstreams={"127.0.0.1:1": "127.0.0.1:9"}).put_into(load(path).registry)
    assert registry.passthrough is not None
    assert registry.models["a"].base_url == "http://127.0.0.1:1/v2"
    assert dict(registry.models["a"].addresses) == {"127.0.0.1:9": 1}
    assert dict(registry.models["b"].addresses) == {"127.0.0.1:2": 1}
    assert dict(registry.passthrough.addresses) == {"127.0.0.1:9": 1}
