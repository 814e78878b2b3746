"""Changes of the registry under load: Envoy first, the decision second, and no request is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from extproc.envoyconf.xds_writer import Writer
from extproc.registry.registry_loading import load
from extproc.telemetry.segments import segment_paths
from tests.e2e.reloading import BASE, CLIENTS, Config, Reloading, reloading

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reloading]:
    async with reloading(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def world(shared_world: Reloading) -> Reloading:
    """The module's stack, as it was at first."""
    return await shared_world.as_at_first()


async def test_models_and_routes_come_change_and_go_under_load(world: Reloading) -> None:
    switched = world.status()["switched"]
    async with world.load():
        for config in (
            Config(poet="poet"),  # a model and a route more
            Config(poet="poet", code="code-next"),  # another upstream, with another name and key
            Config(code="code-next"),  # the model and the route are gone
            BASE,  # and back
        ):
            await world.reached(world.put(config))
    assert world.nearly_all_decided
    assert len(world.answered) == 4
    assert world.status()["switched"] >= switched + 4
    assert world.status()["problem"] == ""


async def test_a_chain_of_fallbacks_changes_as_a_whole(world: Reloading) -> None:
    """What one version decided meets that version's hops: the fallback's server, name and key."""
    async with world.load():
        await world.reached(world.put(Config(fallback="small")))
        world.pool["code"].behaviour = Behaviour(status=503)
        world.pool["code-next"].behaviour = Behaviour(status=503)
        await world.reached(world.put(Config(fallback="small", code="code-next")))
        await world.reached(world.put(Config(fallback="small", small="poet", code="code-next")))
        world.pool["code"].behaviour = Behaviour()
        await world.reached(world.put(BASE))
    assert world.nearly_all_decided


async def test_a_listener_that_changes_loses_nothing_either(world: Reloading) -> None:
    async with world.load():
        await world.reached(world.put(Config(decision_ms=4900)))
        await world.reached(world.put(Config(decision_ms=4800, poet="poet")))
    assert world.nearly_all_decided


async def test_what_only_old_versions_had_goes_without_a_request_that_misses_it(world: Reloading) -> None:
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


async def test_the_version_that_decided_is_on_the_record(world: Reloading) -> None:
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


async def test_a_key_is_rotated_without_a_request_that_has_none(world: Reloading) -> None:
    code = world.pool["code"]
    code.key = ""  # takes any: which key came when is in its journal
    async with world.load():
        for key in ("key-rotated", "key-code"):
            (world.folder / "next").write_text(f"{key}\n")
            (world.folder / "next").chmod(0o600)
            (world.folder / "next").replace(world.folder / "code.key")
            await world.until(lambda key=key: code.journal[-1].key == key)
            rotated = len(code.journal)
            await world.until(lambda rotated=rotated: len(code.journal) > rotated + CLIENTS)
            assert code.journal[-1].key == key
    assert {request.key for request in code.journal} == {"key-code", "key-rotated"}
    assert world.nearly_all_decided


async def test_a_bad_file_changes_nothing_and_is_counted_and_shown(world: Reloading) -> None:
    refused_reloads = 'router_registry_reloads_total{result="refused"}'
    refused, reloads = world.status()["refused"], await world.counted(refused_reloads)
    async with world.load():
        (good,) = world.versions
        world.put_text(BASE.text(world.folder, world.pool) + "defualt: small\n")
        await world.until(lambda: "defualt" in world.status()["problem"])
        ready: dict[str, Any] = {}
        while "defualt" not in str(ready):
            ready = msgspec.json.decode(await world.page("/readyz"))
            await asyncio.sleep(0.05)
        line = len(BASE.text(world.folder, world.pool).splitlines()) + 1
        assert ready["ready"] is True
        assert f"registry.yaml:{line}: unknown key `defualt`" in ready["components"]["registry"]["detail"]
        assert f"registry.yaml:{line}: unknown key `defualt`" in world.status()["problem"]
        assert (world.status()["version"], world.status()["refused"]) == (good, refused + 1)
        assert await world.counted(refused_reloads) == reloads + 1
        assert set(world.answered) == {good}
        await world.reached(world.put(Config(poet="poet")))  # and the next good one is taken
        await world.until(lambda: world.status()["problem"] == "")
    assert world.nearly_all_decided


async def test_a_version_that_fails_its_holdout_never_reaches_envoy_and_is_shown(world: Reloading) -> None:
    """Without a mistake in it: examples that are on the wrong side, as a careless edit puts them."""
    good, poems = "[Fix this bug, Write a bash script]", "[Write a sonnet about the sea, Compose a poem]"
    (world.folder / "holdout.jsonl").write_text(
        '{"text": "Write a Python script", "route": "code"}\n'
        '{"text": "Write a poem about the sea", "route": "poetry"}\n'
    )

    def text(code: str, poetry: str, timeout_s: int = 5) -> str:
        routes = f"  code: {{candidates: code, timeout_s: {timeout_s}, examples: {code}}}\n"
        routes += f"  poetry: {{candidates: poet, examples: {poetry}}}\n"
        before, _, _ = Config(poet="poet").text(world.folder, world.pool).partition("routes:\n")
        return f"{before}routes:\n{routes}holdout: {{data: holdout.jsonl, min_accuracy: 0.9, max_worse: 1}}\n"

    def version_of(written: str) -> str:
        (world.folder / "aside.yaml").write_text(written)
        version = load(world.folder / "aside.yaml").version
        world.versions[version] = Config(poet="poet")
        return version

    refused_reloads = 'router_registry_reloads_total{result="refused"}'
    refused, reloads = world.status()["refused"], await world.counted(refused_reloads)
    async with world.load():
        first = version_of(text(good, poems))
        world.put_text(text(good, poems))
        await world.reached(first)
        bad = version_of(text(poems, good, timeout_s=6))
        world.put_text(text(poems, good, timeout_s=6))
        await world.until(lambda: "0 of 2 rows right" in world.status()["problem"])
        assert "below min_accuracy 0.9" in world.status()["problem"]
        assert "registry.yaml" in world.status()["problem"]
        assert (world.status()["version"], world.status()["refused"]) == (first, refused + 1)
        ready = msgspec.json.decode(await world.page("/readyz"))
        assert ready["ready"] is True
        assert "0 of 2 rows right" in ready["components"]["registry"]["detail"]
        assert await world.counted(refused_reloads) == reloads + 1
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


async def test_a_key_that_is_not_there_keeps_the_old_version_until_it_is(world: Reloading) -> None:
    async with world.load():
        (good,) = world.versions
        (world.folder / "poet.key").rename(world.folder / "elsewhere.key")
        version = world.put(Config(poet="poet"))
        await world.until(lambda: "models.poet: cannot read the key file" in world.status()["problem"])
        assert set(world.answered) == {good}
        (world.folder / "elsewhere.key").rename(world.folder / "poet.key")
        world.stack.writer.send_signal(signal.SIGHUP)
        await world.reached(version)
    assert world.nearly_all_decided


async def test_sighup_reads_the_registry_again(world: Reloading) -> None:
    unchanged = 'router_registry_reloads_total{result="unchanged"}'
    before = await world.counted(unchanged)
    async with world.load():
        switched = world.status()["switched"]
        world.stack.sidecar.send_signal(signal.SIGHUP)
        world.stack.writer.send_signal(signal.SIGHUP)
        await world.until(lambda: world.status()["switched"] == switched + 1)
        await world.counts(unchanged, before + 1)
    assert len(world.answered) == 1
    assert world.nearly_all_decided
