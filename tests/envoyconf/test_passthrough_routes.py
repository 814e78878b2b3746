"""What is no LLM call passes as if the router were not there, but for whose credentials it carries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from aiohttp import web

from extproc.registry.model_settings import Auth, Model, Passthrough
from extproc.registry.schema import EnvoySettings, Registry
from tests.envoyconf.conftest import DEADLINE_S, JSON, World
from tests.envoyconf.serving import running, serving

CREDENTIALS = {"authorization": "Bearer clients", "x-api-key": "clients", "api-key": "clients"}


@asynccontextmanager
async def rest(directory: Path, **fields: object) -> AsyncIterator[World]:
    """A passthrough upstream of these settings beside a model, and a small limit for bodies."""
    async with running("only", "rest") as providers:
        only, passed = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={"only": Model(base_url=only)},
            default="only",
            passthrough=Passthrough(**{"base_url": passed, **fields}),  # type: ignore[arg-type]
            envoy=EnvoySettings(max_body_bytes=1024),
        )
        async with serving(directory, registry, providers) as world:
            yield world


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_passes_with_its_path_query_headers_and_bytes(tmp_path: Path, method: str) -> None:
    headers = {
        "content-type": "multipart/form-data; boundary=x",
        "accept-encoding": "gzip, br",
        "openai-beta": "assistants=v2",
        "x-stainless-lang": "python",
    }
    body = bytes(range(256)) * 40
    async with rest(tmp_path) as world:
        answer = await world.ask(body, path="/v1/files?b=%2F&a=%zz&&c", method=method, headers=headers)
        request = world.only_request()[1]
        assert world.sidecar.asked.empty()
    assert (answer.status, answer.by) == (200, "rest")
    assert (request.method, request.path, request.body) == (method, "/v1/files?b=%2F&a=%zz&&c", body)
    assert {name: request.headers[name] for name in headers} == headers
    assert not [name for name in (*request.headers, *answer.headers) if "router" in name]


@pytest.mark.parametrize("auth", [None, "passthrough", Auth(file="rest.key")])
async def test_credentials_are_the_upstreams_or_none_unless_it_wants_the_clients(
    tmp_path: Path, auth: object
) -> None:
    (tmp_path / "rest.key").write_text("sk-rest")
    async with rest(tmp_path, auth=auth) as world:
        await world.ask(path="/v1/embeddings", headers=JSON | CREDENTIALS)
        headers = world.only_request()[1].headers
    seen = {name: headers[name] for name in CREDENTIALS if name in headers}
    if auth == "passthrough":
        assert seen == CREDENTIALS
    else:
        assert seen == ({} if auth is None else {"authorization": "Bearer sk-rest"})


async def test_bodies_pass_as_they_come_and_are_not_gathered_first(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers with the request's body from the moment on that its head is there."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        rest(tmp_path, base_url=f"http://127.0.0.1:{port}") as world,
        world.connection() as (reader, writer),
    ):
        writer.write(
            b"POST /v1/audio HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        )
        await reader.readuntil(b"first")
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        await reader.readuntil(b"second")
        await reader.readuntil(b"0\r\n\r\n")
    await asyncio.wait_for(ended.wait(), DEADLINE_S)


async def test_openais_client_embeds_and_uploads_through_it(tmp_path: Path) -> None:
    async def embed(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/files":
            return web.json_response({"id": "file-1", "object": "file", "filename": "f"})
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        return web.json_response({"object": "list", "data": [vector], "model": "e", "usage": {}})

    large = b"x" * 2_000_000
    async with rest(tmp_path) as world:
        world.providers["rest"].handler = embed
        url = f"http://127.0.0.1:{world.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="clients", max_retries=0) as client:
            made = await client.embeddings.create(model="e", input="hi", encoding_format="float")
            assert made.data[0].embedding == [0.5, 0.25]
            assert (await client.files.create(file=large, purpose="assistants")).id == "file-1"
        embedded, uploaded = world.providers["rest"].received
    assert b'"model":"e"' in embedded.body.replace(b" ", b"")
    assert large in uploaded.body
