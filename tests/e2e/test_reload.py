"""Changes of the registry under load: Envoy first, the decision second, and no request is lost.

Everything is asked for by rules, so that what each version must answer is known exactly.
"""

import asyncio
import io
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from extproc.demo.demo_stack import Ports, Stack, running_stack
from extproc.demo.model_pool import Behaviour, FakeModel, Pool
from extproc.envoyconf.xds_writer import Writer
from extproc.registry.registry_loading import load
from extproc.telemetry.segments import segment_paths
from tests.e2e.conftest import Answer, chat

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLIENTS = 32
# Between two requests of a client: some hundred requests a second meet every change, and do not fill both cores.
THINK_S = 0.08
DEADLINE_S = 60
ASKED = ("want-code", "want-poem", "auto")


class Config(msgspec.Struct, frozen=True):
    """What a registry of these tests says: which fake model serves whom, and whether there are poems."""

    small: str = "small"  # names of the pool; the keys of registry models are the fields' own
    code: str = "code"
    poet: str = ""  # empty: no such model and no such route
    fallback: str = ""  # of requests for code, to another registry model
    decision_ms: int = 5000

    def text(self, folder: Path, pool: Pool) -> str:
        serving = {name: server for name in ("small", "code", "poet") if (server := getattr(self, name))}
        lines = ["models:"]
        lines += [
            f"  {name}: {{base_url: '{pool[server].url}', name: {pool[server].name}, "
            f"auth: {{file: {folder / server}.key}}}}"
            for name, server in serving.items()
        ]
        fallback = f", fallback: {self.fallback}" if self.fallback else ""
        lines += ["default: small", f"decision_ms: {self.decision_ms}", "rules:"]
        lines += ["  - {name: coding, when: {model: want-code}, route: code}"]
        if self.poet:
            lines += ["  - {name: poems, when: {model: want-poem}, route: poetry}"]
        lines += ["routes:", f"  code: {{candidates: code, examples: [Fix this bug]{fallback}}}"]
        if self.poet:
            lines += ["  poetry: {candidates: poet, examples: [Write a sonnet about the sea]}"]
        return "\n".join(lines) + "\n"

    def answers(self) -> Mapping[str, str]:
        """The registry model that must answer, by what is asked for."""
        return {"want-code": "code", "want-poem": "poet" if self.poet else "small", "auto": "small"}


BASE = Config()


class Reloading:
    """A running stack whose registry changes, and what its versions are."""

    def __init__(self, folder: Path, pool: Pool, http: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.pool = pool
        self.http = http
        self.registry = folder / "registry.yaml"
        self.versions: dict[str, Config] = {}
        self.stack: Stack  # set once it runs
        self.answered: Counter[str] = Counter()  # by version
        self.undecided = 0
        self.problems: list[str] = []

    @property
    def nearly_all_decided(self) -> bool:
        """All but what the default answered while a busy machine kept the sidecar from answering Envoy.

        That is the failure contract at work and no loss; a reload that costs decisions costs far more.
        """
        return self.undecided <= max(CLIENTS, self.answered.total() // 20)

    def prepare(self, config: Config) -> tuple[str, str]:
        """The text of a registry and its version, which answers may bear from now on."""
        text = config.text(self.folder, self.pool)
        aside = self.folder / "aside.yaml"
        aside.write_text(text)
        version = load(aside).version
        self.versions[version] = config
        return text, version

    def put(self, config: Config) -> str:
        """Replace the registry; returns its version."""
        text, version = self.prepare(config)
        self.put_text(text)
        return version

    def put_text(self, text: str) -> None:
        aside = self.folder / "aside.yaml"
        aside.write_text(text)
        aside.replace(self.registry)

    def status(self) -> Mapping[str, Any]:
        return self.stack.writer_status()

    async def ask(self, asked: str) -> Answer:
        body = io.BytesIO(msgspec.json.encode(chat("hello", model=asked)))
        url = f"{self.stack.url}/v1/chat/completions"
        async with self.http.post(url, data=body, headers={"content-type": "application/json"}) as answer:
            lower = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, lower, await answer.read())

    async def client(self, over: asyncio.Event, number: int) -> None:
        """Ask again and again on a connection that is kept alive, and judge every answer."""
        while not over.is_set():
            number += 1
            await self.judge(ASKED[number % len(ASKED)])
            await asyncio.sleep(THINK_S)

    async def judge(self, asked: str) -> None:
        answer = await self.ask(asked)
        model, version = answer.headers.get("x-router-model"), answer.headers.get("x-router-version")
        if answer.status != 200:
            self.problems.append(f"{asked}: {answer.status} {answer.body!r}")
        elif model is None or version is None:
            self.undecided += 1
        else:
            self.answered[version] += 1
            config = self.versions[version]
            asked_in_turn = [model, config.fallback] if model == "code" and config.fallback else [model]
            names = {self.pool[getattr(config, name)].name for name in asked_in_turn}
            if model != config.answers()[asked] or answer.json()["model"] not in names:
                self.problems.append(f"{asked}: {version} {model} {answer.body!r}")

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients at work; the requests that any of them lost fail the test."""
        over = asyncio.Event()
        clients = [asyncio.create_task(self.client(over, number)) for number in range(CLIENTS)]
        try:
            await self.until(lambda: self.answered.total() > CLIENTS)
            yield
            await asyncio.sleep(0.3)
        finally:
            over.set()
            ended = await asyncio.gather(*clients, return_exceptions=True)
        assert [problem for problem in ended if problem is not None] == []
        assert self.problems == []

    async def reached(self, version: str) -> None:
        """Until requests are answered by ``version``, and no longer by any other."""
        before = self.answered[version]
        await self.until(lambda: self.answered[version] > before + CLIENTS)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await asyncio.sleep(0.02)

    async def page(self, path: str, sidecar: int = 0) -> str:
        port = self.stack.ports.sidecar_admins[sidecar]
        async with self.http.get(f"http://127.0.0.1:{port}{path}") as answer:
            return await answer.text()


@asynccontextmanager
async def unstarted(folder: Path) -> AsyncIterator[Reloading]:
    """The models with their keys, and no stack yet."""
    names = ("small", "code", "code-next", "poet")
    models = {name: FakeModel(f"fake-{name}", key=f"key-{name}", keep=10_000) for name in names}
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        Pool(models) as pool,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http,
    ):
        for name, model in pool.items():
            (folder / f"{name}.key").write_text(model.key)
            (folder / f"{name}.key").chmod(0o600)
        yield Reloading(folder, pool, http)


@asynccontextmanager
async def reloading(folder: Path, sidecars: int = 1) -> AsyncIterator[Reloading]:
    async with unstarted(folder) as world:
        world.put(BASE)
        async with running_stack(world.registry, folder / "run", Ports.free(sidecars)) as world.stack:
            yield world


async def test_models_and_routes_come_change_and_go_under_load(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world, world.load():
        for config in (
            Config(poet="poet"),  # a model and a route more
            Config(poet="poet", code="code-next"),  # another upstream, with another name and key
            Config(code="code-next"),  # the model and the route are gone
            BASE,  # and back
        ):
            await world.reached(world.put(config))
    assert world.nearly_all_decided
    assert len(world.answered) == 4
    assert world.status()["switched"] >= 4
    assert world.status()["problem"] == ""


async def test_a_chain_of_fallbacks_changes_as_a_whole(tmp_path: Path) -> None:
    """What one version decided meets that version's hops: the fallback's server, name and key."""
    async with reloading(tmp_path) as world:
        async with world.load():
            await world.reached(world.put(Config(fallback="small")))
            world.pool["code"].behaviour = Behaviour(status=503)
            world.pool["code-next"].behaviour = Behaviour(status=503)
            await world.reached(world.put(Config(fallback="small", code="code-next")))
            await world.reached(world.put(Config(fallback="small", small="poet", code="code-next")))
            world.pool["code"].behaviour = Behaviour()
            await world.reached(world.put(BASE))
        assert world.nearly_all_decided


async def test_a_listener_that_changes_loses_nothing_either(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world:
        async with world.load():
            await world.reached(world.put(Config(decision_ms=4900)))
            await world.reached(world.put(Config(decision_ms=4800, poet="poet")))
        assert world.nearly_all_decided


async def test_what_only_old_versions_had_goes_without_a_request_that_misses_it(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world:
        await world.stack.stop_writer()
        stack = world.stack
        writer = Writer(stack.registry, stack.xds, stack.addresses, kept_s=1.0)
        following = asyncio.create_task(writer.follow())
        async with world.load():
            await world.reached(world.put(Config(poet="poet", code="code-next", fallback="poet")))
            await world.reached(world.put(BASE))
            await world.until(lambda: writer.status.old > 0)
            await world.until(lambda: writer.status.old == 0)
            await world.reached(next(iter(world.versions)))
        following.cancel()
        async with world.http.get(f"{stack.envoy_admin_url}/clusters?format=json") as answer:
            names = {each["name"].partition("~")[0] for each in (await answer.json())["cluster_statuses"]}
        assert names == {"ext-proc", "model-small", "model-code"}
        assert len(list(stack.xds.glob("sds-*"))) == 2
        assert world.nearly_all_decided


async def test_the_writer_goes_on_when_its_directory_was_away_and_envoy_follows(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world:
        stack = world.stack
        async with world.load():
            aside = stack.xds.rename(stack.xds.with_name("aside"))
            version = world.put(Config(poet="poet"))
            await world.until(lambda: "retrying" in stack.writer_log.read_text())
            aside.rename(stack.xds)
            await world.reached(version)
        assert stack.writer.returncode is None
        await world.until(lambda: (world.status()["version"], world.status()["problem"]) == (version, ""))
        assert list(stack.xds.glob(".*.part")) == []
        assert world.nearly_all_decided


async def test_the_version_that_decided_is_on_the_record(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world:
        async with world.load():
            await world.reached(version := world.put(Config(poet="poet")))
        answer = await world.ask("want-poem")
        assert answer.headers["x-router-version"] == version
        refused = await world.ask("")
        records: dict[str, Any] = {}

        def arrived() -> bool:
            paths = segment_paths(world.stack.records)
            lines = [line for path in paths for line in path.read_text().splitlines()]
            records.update({row["request_id"]: row for row in map(msgspec.json.decode, lines)})
            return {each.headers["x-request-id"] for each in (answer, refused)} <= records.keys()

        await world.until(arrived)
    assert records[answer.headers["x-request-id"]]["cluster"] == "model-poet"
    assert {records[each.headers["x-request-id"]]["version"] for each in (answer, refused)} == {version}


async def test_a_key_is_rotated_without_a_request_that_has_none(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world:
        code = world.pool["code"]
        code.key = ""  # takes any: which key came when is in its journal
        async with world.load():
            (tmp_path / "next").write_text("key-rotated\n")
            (tmp_path / "next").chmod(0o600)
            (tmp_path / "next").replace(tmp_path / "code.key")
            await world.until(lambda: code.journal[-1].key == "key-rotated")
            rotated = len(code.journal)
            await world.until(lambda: len(code.journal) > rotated + CLIENTS)
        assert {request.key for request in code.journal} == {"key-code", "key-rotated"}
        assert code.journal[-1].key == "key-rotated"
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


async def test_a_bad_file_changes_nothing_and_is_counted_and_shown(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world, world.load():
        (good,) = world.versions
        world.put_text(BASE.text(tmp_path, world.pool) + "defualt: small\n")
        await world.until(lambda: "defualt" in world.status()["problem"])
        ready: dict[str, Any] = {}
        while "defualt" not in str(ready):
            ready = msgspec.json.decode(await world.page("/readyz"))
            await asyncio.sleep(0.05)
        line = len(BASE.text(tmp_path, world.pool).splitlines()) + 1
        assert ready["ready"] is True
        assert f"registry.yaml:{line}: unknown key `defualt`" in ready["components"]["registry"]["detail"]
        assert f"registry.yaml:{line}: unknown key `defualt`" in world.status()["problem"]
        assert (world.status()["version"], world.status()["refused"]) == (good, 1)
        assert 'router_registry_reloads_total{result="refused"} 1.0' in await world.page("/metrics")
        assert set(world.answered) == {good}
        await world.reached(world.put(Config(poet="poet")))  # and the next good one is taken
        await world.until(lambda: world.status()["problem"] == "")
    assert world.nearly_all_decided


async def test_a_version_that_fails_its_holdout_never_reaches_envoy_and_is_shown(tmp_path: Path) -> None:
    """Without a mistake in it: examples that are on the wrong side, as a careless edit puts them."""
    good, poems = "[Fix this bug, Write a bash script]", "[Write a sonnet about the sea, Compose a poem]"
    (tmp_path / "holdout.jsonl").write_text(
        '{"text": "Write a Python script", "route": "code"}\n'
        '{"text": "Write a poem about the sea", "route": "poetry"}\n'
    )

    def text(code: str, poetry: str, timeout_s: int = 5) -> str:
        routes = f"  code: {{candidates: code, timeout_s: {timeout_s}, examples: {code}}}\n"
        routes += f"  poetry: {{candidates: poet, examples: {poetry}}}\n"
        before, _, _ = Config(poet="poet").text(tmp_path, world.pool).partition("routes:\n")
        return f"{before}routes:\n{routes}holdout: {{data: holdout.jsonl, min_accuracy: 0.9, max_worse: 1}}\n"

    def version_of(written: str) -> str:
        (tmp_path / "aside.yaml").write_text(written)
        version = load(tmp_path / "aside.yaml").version
        world.versions[version] = Config(poet="poet")
        return version

    async with unstarted(tmp_path) as world:
        first = version_of(text(good, poems))
        world.put_text(text(good, poems))
        async with (
            running_stack(world.registry, tmp_path / "run", Ports.free()) as world.stack,
            world.load(),
        ):
            bad = version_of(text(poems, good, timeout_s=6))
            world.put_text(text(poems, good, timeout_s=6))
            await world.until(lambda: "0 of 2 rows right" in world.status()["problem"])
            assert "below min_accuracy 0.9" in world.status()["problem"]
            assert "registry.yaml" in world.status()["problem"]
            assert (world.status()["version"], world.status()["refused"]) == (first, 1)
            ready = msgspec.json.decode(await world.page("/readyz"))
            assert ready["ready"] is True
            assert "0 of 2 rows right" in ready["components"]["registry"]["detail"]
            assert 'router_registry_reloads_total{result="refused"} 1.0' in await world.page("/metrics")
            async with world.http.get(f"{world.stack.envoy_admin_url}/config_dump") as dump:
                told = await dump.text()
            assert first in told
            assert bad not in told
            await world.reached(first)
            better = version_of(text(good, poems, timeout_s=7))
            world.put_text(text(good, poems, timeout_s=7))
            await world.reached(better)
            await world.until(lambda: world.status()["problem"] == "")
            assert world.answered[bad] == 0
    assert world.nearly_all_decided


async def test_a_key_that_is_not_there_keeps_the_old_version_until_it_is(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world, world.load():
        (good,) = world.versions
        (tmp_path / "poet.key").rename(tmp_path / "elsewhere.key")
        version = world.put(Config(poet="poet"))
        await world.until(lambda: "models.poet: cannot read the key file" in world.status()["problem"])
        assert set(world.answered) == {good}
        (tmp_path / "elsewhere.key").rename(tmp_path / "poet.key")
        world.stack.writer.send_signal(signal.SIGHUP)
        await world.reached(version)
    assert world.nearly_all_decided


async def test_sighup_reads_the_registry_again(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world, world.load():
        switched = world.status()["switched"]
        world.stack.sidecar.send_signal(signal.SIGHUP)
        world.stack.writer.send_signal(signal.SIGHUP)
        await world.until(lambda: world.status()["switched"] == switched + 1)
        page = ""
        while 'reloads_total{result="unchanged"} 1.0' not in page:
            page = await world.page("/metrics")
            await asyncio.sleep(0.05)
    assert len(world.answered) == 1
    assert world.nearly_all_decided


async def test_two_sidecars_share_the_load_and_switch_to_the_same_version(tmp_path: Path) -> None:
    async with reloading(tmp_path, sidecars=2) as world:
        async with world.load():
            await world.reached(world.put(Config(poet="poet", code="code-next")))
            await world.reached(world.put(BASE))
        assert world.nearly_all_decided
        shares = [await _decisions(world, sidecar) for sidecar in (0, 1)]
        assert min(shares) > 0.25 * sum(shares)


async def test_a_killed_sidecar_of_two_loses_nothing_and_comes_back_with_the_new_version(
    tmp_path: Path,
) -> None:
    async with reloading(tmp_path, sidecars=2) as world:
        async with world.load():
            await world.stack.stop_sidecar(signal.SIGKILL, sidecar=1)
            version = world.put(Config(poet="poet", code="code-next"))
            await world.reached(version)
            assert world.status()["sidecars_skipped"] == [f"unix:{world.stack.run_dir}/sidecar-1.sock"]
            await world.stack.start_sidecar(1)
            await world.stack.sidecars_used()
            await world.reached(version)
        assert await _decisions(world, 1) > 0
        assert world.undecided <= CLIENTS  # those that were with the one that was killed


async def test_a_lone_sidecar_restarted_between_versions_never_decides_by_another(tmp_path: Path) -> None:
    """It comes up with the new version only, while Envoy holds the old one until it is told."""
    async with reloading(tmp_path) as world, world.load():
        await world.stack.stop_writer()
        await world.stack.stop_sidecar(signal.SIGKILL)
        version = world.put(Config(poet="poet", code="code-next"))
        await world.stack.start_sidecar()
        await world.stack.sidecars_used()
        assert world.answered[version] == 0
        await world.stack.start_writer()
        await world.reached(version)
    assert world.undecided > 0  # answered by the default model meanwhile, under its own name


async def test_a_restarted_writer_takes_up_where_the_files_are(tmp_path: Path) -> None:
    async with reloading(tmp_path) as world, world.load():
        await world.reached(world.put(Config(poet="poet")))
        await world.stack.stop_writer(signal.SIGKILL)
        version = world.put(Config(code="code-next"))
        await asyncio.sleep(1.0)
        assert world.answered[version] == 0
        await world.stack.start_writer()
        await world.reached(version)
        assert (
            world.status()["old"] == 2
        )  # the poet's and the first code's: requests may still be on their way
    assert world.nearly_all_decided


async def _decisions(world: Reloading, sidecar: int) -> float:
    lines = (await world.page("/metrics", sidecar)).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("router_decisions_total"))
