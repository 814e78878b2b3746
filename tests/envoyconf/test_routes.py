"""What is a chat request, what passes untouched, and what the client learns of the decision."""

import asyncio
import re

import aiohttp
import pytest
from aiohttp import web

from extproc.envoyconf.routes import route_configuration
from extproc.envoyconf.typed_config import Names
from extproc.exchanges import Envelope
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from extproc.vocabulary import Reason
from tests.envoyconf.conftest import ASK, CHAT, JSON, Launch, World, decided

FORGED = JSON | {
    "x-router-cluster": "model-local",
    "X-Router-Model": "local",
    "x-router-shadow": "model-local",
    "x_router_cluster": "model-local",
}


@pytest.mark.parametrize(
    "path",
    [
        CHAT,
        f"{CHAT}?api-version=1",
        "//v1//chat///completions",
        "/v1/./chat/completions",
        "/v1/files/../chat/completions",
        "/v1%2Fchat%2fcompletions",
        "/v1%5Cchat/completions",
        "/v1\\chat\\completions",
        "/%76%31/ch%61t/completion%73",
        "/v1/%2e%2e/v1/chat/completions",
    ],
)
async def test_no_spelling_of_the_chat_path_gets_round_the_decision(world: World, path: str) -> None:
    assert (await world.ask(path=path)).by == "small"
    assert world.only_request()[1].path.partition("?")[0] == CHAT


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("DELETE", CHAT),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/files?a=%2B"),
        ("GET", "/v2/anything"),
        ("POST", f"{CHAT}x"),
    ],
)
async def test_all_else_reaches_the_passthrough_upstream_untouched(
    world: World, method: str, path: str
) -> None:
    answer = await world.ask(path=path, method=method, headers=FORGED)
    name, request = world.only_request()
    assert (answer.by, name) == ("rest", "rest")
    assert (request.method, request.path, request.body) == (method, path, ASK)
    assert world.sidecar.asked.empty()


async def test_what_passes_untouched_has_no_size_limit_of_ours(launch: Launch) -> None:
    world = await launch(max_body_bytes=2048)
    body = bytes(range(256)) * 2**14
    assert (await world.ask(body, path="/v1/files")).status == 200
    assert world.only_request()[1].body == body


async def test_a_client_cannot_choose_a_cluster(launch: Launch) -> None:
    world = await launch(running=False)
    assert (await world.ask(headers=FORGED)).by == "large"
    await world.sidecar.start()
    await world.sidecar_used()
    assert (await world.ask(headers=FORGED)).by == "small"
    seen = [name for p in world.providers.values() for request in p.received for name in request.headers]
    assert not [name for name in seen if "router" in name]


async def test_the_answer_tells_the_decision(world: World) -> None:
    world.sidecar.decision = decided("small", probability=0.91234567, margin=0.25)
    headers = (await world.ask()).headers
    assert {name: value for name, value in headers.items() if name.startswith("x-router-")} == {
        "x-router-route": "greeting",
        "x-router-model": "small",
        "x-router-reason": "matched",
        "x-router-margin": "0.25",
        "x-router-probability": "0.9123",
        "x-router-version": "v1",
    }


async def test_what_was_not_decided_is_not_told(world: World) -> None:
    world.sidecar.decision = decided("large", route="", reason=Reason.PINNED)
    headers = (await world.ask()).headers
    assert {name for name in headers if name.startswith("x-router-")} == {
        "x-router-model",
        "x-router-reason",
        "x-router-version",
    }


async def test_without_a_decision_the_answer_tells_nothing(launch: Launch) -> None:
    world = await launch(running=False)
    assert not [name for name in (await world.ask()).headers if name.startswith("x-router-")]


@pytest.mark.parametrize("response_headers", [True, False])
async def test_a_provider_cannot_pass_its_own_headers_off_as_the_routers(
    launch: Launch, response_headers: bool
) -> None:
    async def forge(_: web.Request) -> web.Response:
        forged = {"x-router-route": "forged", "x-router-margin": "1"}
        return web.json_response({"by": "small"}, headers=forged)

    world = await launch(response_headers=response_headers)
    world.providers["small"].handler = forge
    headers = (await world.ask()).headers
    assert headers.get("x-router-route") == ("greeting" if response_headers else None)
    assert "x-router-margin" not in headers


async def test_an_answer_may_be_silent_for_as_long_as_the_registry_says(launch: Launch) -> None:
    world = await launch(upstream_timeout_s=1.0)

    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await asyncio.sleep(0.4)
            await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    world.providers["small"].handler = stall
    with pytest.raises(aiohttp.ClientPayloadError):
        await world.ask()
    entry = await world.logged()
    assert (entry.status, entry.flags, entry.response_bytes) == (200, ("SI",), 27)


def test_the_headers_on_answers_are_fields_of_the_envelope() -> None:
    registry = Registry(models={"only": Model(base_url="http://127.0.0.1:1")}, default="only")
    (host,) = route_configuration(registry, "v1", Names()).virtual_hosts
    added = [option.header.value for option in host.response_headers_to_add if option.header]
    fields = {re.fullmatch(r"%DYNAMIC_METADATA\(router:(\w+)\)%", value)[1] for value in added}  # type: ignore[index]
    assert len(fields) == 6
    assert fields <= set(Envelope.__struct_fields__)
