"""A pool of equal servers: each gets its share, the sick get none, and are back when they are well."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from extproc.demo.child_processes import Process
from extproc.demo.loopback_ports import HOST, free
from extproc.envoyconf import bootstrap, envoy_process
from extproc.registry.model_settings import Endpoint, HealthCheck, Model, OutlierEjection
from extproc.registry.schema import EnvoySettings, Registry
from tests.envoyconf.conftest import ASK, CHAT, DEADLINE_S, JSON, Provider, World
from tests.envoyconf.serving import running, serving

NAMES = ("a", "b", "c")
CHECK = HealthCheck(path="/healthy", interval_s=0.1, timeout_s=1, unhealthy_after=1)


@asynccontextmanager
async def pool(
    directory: Path,
    *,
    weights: Sequence[int] = (1, 1, 1),
    before: Callable[[Mapping[str, Provider]], None] = lambda providers: None,
    **fields: Any,
) -> AsyncIterator[World]:
    """A world with one model, whose pool has three servers; ``before`` prepares them."""
    async with running(*NAMES) as providers:
        before(providers)
        endpoints = [
            Endpoint(address=f"127.0.0.1:{provider.port}", weight=weight)
            for provider, weight in zip(providers.values(), weights, strict=True)
        ]
        model = Model(base_url="http://pool.test:8000", endpoints=endpoints, **fields)
        async with serving(
            directory, Registry(models={"only": model}, default="only"), providers, sidecar_alive=False
        ) as world:
            yield world


def answering(status: int) -> Callable[[web.Request], Any]:
    """A server that is well or sick, by its status, and says so when it is asked."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"by": "sick"}, status=status)

    return answer


async def asked(world: World, times: int) -> Counter[str]:
    """Who answered so many requests, one after the other; failures by their status."""
    answers = [await world.ask() for _ in range(times)]
    return Counter(answer.by if answer.status == 200 else str(answer.status) for answer in answers)


@pytest.mark.parametrize("load_balancing", ["least_request", "round_robin"])
async def test_each_server_gets_its_share(tmp_path: Path, load_balancing: str) -> None:
    async with pool(tmp_path, weights=(3, 1, 1), load_balancing=load_balancing) as world:
        answered = await asked(world, 100)
        assert world.providers["a"].received[0].headers["host"] == "pool.test:8000"
    assert set(answered) == set(NAMES)
    assert 50 <= answered["a"] <= 70
    assert all(12 <= answered[name] <= 28 for name in ("b", "c"))


async def test_at_random_every_server_gets_something(tmp_path: Path) -> None:
    async with pool(tmp_path, load_balancing="random") as world:
        answered = await asked(world, 60)
    assert set(answered) == set(NAMES)


async def test_a_server_that_is_sick_gets_no_request_and_is_back_when_it_is_well(tmp_path: Path) -> None:
    def sicken(providers: Mapping[str, Provider]) -> None:
        providers["a"].handler = answering(503)

    async with pool(tmp_path, health_check=CHECK, before=sicken) as world:
        assert set(await asked(world, 20)) == {"b", "c"}
        assert {request.path for request in world.providers["a"].received} == {"/healthy"}
        world.providers["a"].handler = None
        async with asyncio.timeout(DEADLINE_S):
            while (await world.ask()).by != "a":
                pass
        checks = [r for r in world.providers["b"].received if r.path == "/healthy"]
        assert checks[0].headers["host"] == "pool.test:8000"


async def test_a_pool_whose_servers_are_all_sick_fails_at_once_and_asks_none_of_them(tmp_path: Path) -> None:
    def sicken(providers: Mapping[str, Provider]) -> None:
        for provider in providers.values():
            provider.handler = answering(500)

    async with pool(tmp_path, health_check=CHECK, before=sicken) as world:
        answer = await world.ask()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
        paths = {request.path for p in world.providers.values() for request in p.received}
        assert paths == {"/healthy"}


async def test_a_server_whose_answers_fail_is_left_out_for_a_while(tmp_path: Path) -> None:
    ejection = OutlierEjection(after=3, for_s=3)
    async with pool(tmp_path, outlier_ejection=ejection, load_balancing="round_robin") as world:
        world.providers["a"].handler = answering(503)
        first = await asked(world, 12)
        assert first["503"] == 3
        assert await asked(world, 10) == {"b": 5, "c": 5}
        world.providers["a"].handler = None
        async with asyncio.timeout(DEADLINE_S):
            while (await world.ask()).by != "a":
                await asyncio.sleep(0.05)


async def test_a_pool_that_is_left_out_as_a_whole_is_not_asked_all_the_same(tmp_path: Path) -> None:
    async with pool(tmp_path, outlier_ejection=OutlierEjection(after=1, for_s=30)) as world:
        for provider in world.providers.values():
            provider.handler = answering(502)
        assert (await asked(world, 6)).keys() == {"502", "503"}
        world.forget()
        answer = await world.ask()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
        assert not [request for p in world.providers.values() for request in p.received]


async def test_a_refusal_is_not_a_failure_of_the_server(tmp_path: Path) -> None:
    """A client's bad requests, or a rate limit, must not take a server away from all."""
    async with pool(tmp_path, outlier_ejection=OutlierEjection(after=1)) as world:
        for provider, status in zip(world.providers.values(), (400, 429, 404), strict=True):
            provider.handler = answering(status)
        assert (await asked(world, 30)).keys() == {"400", "429", "404"}


async def test_names_and_addresses_may_stand_in_one_pool(tmp_path: Path) -> None:
    async with running("a", "b") as providers:
        endpoints = [
            Endpoint(address=f"localhost:{providers['a'].port}"),
            Endpoint(address=f"127.0.0.1:{providers['b'].port}"),
        ]
        model = Model(base_url="http://pool.test", endpoints=endpoints, load_balancing="round_robin")
        registry = Registry(models={"only": model}, default="only")
        async with serving(tmp_path, registry, providers, sidecar_alive=False) as world:
            assert await asked(world, 10) == {"a": 5, "b": 5}
            assert world.providers["a"].received[0].headers["host"] == "pool.test"


async def test_name_servers_that_do_not_answer_do_not_keep_envoy_from_serving_others(tmp_path: Path) -> None:
    listen, admin = free(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        async with running("well") as providers:
            models = {
                "well": Model(base_url=f"http://127.0.0.1:{providers['well'].port}"),
                "unknown": Model(base_url="http://models.example"),
            }
            envoy = EnvoySettings(
                listen=f"{HOST}:{listen}", admin=f"{HOST}:{admin}", sidecar=f"unix:{tmp_path}/s"
            )
            tree = bootstrap.build(Registry(models=models, default="well", envoy=envoy), tmp_path)
            ask_only(tree, "model-unknown", silent.getsockname()[1])
            config = tmp_path / "envoy.yaml"
            config.write_text(yaml.safe_dump(tree))
            command = [
                str(envoy_process.find()),
                "-c",
                str(config),
                "--disable-hot-restart",
                "--concurrency",
                "1",
            ]
            process = await Process.start("envoy", command, log=tmp_path / "log")
            try:
                await process.ready(f"http://{HOST}:{admin}/ready", timeout_s=15)  # by default: a minute
                url = f"http://{HOST}:{listen}{CHAT}"
                async with aiohttp.ClientSession() as http, http.post(url, data=ASK, headers=JSON) as answer:
                    assert answer.status == 200
                assert silent.recv(512)
            finally:
                await process.stop()


def ask_only(tree: dict[str, Any], cluster: str, port: int) -> None:
    """Has one cluster ask the name server at this port of loopback."""
    clusters = {made["name"]: made for made in tree["static_resources"]["clusters"]}
    resolver = clusters[cluster]["typed_dns_resolver_config"]["typed_config"]
    resolver["resolvers"] = [{"socket_address": {"address": HOST, "port_value": port}}]


async def test_a_server_that_is_well_by_its_own_word_and_fails_all_the_same_stays_out(tmp_path: Path) -> None:
    ejection = OutlierEjection(after=3, for_s=300)
    async with pool(
        tmp_path, outlier_ejection=ejection, health_check=CHECK, load_balancing="round_robin"
    ) as world:
        failing = world.providers["a"]

        async def fail(request: web.Request) -> web.Response:
            return web.json_response({"by": "a"}, status=200 if request.path == "/healthy" else 503)

        failing.handler = fail
        assert (await asked(world, 12))["503"] == 3
        seen = len(failing.received)
        async with asyncio.timeout(DEADLINE_S):
            while len(failing.received) < seen + 3:  # health checks, all of them good
                await asyncio.sleep(0.05)
        assert await asked(world, 10) == {"b": 5, "c": 5}
