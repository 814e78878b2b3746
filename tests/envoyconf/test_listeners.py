"""What clients may speak and forge, and what is logged of it."""

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import web
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from extproc.envoyconf.listeners import connection_manager
from extproc.envoyconf.typed_config import Site, plain
from extproc.errors import Denied
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from tests.envoyconf.conftest import ASK, CHAT, DEADLINE_S, JSON, Launch, World

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME = 4


async def test_envoy_starts_without_a_warning(world: World) -> None:
    assert world.log.read_text() == ""


async def test_every_exchange_has_an_id_that_only_envoy_gives(world: World) -> None:
    async def claim(_: web.Request) -> web.Response:
        return web.json_response({"by": "small"}, headers={"x-request-id": "the-providers"})

    world.providers["small"].handler = claim
    answer = await world.ask(headers=JSON | {"x-request-id": "the-clients"})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert world.only_request()[1].headers["x-request-id"] == answer.headers["x-request-id"]


async def test_providers_learn_nothing_of_envoy_or_of_the_client(world: World) -> None:
    sent = {"x-envoy-max-retries": "3", "x-envoy-invented": "1", "x-forwarded-for": "9.9.9.9"}
    await world.ask(headers=JSON | sent)
    headers = world.only_request()[1].headers
    assert not [name for name in headers if name.startswith(("x-envoy", "x-router", "x-forwarded-for"))]


def test_what_steers_or_poses_is_removed_before_anything_reads_it() -> None:
    """Where clients are told from the inside by their address, Envoy would let some of these pass."""
    registry = Registry(models={"only": Model(base_url="http://127.0.0.1:1")}, default="only")
    manager = plain(connection_manager(registry, RouteConfiguration(name="llm"), Site(Path())))
    (extension,) = manager["early_header_mutation_extensions"]
    assert extension["typed_config"]["mutations"] == [
        {"remove_on_match": {"key_matcher": {"prefix": "x-router-"}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
        {"remove": "x-request-id"},
    ]
    assert manager["use_remote_address"] is True


async def test_http2_without_tls_is_spoken(world: World) -> None:
    async with world.connection() as (reader, writer):
        writer.write(HTTP2_PREFACE + EMPTY_SETTINGS)
        frame = await reader.readexactly(9)
    assert frame[3] == SETTINGS_FRAME


async def test_a_websocket_is_refused(world: World) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    answer = await world.ask(None, path="/v1/realtime", method="GET", headers=upgrade)
    assert answer.status == 403


async def test_a_stream_flows_while_it_is_made(world: World) -> None:
    seen = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await seen.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    world.providers["small"].handler = stream
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with asyncio.timeout(DEADLINE_S), world.http.post(url, json=body) as answer:
        assert answer.headers["x-router-route"] == "greeting"
        assert await answer.content.readexactly(9) == b"data: 1\n\n"
        seen.set()
        assert await answer.read() == b"data: [DONE]\n\n"


async def test_a_chunked_body_that_waits_for_a_go_is_decided(world: World) -> None:
    async with world.connection() as (reader, writer):
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.writelines(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (ASK[:20], ASK[20:], b""))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    name, request = world.only_request()
    assert (name, request.body) == ("small", ASK)


async def test_each_chat_exchange_is_logged_once_with_its_decision_and_nothing_else_is(world: World) -> None:
    await world.ask(path="/v1/embeddings")
    await world.ask(method="GET", body=None)
    first = await world.ask(path=f"{CHAT}?x=1")
    second = await world.ask()
    logged = [await world.logged() for _ in range(2)]
    assert [entry.request_id for entry in logged] == [a.headers["x-request-id"] for a in (first, second)]
    for entry in logged:
        assert (entry.status, entry.cluster, entry.flags) == (200, "model-small", ())
        assert entry.envelope is not None
        assert (entry.envelope.model, entry.envelope.original_model) == ("small", "auto")
    assert world.sidecar.failures == []


async def test_a_refusals_decision_is_logged_too(world: World) -> None:
    world.sidecar.refusal = Denied("not here", rule="no-secrets")
    answer = await world.ask()
    entry = await world.logged()
    assert (entry.request_id, entry.status, entry.cluster) == (answer.headers["x-request-id"], 400, "")
    assert entry.envelope is not None
    assert (entry.envelope.error, entry.envelope.rule) == ("denied", "no-secrets")


async def test_an_exchange_that_failed_open_is_logged_without_a_decision(launch: Launch) -> None:
    world = await launch(decision_ms=1)
    world.sidecar.open.clear()
    answer = await world.ask()
    entry = await world.logged()
    assert (entry.request_id, entry.cluster) == (answer.headers["x-request-id"], "model-large")
    assert entry.envelope is None


@pytest.mark.parametrize("header", ["x" * 70_000, "\x00"])
async def test_requests_beyond_all_limits_are_refused(world: World, header: str) -> None:
    async with world.connection() as (reader, writer):
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\na: {header}\r\ncontent-length: 0\r\n\r\n".encode())
        assert re.match(rb"HTTP/1.1 4\d\d ", await reader.readline())
    assert world.sidecar.asked.empty()
