"""``without_sidecar: refuse``: what no sidecar has checked is a 503, and what one has decided passes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from extproc._pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.envoyconf.local_replies import attached_replies
from extproc.envoyconf.typed_config import plain
from extproc.errors import PolicyFailed, ProtocolError, UnknownVersion
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from extproc.vocabulary import Api, BodyPolicy, Mode, Question, Reason, Stage, Terms
from extproc.wire import decide_messages
from extproc.wire.ext_proc_service import EXT_PROC_SERVICE
from tests.envoyconf.conftest import ASK, DEADLINE_S, Answer, Launch, World, decided, ext_proc, launcher
from tests.envoyconf.serving import EVERY
from tests.envoyconf.test_observing import PATHS

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = "/v1/messages"
SPEAKS = {"large": list(Api), "small": list(Api)}
LONG = b'{"model":"auto","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 3_000_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with launcher(tmp_path_factory.mktemp("world")) as launch:
        yield await launch(without_sidecar="refuse", speaks=SPEAKS)


@pytest_asyncio.fixture(loop_scope="module")
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """A world of its own, for tests that break its sidecar."""
    async with launcher(tmp_path) as launch:
        yield launch


@pytest.fixture
def world(shared: World) -> World:
    """For tests that leave the sidecar as it was."""
    shared.forget()
    shared.sidecar.decision = decided("small")
    return shared


def is_refused(world: World, answer: Answer) -> bool:
    """With a 503 in OpenAI's shape, and nothing sent anywhere."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error.pop("message").startswith("The router could not check this request")
    assert error == {"type": "server_error", "param": None, "code": "router_unavailable"}
    assert not [request for provider in world.providers.values() for request in provider.received]
    return answer.status == 503


def raising(error: Exception) -> Callable[[Question], Any]:
    async def decide(_: Question, more_time: object) -> Any:
        raise error

    return decide


# --- A sidecar that is not there, or does not answer ---------------------------------------------


async def test_every_request_is_refused_while_the_sidecar_is_dead(launch: Launch) -> None:
    world = await launch(without_sidecar="refuse", running=False)
    assert is_refused(world, await world.ask())
    assert is_refused(world, await world.ask(LONG))
    forged = {"x-router-checked": "1", "x-router-none": "model-large", "x-router-cluster": "model-large"}
    assert is_refused(world, await world.ask(headers={"content-type": "application/json", **forged}))
    assert (await world.ask(path="/v1/files")).by == "rest"


async def test_the_refusal_has_the_shape_of_the_api(launch: Launch) -> None:
    world = await launch(without_sidecar="refuse", running=False, speaks=SPEAKS)
    for path in PATHS.values():
        answer = await world.ask(EVERY, path=path)
        if path != MESSAGES:
            assert is_refused(world, answer)
            continue
        body = answer.json()
        assert (answer.status, body["type"], body["error"]["type"]) == (503, "error", "overloaded_error")
        assert body["error"]["message"].startswith("The router could not check this request")


async def test_each_api_has_its_own_choice(launch: Launch) -> None:
    choices = {"openai.chat": "refuse", "anthropic.messages": "default"}
    world = await launch(without_sidecar=choices, running=False, speaks=SPEAKS)
    assert is_refused(world, await world.ask())
    for path in (MESSAGES, "/v1/responses"):
        assert (await world.ask(EVERY, path=path)).by == "large"


async def test_a_request_is_refused_when_the_sidecar_hangs(launch: Launch) -> None:
    world = await launch(without_sidecar="refuse", decision_ms=100)
    world.sidecar.open.clear()
    assert is_refused(world, await world.ask())
    world.sidecar.open.set()


async def rejecting(_: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many bytes in flight")


async def leaving(_: object, __: object) -> None:
    """Ends the stream cleanly without an answer, which Envoy does not count as a failure."""


@pytest.mark.parametrize("process", [rejecting, leaving])
async def test_a_stream_that_the_sidecar_rejects_or_leaves_is_refused(
    launch: Launch, process: Callable[..., Any]
) -> None:
    world = await launch(without_sidecar="refuse")
    await world.sidecar.stop()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(process)
    await world.sidecar.start(grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": method}))
    await world.sidecar_used()
    assert is_refused(world, await world.ask())


async def test_so_is_one_that_it_lets_through_without_a_word(launch: Launch) -> None:
    def let_through(request: ProcessingRequest) -> ProcessingResponse:
        phase: Any = request.WhichOneof("request")
        response = ProcessingResponse()
        getattr(response, phase).SetInParent()
        return response

    world = await launch(without_sidecar="refuse")
    await world.sidecar.stop()
    await world.sidecar.start(ext_proc(let_through))
    await world.sidecar_used()
    assert is_refused(world, await world.ask())


async def test_while_the_sidecar_drains_new_requests_are_refused_and_old_ones_decided(launch: Launch) -> None:
    world = await launch(without_sidecar="refuse")
    world.sidecar.open.clear()
    old = asyncio.create_task(world.ask())
    await world.sidecar.asked.get()
    server = world.sidecar._server
    assert server is not None
    draining = asyncio.create_task(server.stop(DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while (await world.ask(b"{}")).status != 503:
            world.forget()
    world.sidecar.open.set()
    assert (await old).by == "small"
    await draining


# --- A sidecar that gives up ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnknownVersion("v0"), Reason.UNKNOWN_VERSION),
        (PolicyFailed("a rule"), Reason.INTERNAL_ERROR),
        (RuntimeError("a defect"), Reason.INTERNAL_ERROR),
    ],
    ids=["unknown version", "deny rule", "defect"],
)
async def test_a_request_is_refused_when_the_sidecar_gives_up(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason
) -> None:
    monkeypatch.setattr(world.sidecar, "decide", raising(error))
    answer = await world.ask()
    assert is_refused(world, answer)
    assert answer.headers["x-router-reason"] == reason
    entry = await world.logged(answer.headers["x-request-id"])
    assert entry.envelope is not None
    assert (entry.status, entry.envelope.reason) == (503, reason)


async def test_a_request_is_refused_after_a_protocol_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> Any:
        raise ProtocolError("a message of another kind")

    monkeypatch.setattr(decide_messages, "decode", decode)
    assert is_refused(world, await world.ask())


async def test_a_decision_for_a_cluster_that_is_not_here_is_a_503(world: World) -> None:
    world.sidecar.decision = decided("small", cluster="model-of-yesterday")
    answer = await world.ask()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert not [request for provider in world.providers.values() for request in provider.received]


# --- What passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.DEADLINE, Reason.LOW_MARGIN, Reason.OVERLOADED])
async def test_a_default_that_was_decided_passes(world: World, reason: Reason) -> None:
    world.sidecar.decision = decided(
        "large", route="", stage=Stage.DEFAULT, reason=reason, policy=BodyPolicy(model="large-400b")
    )
    answer = await world.ask()
    assert (answer.status, answer.by, answer.headers["x-router-reason"]) == (200, "large", reason)


async def test_a_decided_body_may_be_as_large_as_ever(world: World) -> None:
    assert (await world.ask(LONG)).by == "small"
    assert world.only_request()[1].body == LONG


@pytest.mark.parametrize("body", [ASK, LONG], ids=["short", "long"])
async def test_a_request_out_of_a_rollout_passes_to_the_default_under_its_name(
    world: World, body: bytes
) -> None:
    world.sidecar.decision = decided("small", mode=Mode.OBSERVE)
    answer = await world.ask(body)
    assert (answer.status, answer.by) == (200, "large")
    _, request = world.only_request()
    assert b'"large-400b"' in request.body
    assert not [name for name in request.headers if name.startswith("x-router")]


async def test_nothing_is_refused_while_the_registry_only_observes(launch: Launch) -> None:
    world = await launch(without_sidecar="refuse", mode=Mode.OBSERVE)
    world.sidecar.decision = decided("small", mode=Mode.OBSERVE)
    assert (await world.ask()).by == "large"
    await world.sidecar.stop()
    assert (await world.ask()).by == "large"


async def test_an_envoy_a_version_behind_lets_pass_what_the_newest_registry_observes(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version that is not here, the mode is that of the newest."""
    world = await launch(without_sidecar="refuse")
    world.sidecar.use(Terms(mode=Mode.OBSERVE))
    monkeypatch.setattr(world.sidecar, "decide", raising(UnknownVersion("v0")))
    assert (await world.ask()).by == "large"


async def test_a_gateway_that_takes_the_parts_over_answers_in_the_same_words() -> None:
    model = Model(base_url="http://127.0.0.1:1", apis=[Api.OPENAI_CHAT])
    registry = Registry(models={"a": model}, default="a", without_sidecar="refuse")
    assert "router_unavailable" in str(plain(attached_replies(registry)))
