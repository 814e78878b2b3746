"""The order in which a running Envoy is told, and what becomes of it when something does not come."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from extproc.envoyconf import xds_files
from extproc.envoyconf.envoy_process import Unreachable, Updates, updates
from extproc.envoyconf.version_switching import Switch, Switched, Waits
from extproc.envoyconf.xds_directory import Directory
from extproc.envoyconf.xds_files import BOOTSTRAP, CLUSTERS, LISTENERS, ROUTES, ByName, Generation
from extproc.errors import EnvoyRefused, NotYet, VersionRefused
from extproc.wire.grpc_health import ProbeResult

COUNTED = {"cluster_manager.cds": CLUSTERS, "listener_manager.lds": LISTENERS, "http.llm.rds.llm": ROUTES}
SIDECARS = ("unix:/a", "unix:/b")


def named(*names: str) -> ByName:
    return {name: {"name": name, "key": f"/xds/sds-{name}.json"} for name in names}


def generation(version: str, *clusters: str, hops: tuple[str, ...] = ()) -> Generation:
    return Generation(
        version=version,
        bootstrap={"admin": "here"},
        clusters=named(*clusters),
        listeners=named("llm", *hops),
        routes={"name": "llm", "to": list(clusters)},
        secrets={f"sds-{name}.json": {"name": name} for name in clusters},
        whole={},
    )


V1, V2 = generation("v1", "a", "b", hops=("hop-a",)), generation("v2", "b", "c", hops=("hop-c",))


class FakeEnvoy:
    """An Envoy that takes whatever file it finds, unless told otherwise; notes what it saw and when."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.running = True
        self.refuses = ""  # the name of a file
        self.sleeps = ""  # the name of a file that it does not notice
        self.never_active = ""  # the name of a cluster
        self.read: dict[str, str] = {}  # the text of each file that it noticed last
        self.versions: dict[str, str] = {}
        self.rejections: dict[str, int] = {}
        self.clusters: frozenset[str] = frozenset()
        self.seen: list[tuple[str, str, tuple[str, ...]]] = []  # file, version, resources

    def look(self) -> None:
        for name, text in self.directory.texts().items():
            told = msgspec.json.decode(text) if name in COUNTED.values() else {}
            version = told.get("version_info", "")
            resources = tuple(resource["name"] for resource in told.get("resources", ()))
            if name == self.sleeps or self.read.get(name) == text or not resources:
                continue
            self.read[name] = text
            if name == self.refuses:
                self.rejections[name] = self.rejections.get(name, 0) + 1
                continue
            self.seen.append((name, version, resources))
            self.versions[name] = version
            if name == CLUSTERS:
                self.clusters = frozenset(resources) - {self.never_active}

    async def updates(self) -> Mapping[str, Updates]:
        if not self.running:
            raise Unreachable("nobody there")
        self.look()
        return {
            counted: Updates(self.versions.get(name, ""), self.rejections.get(name, 0))
            for counted, name in COUNTED.items()
        }

    async def active_clusters(self) -> frozenset[str]:
        self.look()
        return self.clusters


class World:
    """A switch on a clock that runs while it sleeps."""

    def __init__(self, path: Path) -> None:
        self.directory = Directory(path)
        self.envoy = FakeEnvoy(self.directory)
        self.now = 0.0
        self.answers: dict[str, ProbeResult] = {}
        self.refusing = ""  # an address
        self.asked: list[tuple[float, str, str]] = []
        self.switch = Switch(
            self.directory,
            self.envoy,
            self.ask,
            clock=lambda: self.now,
            sleep=self.sleep,
            waits=Waits(poll=0.5, ask=0.5),
        )

    async def ask(self, address: str, version: str) -> ProbeResult:
        self.asked.append((self.now, address, version))
        if address == self.refusing:
            raise VersionRefused("3 of 4 rows right")
        return self.answers.get(address, ProbeResult.YES)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)  # the others' turn


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """Envoy holds V1."""
    world = World(tmp_path)
    world.envoy.running = False
    await world.switch.to(V1, SIDECARS)
    world.envoy.running = True
    world.envoy.look()
    world.envoy.seen.clear()
    world.asked.clear()
    return world


async def test_clusters_and_hops_come_beside_the_old_before_the_routes_change(world: World) -> None:
    assert await world.switch.to(V2, SIDECARS) == Switched(running=True)
    assert world.envoy.seen == [
        (CLUSTERS, "v2", ("a", "b", "c")),
        (LISTENERS, "v2", ("llm", "hop-a", "hop-c")),
        (ROUTES, "v2", ("llm",)),
    ]
    assert world.switch.held().version == "v2"


async def test_the_old_go_hops_first_when_nothing_needs_them(world: World) -> None:
    await world.switch.to(V2, SIDECARS)
    world.envoy.seen.clear()
    world.switch.drop({"a", "hop-a"})
    assert world.switch.held() == xds_files.HeldFiles("v2", V2.clusters, V2.listeners)
    secrets = {name for name in world.directory.texts() if name.startswith("sds-")}
    assert secrets == {"sds-b.json", "sds-c.json"}
    world.envoy.look()
    assert [name for name, _, _ in world.envoy.seen] == [CLUSTERS, LISTENERS]


async def test_every_sidecar_has_the_version_before_envoy_is_told(world: World) -> None:
    world.answers["unix:/b"] = ProbeResult.NO

    async def sleep(seconds: float) -> None:
        world.now += seconds
        assert world.switch.held().clusters == V1.clusters
        if world.now >= 5:
            world.answers["unix:/b"] = ProbeResult.YES

    world.switch._sleep = sleep
    assert (await world.switch.to(V2, SIDECARS)).skipped == ()
    assert {(address, version) for _, address, version in world.asked} == {
        ("unix:/a", "v2"),
        ("unix:/b", "v2"),
    }
    assert world.switch.held().version == "v2"


async def test_a_sidecar_at_whose_address_nobody_is_is_not_waited_for(world: World) -> None:
    world.answers["unix:/b"] = ProbeResult.NOBODY
    assert (await world.switch.to(V2, SIDECARS)).skipped == ("unix:/b",)
    assert 2 <= world.now < 5


async def test_a_sidecar_that_never_has_the_version_keeps_the_old(world: World) -> None:
    before = world.directory.texts()
    world.answers["unix:/a"] = ProbeResult.NO
    with pytest.raises(NotYet, match="unix:/a does not have version v2 after 30 s"):
        await world.switch.to(V2, SIDECARS)
    assert world.directory.texts() == before


async def test_one_sidecar_that_refuses_a_version_keeps_it_from_envoy_at_once(world: World) -> None:
    before = world.directory.texts()
    world.answers["unix:/a"] = ProbeResult.NO
    world.refusing = "unix:/b"
    with pytest.raises(VersionRefused):
        await world.switch.to(V2, SIDECARS, examined=True)
    assert world.directory.texts() == before
    assert world.now < 5


@pytest.mark.parametrize("running", [True, False])
async def test_a_version_to_be_examined_waits_for_a_sidecar_that_does(world: World, running: bool) -> None:
    before = world.directory.texts()
    world.envoy.running = running
    world.answers = dict.fromkeys(SIDECARS, ProbeResult.NOBODY)
    with pytest.raises(NotYet, match="no sidecar answers to examine version v2"):
        await world.switch.to(V2, SIDECARS, examined=True)
    assert world.directory.texts() == before
    world.answers["unix:/b"] = ProbeResult.YES  # one is enough: they examine alike
    assert await world.switch.to(V2, SIDECARS, examined=True) == Switched(running, skipped=("unix:/a",))
    assert world.switch.held().version == "v2"


async def test_the_first_version_and_the_one_that_is_held_are_not_examined_again(tmp_path: Path) -> None:
    world = World(tmp_path / "xds")
    world.envoy.running = False
    world.answers = dict.fromkeys(SIDECARS, ProbeResult.NOBODY)
    for _ in range(2):
        assert await world.switch.to(V1, SIDECARS, examined=True) == Switched(running=False)
    assert world.asked == []


@pytest.mark.parametrize("name", [CLUSTERS, LISTENERS, ROUTES])
async def test_what_envoy_refuses_is_put_back(world: World, name: str) -> None:
    before = {file: world.directory.texts()[file] for file in (CLUSTERS, LISTENERS, ROUTES)}
    world.envoy.refuses = name
    with pytest.raises(EnvoyRefused, match=name):
        await world.switch.to(V2, SIDECARS)
    assert {file: world.directory.texts()[file] for file in before} == before


@pytest.mark.parametrize("name", [CLUSTERS, LISTENERS, ROUTES])
async def test_what_envoy_does_not_notice_is_put_back_in_time(world: World, name: str) -> None:
    world.envoy.sleeps = name
    with pytest.raises(NotYet, match=f"did not accept {name} within 5 s"):
        await world.switch.to(V2, SIDECARS)
    assert world.switch.held().version == "v1"
    assert 5 <= world.now < 7


async def test_routes_never_lead_to_a_cluster_that_is_not_active(world: World) -> None:
    world.envoy.never_active = "c"
    with pytest.raises(NotYet, match="not every cluster of version v2 is active after 15 s"):
        await world.switch.to(V2, SIDECARS)
    assert world.switch.held() == xds_files.HeldFiles("v1", V1.clusters, V1.listeners)
    assert ROUTES not in [name for name, _, _ in world.envoy.seen]


async def test_without_an_envoy_nothing_is_waited_for_and_routes_come_before_the_listener(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "xds")
    world.envoy.running = False
    world.answers["unix:/a"] = ProbeResult.NO
    assert await world.switch.to(V1, SIDECARS) == Switched(running=False)
    assert (world.now, world.asked) == (0.0, [])
    order = sorted(
        (CLUSTERS, ROUTES, LISTENERS), key=lambda name: (tmp_path / "xds" / name).stat().st_mtime_ns
    )
    assert order == [CLUSTERS, ROUTES, LISTENERS]
    assert BOOTSTRAP in world.directory.texts()


async def test_a_bootstrap_that_changes_needs_a_restart_and_says_so(world: World) -> None:
    other = msgspec.structs.replace(V2, bootstrap={"admin": "elsewhere"})
    assert (await world.switch.to(other, SIDECARS)).restart
    assert "elsewhere" in world.directory.texts()[BOOTSTRAP]
    assert not (await world.switch.to(other, SIDECARS)).restart


async def test_going_back_finds_the_old_clusters_still_there(world: World) -> None:
    await world.switch.to(V2, SIDECARS)
    await world.switch.to(V1, SIDECARS)
    assert world.switch.held().version == "v1"
    assert world.switch.held().clusters.keys() == {"a", "b", "c"}


def test_envoys_statistics_tell_what_it_took_and_refused() -> None:
    assert updates(
        'cluster_manager.cds.version_text: "v2"\ncluster_manager.cds.update_rejected: 2\n'
        "cluster_manager.cds.update_failure: 1\nhttp.llm.rds.llm.update_rejected: 0\n"
    ) == {"cluster_manager.cds": Updates("v2", 3), "http.llm.rds.llm": Updates("", 0)}
