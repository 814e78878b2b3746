"""A client that shuts its side of the connection after the request: Envoy takes it for one that left.

Without an answer from us this is what Envoy does by itself, so it is pinned beside an Envoy whose
listener has the router filter and nothing else.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from extproc.envoyconf import bootstrap
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from tests.envoyconf.conftest import ASK, CHAT, World
from tests.envoyconf.serving import running, serving

MODEL = "model-only"


def with_a_router_alone(registry: Registry, directory: Path) -> dict[str, Any]:
    """The generated configuration with a listener as plain as Envoy allows."""
    tree = bootstrap.build(registry, directory)
    (listener,) = tree["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    (manager,) = chain["filters"]
    config = manager["typed_config"]
    route = {"match": {"prefix": "/"}, "route": {"cluster": MODEL, "timeout": "0s"}}
    manager["typed_config"] = {
        "@type": config["@type"],
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "plain", "domains": ["*"], "routes": [route]}]},
        "http_filters": [each for each in config["http_filters"] if each["name"].endswith(".router")],
    }
    return tree


async def half_closed(world: World) -> bytes:
    """What a client reads that sends a whole request and shuts its side at once."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(ASK)}\r\n"
    )
    async with world.connection() as (reader, writer):
        writer.write(head.encode() + b"\r\n" + ASK)
        writer.write_eof()
        return await reader.read()


@pytest.mark.parametrize("build", [bootstrap.build, with_a_router_alone], ids=["ours", "plain Envoy"])
async def test_a_half_closed_client_gets_no_answer_with_or_without_the_router(
    tmp_path: Path, build: Any
) -> None:
    answered = asyncio.Event()

    async def answer_later(_: web.Request) -> web.Response:
        await answered.wait()
        return web.json_response({"by": "only"})

    async with running("only") as providers:
        providers["only"].handler = answer_later
        registry = Registry(
            models={"only": Model(base_url=f"http://127.0.0.1:{providers['only'].port}")}, default="only"
        )
        async with serving(tmp_path, registry, providers, build=build) as world:
            try:
                assert await half_closed(world) == b""  # the connection is closed while nobody has answered
            finally:
                answered.set()
            assert (await world.ask()).by == "only"  # a client that keeps its side open is served
            if build is bootstrap.build:
                entry = await world.logged()
                assert (entry.status, "DC" in entry.flags) == (0, True)
