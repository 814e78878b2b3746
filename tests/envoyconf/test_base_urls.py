"""What a base URL has as its path stands in place of /v1; the rest of the path stays byte for byte."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from extproc.registry.model_settings import Model, Passthrough
from extproc.registry.schema import Registry
from extproc.vocabulary import Api
from tests.envoyconf.conftest import CHAT, JSON, World
from tests.envoyconf.serving import EVERY, running, serving

QUERY = "?api-version=2026-01-01&a=/v1/%2F&&b=?/v1/"
PATHS = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]


@asynccontextmanager
async def at(directory: Path, path: str, *, sidecar_alive: bool = True) -> AsyncIterator[World]:
    """One model, and a passthrough upstream, each with ``path`` in its base URL."""
    async with running("only", "rest") as providers:
        only, rest = (f"http://127.0.0.1:{provider.port}{path}" for provider in providers.values())
        registry = Registry(
            models={"only": Model(base_url=only, apis=list(Api))},
            default="only",
            passthrough=Passthrough(base_url=rest),
        )
        async with serving(directory, registry, providers, sidecar_alive=sidecar_alive) as world:
            yield world


@pytest.mark.parametrize("sidecar_alive", [True, False], ids=["decided", "failing open"])
@pytest.mark.parametrize(
    ("base", "root"),
    [
        ("", "/v1"),
        ("/", "/v1"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/openai/v1", "/openai/v1"),
        ("/openai/v1/", "/openai/v1"),
        ("/api/v3", "/api/v3"),
        ("/v1/projects/p-1.x_y~", "/v1/projects/p-1.x_y~"),
    ],
)
async def test_the_path_of_the_base_url_stands_in_place_of_v1(
    tmp_path: Path, base: str, root: str, sidecar_alive: bool
) -> None:
    async with at(tmp_path, base, sidecar_alive=sidecar_alive) as world:
        for path in PATHS:
            for query in ("", "?", QUERY):
                world.forget()
                assert (await world.ask(EVERY, path=path + query)).by == "only"
                expected = root + path.removeprefix("/v1")
                # aiohttp's server drops a query that is empty; no provider can tell the difference.
                assert world.only_request()[1].path.rstrip("?") == (expected + query).rstrip("?")


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (f"/v1/embeddings{QUERY}", f"/openai/v1/embeddings{QUERY}"),
        ("/v1/files/v1/x%2Fy", "/openai/v1/files/v1/x/y"),
        ("/v1", "/v1"),
        ("/v10/x", "/v10/x"),
        ("/tokenize?a=1", "/tokenize?a=1"),
    ],
)
async def test_passthrough_goes_below_its_own_base_url_too(tmp_path: Path, asked: str, sent: str) -> None:
    async with at(tmp_path, "/openai/v1") as world:
        assert (await world.ask(path=asked)).by == "rest"
        assert world.only_request()[1].path == sent


async def test_errors_stay_in_the_clients_shape_where_the_path_was_rewritten(tmp_path: Path) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with at(tmp_path, "/anthropic/v9") as world:
        world.providers["only"].handler = world.providers["rest"].handler = hang_up
        messages, chat = [await world.ask(EVERY, path=path) for path in ("/v1/messages?beta=true", CHAT)]
        # A thread of OpenAI's assistants has messages too.
        thread = await world.ask(b"", path="/v1/threads/t/messages", method="GET")
        count = await world.ask(
            EVERY, path="/v1/messages/count_tokens", headers=JSON | {"anthropic-version": "2023-06-01"}
        )
    for answer in (messages, count):
        assert (answer.status, answer.json()["type"]) == (503, "error")
    for answer in (chat, thread):
        assert (answer.status, answer.json()["error"]["code"]) == (503, "upstream_unavailable")


@pytest.mark.parametrize("sidecar_alive", [True, False], ids=["decided", "failing open"])
async def test_the_host_is_the_providers_with_its_port(tmp_path: Path, sidecar_alive: bool) -> None:
    async with at(tmp_path, "/openai/v1", sidecar_alive=sidecar_alive) as world:
        await world.ask(headers=JSON | {"host": "clients.example"})
        assert world.only_request()[1].headers["host"] == f"127.0.0.1:{world.providers['only'].port}"
