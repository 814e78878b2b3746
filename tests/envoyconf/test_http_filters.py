"""Requests are decided by the sidecar and, without it, get the default's name and key from Envoy alone."""

import asyncio
from collections.abc import Mapping

import grpc
import msgspec
import pytest

from extproc._pb.ext_proc_pb2 import (
    OVERWRITE_IF_EXISTS_OR_ADD,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.vocabulary import BodyPolicy
from tests.envoyconf.conftest import DEADLINE_S, JSON, Launch, World, decided, ext_proc

# What a JSON parser would not give back as it was: order, spacing, escapes, doubles, big integers.
DELICATE = (
    b'{ "z":9007199254740993,"model" : "auto","messages":[{"role":"user","content":"h\\u00e9 \xc3\xa9"}],'
    b'\n"f":1.0,"e":1E400,"once":1,"twice":2}'
)
DEEP = b'{"a":' * 200 + b"1" + b"}" * 200
PLAIN = b'{"temperature":1,"model":"auto","messages":[{"role":"user","content":"hi"}]}'
WITH_DEFAULT = b'{"messages":[{"content":"hi","role":"user"}],"model":"large-400b","temperature":1}'


async def test_a_decided_request_keeps_every_byte_that_the_sidecar_did_not_change(world: World) -> None:
    assert (await world.ask(DELICATE)).by == "small"
    assert world.only_request()[1].body == DELICATE


async def test_a_body_edited_by_the_sidecar_arrives_edited_and_whole(world: World) -> None:
    world.sidecar.decision = decided("local", policy=BodyPolicy(model="a-longer-name"))
    assert (await world.ask(DELICATE)).by == "local"
    body = world.only_request()[1].body
    assert body == DELICATE.replace(b'"auto"', b'"a-longer-name"')


async def test_deciding_for_the_default_model_too_leaves_the_body_alone(world: World) -> None:
    world.sidecar.decision = decided("large")
    assert (await world.ask(DELICATE)).by == "large"
    assert world.only_request()[1].body == DELICATE


async def test_without_a_sidecar_the_default_gets_its_own_name_and_key(launch: Launch) -> None:
    world = await launch(running=False)
    answer = await world.ask(PLAIN, headers=JSON | {"authorization": "Bearer client"})
    assert (answer.status, answer.by) == (200, "large")
    request = world.only_request()[1]
    assert request.body == WITH_DEFAULT
    assert request.headers["authorization"] == "Bearer sk-large"


async def test_any_name_a_provider_may_give_its_model_is_sent_as_it_is(launch: Launch) -> None:
    name = 'a "50%" \\ %REQ(:path)% é'
    world = await launch(running=False, name=name)
    await world.ask(PLAIN)
    assert msgspec.json.decode(world.only_request()[1].body)["model"] == name


async def test_a_hung_sidecar_costs_the_deadline_and_its_margin(launch: Launch) -> None:
    world = await launch(decision_ms=50)
    world.sidecar.open.clear()
    started = asyncio.get_running_loop().time()
    answer = await world.ask(PLAIN)
    took = asyncio.get_running_loop().time() - started
    assert (answer.status, answer.by) == (200, "large")
    assert world.only_request()[1].body == WITH_DEFAULT
    assert took >= 0.25


async def test_a_sidecar_killed_while_it_decides_loses_no_request(launch: Launch) -> None:
    world = await launch(decision_ms=9_000)
    world.sidecar.open.clear()
    asked = [asyncio.create_task(world.ask(PLAIN)) for _ in range(8)]
    for _ in asked:
        await world.sidecar.asked.get()
    await world.sidecar.stop()
    answers = await asyncio.gather(*asked)
    assert {(answer.status, answer.by) for answer in answers} == {(200, "large")}
    assert {request.body for request in world.providers["large"].received} == {WITH_DEFAULT}


@pytest.mark.parametrize("sidecar", ["", "127.0.0.1:{port}"])
async def test_routing_is_back_once_the_sidecar_is(
    launch: Launch, unused_tcp_port: int, sidecar: str
) -> None:
    world = await launch(sidecar=sidecar.format(port=unused_tcp_port))
    assert (await world.ask()).by == "small"
    await world.sidecar.stop()
    assert (await world.ask()).by == "large"
    await world.sidecar.start()
    async with asyncio.timeout(DEADLINE_S):
        while (await world.ask()).by != "small":
            pass


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/JSON", "application/json; charset=utf-8"]
)
async def test_failing_open_does_not_depend_on_how_the_client_types_its_body(
    launch: Launch, content_type: str | None
) -> None:
    world = await launch(running=False)
    await world.ask(PLAIN, headers={} if content_type is None else {"content-type": content_type})
    request = world.only_request()[1]
    assert request.body == WITH_DEFAULT
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1,2]",
        b'{"model":',
        b"\xff\xfe",
        b'{"model":"\xff"}',
        DEEP,
        DELICATE,
    ],
    ids=["empty", "array", "cut off", "binary", "bad utf-8", "deep", "duplicate keys and huge numbers"],
)
async def test_failing_open_passes_on_what_envoy_cannot_parse(launch: Launch, body: bytes) -> None:
    world = await launch(running=False)
    answer = await world.ask(body)
    assert (answer.status, answer.by) == (200, "large")
    assert world.only_request()[1].body == body


async def test_the_sidecar_sees_trusted_headers_and_the_trace_but_no_credentials(launch: Launch) -> None:
    world = await launch(trusted_headers=["X-Tier"])
    trace = "00-11111111111111111111111111111111-2222222222222222-01"
    credentials = {"authorization": "Bearer me", "cookie": "a=b", "x-api-key": "k"}
    await world.ask(headers=JSON | credentials | {"x-tier": "free", "traceparent": trace})
    head = world.sidecar.asked.get_nowait().head
    assert (head.method, head.path, head.traceparent) == ("POST", "/v1/chat/completions", trace)
    assert head.headers.keys() == {
        "content-length",
        "content-type",
        "traceparent",
        "x-request-id",
        "x-tier",
    }
    assert head.headers["x-tier"] == "free"


async def test_the_sidecar_can_set_nothing_but_what_a_decision_needs(world: World) -> None:
    """Whoever gets hold of the sidecar does not get hold of requests."""
    forged = {"authorization": b"Bearer x", "x-evil": b"1", ":path": b"/evil", "host": b"evil"}
    await world.sidecar.stop()
    await world.sidecar.start(setting({"x-router-cluster": b"model-local", **forged}))
    assert (await world.ask()).by == "local"
    request = world.only_request()[1]
    assert request.path == "/v1/chat/completions"
    assert not {"authorization", "x-evil", "x-router-cluster"} & request.headers.keys()
    assert request.headers["host"].startswith("localhost:")


def setting(headers: Mapping[str, bytes]) -> grpc.GenericRpcHandler:
    """Sets these headers in answer to the body."""

    def answer(request: ProcessingRequest) -> ProcessingResponse:
        response = ProcessingResponse()
        if request.HasField("request_headers"):
            response.request_headers.SetInParent()
            return response
        common = response.request_body.response
        common.clear_route_cache = True
        for name, value in headers.items():
            option = common.header_mutation.set_headers.add(append_action=OVERWRITE_IF_EXISTS_OR_ADD)
            option.header.key, option.header.raw_value = name, value
        return response

    return ext_proc(answer)
