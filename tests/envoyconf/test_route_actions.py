"""A route's own policies: how long a model may take to begin, how often it is asked, what is added."""

import asyncio
import time
from collections.abc import Mapping

import pytest
from aiohttp import web

from extproc.registry.schema import Retry, RouteSettings
from extproc.vocabulary import Api, BodyPolicy
from tests.envoyconf.conftest import ASK, CHAT, Handler, Launch, World, decided

MESSAGES = "/v1/messages"


def answering(*statuses: int, headers: Mapping[str, str] | None = None) -> Handler:
    """Fails with these statuses, one a request, then answers. Status 0 resets the connection."""
    left = list(statuses)

    async def answer(request: web.Request) -> web.Response:
        status = left.pop(0) if left else 200
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"by": "small"}, status=status or 200, headers=headers)

    return answer


async def launched(launch: Launch, **policy: object) -> World:
    """A world whose decisions are for a route with ``policy``."""
    return await launch(routes={"greeting": RouteSettings(candidates="small", **policy)})  # type: ignore[arg-type]


def asked(world: World) -> int:
    """How often the model was asked."""
    return len(world.providers["small"].received)


async def failed_connections(world: World) -> int:
    """How often Envoy could not connect to the model."""
    page = await world.admin("/stats?filter=^cluster.model-small.upstream_cx_connect_fail$")
    return int(page.rpartition(" ")[2])


# --- timeout_s ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_model_that_does_not_begin_in_time_is_504_in_the_apis_shape(
    launch: Launch, path: str
) -> None:
    world = await launch(
        routes={"greeting": RouteSettings(candidates="small", timeout_s=0.2)},
        speaks={"small": list(Api), "large": list(Api)},
    )
    over = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    world.providers["small"].handler = wait
    started = time.monotonic()
    answer = await world.ask(ASK.replace(b"{", b'{"max_tokens":9,', 1), path=path)
    took = time.monotonic() - started
    over.set()
    assert answer.status == 504
    assert took >= 0.2
    error = answer.json()["error"]
    assert error["message"] == "The model did not answer in time."
    assert error["type"] == ("server_error" if path == CHAT else "timeout_error")
    assert asked(world) == 1
    assert (await world.logged()).flags == ("UT",)


async def test_an_answer_that_has_begun_may_take_longer_than_the_timeout(launch: Launch) -> None:
    world = await launched(launch, timeout_s=1.0)

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(4):
            await asyncio.sleep(0.3)
            await response.write(b"data: 1\n\n")
        return response

    world.providers["small"].handler = slow
    answer = await world.ask()
    assert (answer.status, answer.body) == (200, b"data: 1\n\n" * 4)


async def test_a_timeout_counts_for_its_route_alone(launch: Launch) -> None:
    world = await launched(launch, timeout_s=0.1)

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.json_response({"by": "small"})

    world.providers["small"].handler = slow
    assert (await world.ask()).status == 504
    world.sidecar.decision = decided("small", route="another")
    assert (await world.ask()).status == 200


# --- retry --------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [429, 502, 503, 504, 0])
async def test_a_failure_is_tried_again_and_never_seen(launch: Launch, failure: int) -> None:
    world = await launched(launch, retry=Retry(attempts=2))
    world.providers["small"].handler = answering(failure, failure)
    answer = await world.ask()
    assert (answer.status, asked(world)) == (200, 3)
    assert {request.body for request in world.providers["small"].received} == {ASK}
    assert (await world.logged()).attempts == 3


async def test_what_keeps_failing_is_told_in_the_providers_own_words(launch: Launch) -> None:
    world = await launched(launch, retry=Retry(attempts=1))
    world.providers["small"].handler = answering(503, 503, 503)
    answer = await world.ask()
    assert (answer.status, answer.by, asked(world)) == (503, "small", 2)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_statuses_that_are_not_listed_go_straight_back(launch: Launch, status: int) -> None:
    world = await launched(launch, retry=Retry(attempts=2))
    world.providers["small"].handler = answering(status)
    assert (await world.ask()).status == status
    assert asked(world) == 1


async def test_the_statuses_are_the_operators_to_choose(launch: Launch) -> None:
    world = await launched(launch, retry=Retry(attempts=1, statuses=(418,)))
    world.providers["small"].handler = answering(418, 503)
    assert (await world.ask()).status == 503
    assert asked(world) == 2


async def test_a_refused_connection_is_tried_again_until_the_server_is_back(launch: Launch) -> None:
    world = await launched(launch, retry=Retry(attempts=10))
    small = world.providers["small"]
    await small.stop()
    waiting = asyncio.create_task(world.ask())
    async with asyncio.timeout(60):
        while not await failed_connections(world):
            await asyncio.sleep(0.01)
    assert not waiting.done()
    await small.start()
    assert (await waiting).status == 200


async def test_a_stall_is_tried_again_after_the_timeout(launch: Launch) -> None:
    world = await launched(launch, retry=Retry(attempts=1), timeout_s=1.0)
    over = asyncio.Event()
    small = world.providers["small"]

    async def stall_once(_: web.Request) -> web.Response:
        if asked(world) == 1:
            await over.wait()
        return web.json_response({"by": "small"})

    small.handler = stall_once
    answer = await world.ask()
    over.set()
    assert (answer.status, asked(world)) == (200, 2)


async def test_bodies_up_to_the_limit_are_tried_again_too(launch: Launch) -> None:
    route = RouteSettings(candidates="small", retry=Retry(attempts=1))
    world = await launch(routes={"greeting": route}, max_body_bytes=3_000_000)
    world.providers["small"].handler = answering(503)
    body = ASK.replace(b"hi", b"x" * (3_000_000 - len(ASK) + 2))
    assert (await world.ask(body)).status == 200
    assert [request.body == body for request in world.providers["small"].received] == [True, True]


async def test_a_body_that_edits_make_longer_than_the_limit_is_tried_again_with_its_edits(
    launch: Launch,
) -> None:
    route = RouteSettings(candidates="small", retry=Retry(attempts=1))
    world = await launch(routes={"greeting": route}, max_body_bytes=3_000_000)
    world.sidecar.decision = decided("small", policy=BodyPolicy(model="n" * 2000))
    world.providers["small"].handler = answering(503)
    body = ASK.replace(b"hi", b"x" * (3_000_000 - len(ASK) + 2))
    assert (await world.ask(body)).status == 200
    first, second = (request.body for request in world.providers["small"].received)
    assert b"n" * 2000 in first
    assert first == second


async def test_a_client_cannot_use_the_room_for_edits(launch: Launch) -> None:
    route = RouteSettings(candidates="small", retry=Retry(attempts=1))
    world = await launch(routes={"greeting": route}, max_body_bytes=3_000_000)
    body = ASK.replace(b"hi", b"x" * (3_000_000 - len(ASK) + 3))
    answer = await world.ask(body)
    assert (answer.status, asked(world)) == (413, 0)
    assert b"larger than 3000000 bytes" in answer.body


async def test_a_provider_that_says_when_to_come_back_is_given_that_time(launch: Launch) -> None:
    world = await launched(launch, retry=Retry(attempts=1))
    world.providers["small"].handler = answering(429, headers={"retry-after": "1"})
    started = time.monotonic()
    assert (await world.ask()).status == 200
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("asks_for", ["6", "600", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
async def test_what_no_client_would_wait_for_is_not_waited_for(launch: Launch, asks_for: str) -> None:
    world = await launched(launch, retry=Retry(attempts=1))
    world.providers["small"].handler = answering(429, headers={"retry-after": asks_for})
    started = time.monotonic()
    assert (await world.ask()).status == 200
    assert time.monotonic() - started < 6.0  # it is tried again long before


async def test_without_a_policy_nothing_is_tried_twice(world: World) -> None:
    world.providers["small"].handler = answering(503)
    assert (await world.ask()).status == 503
    assert asked(world) == 1
    assert (await world.logged()).attempts == 1


# --- Headers ------------------------------------------------------------------------------------


async def test_request_headers_reach_the_provider_in_place_of_the_clients(launch: Launch) -> None:
    added = {"X-Team": "search", "x-share": "100% of %REQ(:path)%"}
    world = await launched(launch, request_headers=added)
    await world.ask(headers={"content-type": "application/json", "x-team": "forged"})
    headers = world.only_request()[1].headers
    assert (headers["x-team"], headers["x-share"]) == ("search", "100% of %REQ(:path)%")


async def test_response_headers_reach_the_client_in_place_of_the_providers(launch: Launch) -> None:
    added = {"X-Policy": '50% "quoted" %START_TIME%', "cache-control": "no-store"}
    world = await launched(launch, response_headers=added)
    world.providers["small"].handler = answering(headers={"cache-control": "public", "x-policy": "mine"})
    headers = (await world.ask()).headers
    assert (headers["x-policy"], headers["cache-control"]) == (added["X-Policy"], "no-store")


async def test_headers_are_of_their_route_alone(launch: Launch) -> None:
    world = await launched(launch, request_headers={"x-team": "a"}, response_headers={"x-policy": "b"})
    world.sidecar.decision = decided("small", route="another")
    answer = await world.ask()
    assert "x-policy" not in answer.headers
    assert "x-team" not in world.only_request()[1].headers


async def test_a_client_cannot_claim_a_routes_policies(launch: Launch) -> None:
    world = await launched(launch, response_headers={"x-policy": "b"})
    world.sidecar.decision = decided("small", route="", policy=BodyPolicy(model="auto"))
    forged = {"content-type": "application/json", "x-router-route": "greeting"}
    assert "x-policy" not in (await world.ask(headers=forged)).headers
