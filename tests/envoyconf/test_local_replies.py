"""Errors that Envoy makes are OpenAI's shape; errors that anybody else makes are left alone."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from extproc._pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.errors import BadRequest, ClientError, Denied, UnknownModel
from extproc.vocabulary import BodyPolicy
from tests.envoyconf.conftest import ASK, Launch, World, decided, ext_proc


def error(kind: str, code: str) -> dict[str, Any]:
    return {"type": kind, "param": None, "code": code}


def told(answer: Any) -> dict[str, Any]:
    """The error without its message, which must be there."""
    body = dict(answer.json()["error"])
    assert body.pop("message")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    return body


@pytest.mark.parametrize("running", [True, False], ids=["sidecar", "no sidecar"])
async def test_a_body_over_the_limit_is_413_and_one_at_it_passes(launch: Launch, running: bool) -> None:
    world = await launch(max_body_bytes=3_000_000, running=running)
    wrapping = b'{"model":"auto","messages":[{"role":"user","content":"%s"}]}'
    at_limit = wrapping % (b"x" * (3_000_000 - len(wrapping) + 2))
    assert len(at_limit) == 3_000_000
    assert (await world.ask(at_limit)).status == 200
    world.forget()
    too_large = await world.ask(at_limit + b" ")
    assert too_large.status == 413
    assert told(too_large) == error("invalid_request_error", "request_too_large")
    assert "3000000" in too_large.json()["error"]["message"]
    if running:
        assert (await world.logged(too_large.headers["x-request-id"])).attempts == 0
    assert not [request for p in world.providers.values() for request in p.received]


async def test_a_body_at_the_limit_may_grow_by_the_models_name(launch: Launch) -> None:
    world = await launch(max_body_bytes=len(ASK))
    world.sidecar.decision = decided("small", policy=BodyPolicy(model="a-much-longer-name"))
    assert (await world.ask()).status == 200
    assert world.only_request()[1].body == ASK.replace(b"auto", b"a-much-longer-name")


async def test_a_model_that_is_down_is_503(world: World) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    world.providers["small"].handler = hang_up
    answer = await world.ask()
    assert answer.status == 503
    assert told(answer) == error("server_error", "upstream_unavailable")
    assert answer.headers["x-router-model"] == "small"


async def test_a_model_that_this_envoy_does_not_hold_is_the_defaults_to_answer(world: World) -> None:
    world.sidecar.decision = decided(
        "small", cluster="model-of-yesterday", policy=BodyPolicy(model="yesterday-7b")
    )
    answer = await world.ask()
    assert (answer.status, answer.by) == (200, "large")
    assert json.loads(world.only_request()[1].body) == json.loads(ASK.replace(b'"auto"', b'"large-400b"'))


async def test_a_model_that_says_nothing_in_time_is_504(launch: Launch) -> None:
    world = await launch(upstream_timeout_s=0.1)
    over = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    world.providers["small"].handler = wait
    answer = await world.ask()
    over.set()
    assert answer.status == 504
    assert told(answer) == error("server_error", "upstream_timeout")


@pytest.mark.parametrize(
    "refusal", [BadRequest("wrong", param="messages"), Denied("not here", rule="r"), UnknownModel("which?")]
)
async def test_what_the_sidecar_refuses_reaches_the_client_in_its_words(
    world: World, refusal: ClientError
) -> None:
    world.sidecar.refusal = refusal
    answer = await world.ask()
    assert answer.status == refusal.status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()["error"]
    assert (body["message"], body["param"], body["code"]) == (refusal.message, refusal.param, refusal.code)
    assert answer.headers["x-router-reason"] == refusal.label
    assert not [request for p in world.providers.values() for request in p.received]


@pytest.mark.parametrize("status", [500, 503, 504])
async def test_a_server_error_of_the_sidecars_would_not_be_rewritten_either(
    world: World, status: int
) -> None:
    def refuse(_: ProcessingRequest) -> ProcessingResponse:
        response = ProcessingResponse()
        response.immediate_response.status.code = status
        response.immediate_response.body = b"the sidecar's own words"
        return response

    await world.sidecar.stop()
    await world.sidecar.start(ext_proc(refuse))
    answer = await world.ask()
    assert (answer.status, answer.body) == (status, b"the sidecar's own words")


@pytest.mark.parametrize("status", [413, 429, 500, 503, 504])
async def test_a_providers_own_error_reaches_the_client_as_it_is(world: World, status: int) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=status, body=b"the provider's own words", content_type="text/plain")

    world.providers["small"].handler = fail
    answer = await world.ask()
    assert (answer.status, answer.body) == (status, b"the provider's own words")
