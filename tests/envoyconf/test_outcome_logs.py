"""Both access logs tell of every exchange once, and the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from extproc.errors import Denied
from extproc.exchanges import Exchange
from extproc.registry.schema import RouteSettings
from extproc.telemetry.row_building import row_of
from extproc.vocabulary import Api, BodyPolicy, Candidate, StageTimes
from extproc.wire import access_log_file
from tests.envoyconf.conftest import ASK, CHAT, DEADLINE_S, JSON, Handler, World, decided, launcher

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILE = "logs/llm.jsonl"
USAGE = {"prompt_tokens": 1200, "completion_tokens": 34, "prompt_tokens_details": {"cached_tokens": 1000}}
ANSWER = {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-5", "usage": USAGE}
TOKEN = b'data: {"id":"c1","model":"gpt-5","choices":[{"delta":{"content":"hel"}}]}\n\n'
END = b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\ndata: [DONE]\n\n"


class Logged:
    """A world whose Envoy also writes a file."""

    def __init__(self, world: World, file: Path) -> None:
        self.world = world
        self.file = file

    async def both(self, request_id: str = "") -> tuple[Exchange, Exchange]:
        """What the stream and the file tell of one exchange: the next one, or the one of this id."""
        streamed = await self.world.logged(request_id)
        async with asyncio.timeout(DEADLINE_S):
            while not (lines := [line for line in self._lines() if streamed.request_id.encode() in line]):
                await asyncio.sleep(0.01)
        (line,) = lines
        return streamed, access_log_file.exchange(line)

    async def alike(self, request_id: str = "") -> Exchange:
        """What both tell, which is the same; only the stream tells of attempts."""
        streamed, filed = await self.both(request_id)
        assert msgspec.structs.asdict(filed) == msgspec.structs.asdict(streamed) | {"tried": ()}
        return streamed

    def _lines(self) -> list[bytes]:
        return self.file.read_bytes().splitlines()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Logged]:
    directory = tmp_path_factory.mktemp("world")
    (directory / "logs").mkdir()
    async with launcher(directory) as launch:
        world = await launch(
            access_log=FILE,
            routes={"chained": RouteSettings(candidates="small", fallback=["local"])},
            speaks={"large": list(Api)},
            paths={"large": "/api/v9"},
            decision_ms=1000,
        )
        yield Logged(world, directory / FILE)


@pytest_asyncio.fixture(loop_scope="module")
async def logged(shared: Logged) -> AsyncIterator[Logged]:
    world = shared.world
    world.forget()
    world.sidecar.decision, world.sidecar.refusal = decided("small"), None
    yield shared
    world.sidecar.open.set()
    for provider in world.providers.values():
        provider.handler = None
    while not world.sidecar.exchanges.empty():
        world.sidecar.exchanges.get_nowait()


def answer(content: bytes, kind: str = "application/json") -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=content, headers={"content-type": kind})

    return handler


class Streaming:
    """A provider that streams one token, and what is left when ``go_on`` is set."""

    def __init__(self, rest: bytes = END) -> None:
        self.began, self.go_on, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._rest = rest

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(TOKEN)
        self.began.set()
        await self.go_on.wait()
        if self._rest:
            await response.write(self._rest)
        else:
            assert request.transport is not None
            request.transport.abort()
        return response


async def test_a_plain_answer(logged: Logged) -> None:
    logged.world.sidecar.decision = decided(
        "small",
        probability=1 / 3,
        margin=0.1 + 0.2,
        similarity=-1e-7,
        candidates=(Candidate("greeting", 1 / 3, 0.5), Candidate("code", 0.1, 0.1)),
        tokens=7,
        times=StageTimes(rules=12, queue=0, embed=2400, score=8, total=2500),
    )
    logged.world.providers["small"].handler = answer(json.dumps(ANSWER).encode())
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    got = await logged.world.ask(path=f"{CHAT}?key=secret", headers=JSON | {"traceparent": traceparent})
    told = await logged.alike(got.headers["x-request-id"])
    assert (told.status, told.cluster, told.path, told.attempts) == (200, "model-small", CHAT, 1)
    assert told.traceparent == traceparent
    assert told.usage is not None
    assert (told.usage.input, told.usage.output, told.usage.cached) == (1200, 34, 1000)
    assert told.envelope is not None
    assert (told.envelope.margin, told.envelope.probability) == (0.3, 0.3333)
    assert None not in (told.duration, told.first_byte, told.first_body_byte)
    assert (told.request_bytes, told.response_bytes) == (len(ASK), len(got.body))


async def test_a_stream(logged: Logged) -> None:
    logged.world.providers["small"].handler = provider = Streaming()
    provider.go_on.set()
    got = await logged.world.ask()
    told = await logged.alike(got.headers["x-request-id"])
    assert told.usage is not None
    assert (told.usage.output, told.usage.first_token_at is not None) == (34, True)


async def test_a_refused_request(logged: Logged) -> None:
    logged.world.sidecar.refusal = Denied("Not that.", rule="no-keys")
    got = await logged.world.ask()
    told = await logged.alike(got.headers["x-request-id"])
    assert (told.status, told.cluster, told.attempts) == (400, "", 0)
    assert told.envelope is not None
    assert told.envelope.error == "denied"


async def test_a_body_that_is_no_request(logged: Logged) -> None:
    got = await logged.world.ask(b"not json")
    assert (await logged.alike(got.headers["x-request-id"])).status == 400


async def test_a_body_that_is_too_large(logged: Logged) -> None:
    got = await logged.world.ask(b"x" * (16 * 1024 * 1024 + 1))
    told = await logged.alike(got.headers["x-request-id"])
    assert (told.status, told.envelope, told.api) == (413, None, Api.OPENAI_CHAT)


async def test_an_exchange_that_the_sidecar_took_no_part_in(logged: Logged) -> None:
    logged.world.sidecar.open.clear()
    body = b'{"model":"auto","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}'
    got = await logged.world.ask(body, path="/v1/messages")
    told = await logged.alike(got.headers["x-request-id"])
    assert (told.envelope, told.api, told.path) == (None, Api.ANTHROPIC_MESSAGES, "/v1/messages")
    assert (told.status, told.cluster) == (200, "model-large")


async def test_a_client_that_leaves_before_the_decision_bypassed_nothing(logged: Logged) -> None:
    logged.world.sidecar.open.clear()
    while not logged.world.sidecar.asked.empty():
        logged.world.sidecar.asked.get_nowait()
    asking = asyncio.create_task(logged.world.ask())
    await logged.world.sidecar.asked.get()
    asking.cancel()
    told = await logged.alike()
    assert (told.envelope, told.status, told.flags, told.attempts) == (None, 0, ("DC",), 0)
    assert not row_of(told).bypassed


async def test_a_client_that_leaves_before_the_answer(logged: Logged) -> None:
    world, asked, over = logged.world, asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        asked.set()
        await over.wait()
        return web.Response()

    world.providers["small"].handler = handler
    asking = asyncio.create_task(world.ask())
    await asked.wait()
    asking.cancel()
    told = await logged.alike()
    over.set()
    assert (told.status, told.flags, told.first_byte) == (0, ("DC",), None)
    assert told.duration is not None


async def test_a_client_that_leaves_in_mid_stream(logged: Logged) -> None:
    world, provider = logged.world, Streaming()
    world.providers["small"].handler = provider
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    async with world.http.post(url, data=ASK, headers=JSON) as got:
        assert await got.content.readexactly(len(TOKEN)) == TOKEN
        got.close()
    told = await logged.alike()
    provider.go_on.set()
    assert (told.status, told.flags, told.response_bytes) == (200, ("DC",), len(TOKEN))
    assert told.usage is not None
    assert told.usage.output is None


async def test_an_upstream_that_breaks_off(logged: Logged) -> None:
    world, provider = logged.world, Streaming(rest=b"")
    world.providers["small"].handler = provider
    provider.go_on.set()
    with pytest.raises(aiohttp.ClientPayloadError):
        await world.ask()
    told = await logged.alike()
    assert (told.status, told.cluster) == (200, "model-small")
    assert set(told.flags) & {"UC", "UPE", "UR"}


async def test_an_upstream_that_cannot_be_reached(logged: Logged) -> None:
    provider = logged.world.providers["small"]
    await provider.stop()
    try:
        got = await logged.world.ask()
    finally:
        await provider.start()
    told = await logged.alike(got.headers["x-request-id"])
    assert (told.status, told.flags, told.cluster, told.usage) == (503, ("UF",), "model-small", None)


async def test_a_model_that_fell_back(logged: Logged) -> None:
    policy = BodyPolicy(model="small")
    logged.world.sidecar.decision = decided("small", route="chained", policy=policy, fallback=True)

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500)

    logged.world.providers["small"].handler = fail
    got = await logged.world.ask(ASK.replace(b"auto", b"small"))
    told = await logged.alike(got.headers["x-request-id"])
    assert (told.status, told.served_by, told.attempts) == (200, "local", 2)


@pytest.mark.parametrize("member", ["model", "id", "finish_reason"])
async def test_what_is_no_text_in_an_answer_costs_no_record(logged: Logged, member: str) -> None:
    """Else one provider could cost a batch of records of other requests."""
    broken = json.dumps({**ANSWER, member: "MARK"}).encode().replace(b"MARK", b"\xff\xfe")
    logged.world.providers["small"].handler = answer(broken)
    got = await logged.world.ask()
    told = await logged.alike(got.headers["x-request-id"])
    assert told.usage is not None
    assert (told.usage.input, told.status) == (1200, 200)
    assert logged.world.sidecar.failures == []


@pytest.mark.parametrize("header", ["traceparent", "content-type", "user-agent", "referer"])
async def test_what_is_no_text_in_a_request_costs_no_record(logged: Logged, header: str) -> None:
    """Else one client could cost a batch of others' records."""
    async with logged.world.connection() as (_, writer):
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{header}: a/\xff\xfe\r\ncontent-length: {len(ASK)}"
        writer.write(head.encode("latin-1") + b"\r\n\r\n" + ASK)
        await writer.drain()
        told, filed = await logged.both()
    assert (told.request_id, told.status, told.path) == (filed.request_id, 200, CHAT)
    assert logged.world.sidecar.failures == []


async def test_what_is_no_llm_call_is_in_neither(logged: Logged) -> None:
    world = logged.world
    passed = await world.ask(None, method="GET", path="/v1/files")
    listed = await world.ask(None, method="GET", path="/v1/models")
    last = await world.ask()
    await logged.alike(last.headers["x-request-id"])
    text = logged.file.read_text()
    assert (passed.status, listed.status) == (200, 200)
    for other in (passed, listed):
        assert other.headers["x-request-id"] not in text


async def test_the_file_holds_no_text_and_no_key(logged: Logged) -> None:
    marker = "xylophone"
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": marker}], "user": marker})
    logged.world.providers["small"].handler = answer(
        json.dumps({**ANSWER, "choices": [{"message": {"content": marker}}]}).encode()
    )
    headers = JSON | {"authorization": f"Bearer {marker}", "cookie": marker, "user-agent": marker}
    got = await logged.world.ask(body.encode(), path=f"{CHAT}?key={marker}", headers=headers)
    await logged.alike(got.headers["x-request-id"])
    assert marker not in logged.file.read_text()
    assert marker not in logged.world.log.read_text()


async def test_the_file_is_rotated_by_renaming_it_and_saying_so(logged: Logged) -> None:
    world, rotated = logged.world, logged.file.with_suffix(".1")
    first = await world.ask()
    await logged.alike(first.headers["x-request-id"])
    logged.file.rename(rotated)
    async with world.http.post(f"http://127.0.0.1:{world.admin_port}/reopen_logs") as answer:
        assert answer.status == 200
    async with asyncio.timeout(DEADLINE_S):
        while not logged.file.exists():
            await world.logged((await world.ask()).headers["x-request-id"])
    last = await world.ask()
    await logged.alike(last.headers["x-request-id"])
    assert first.headers["x-request-id"] in rotated.read_text()


async def test_envoy_counts_what_it_told_under_the_names_that_are_alerted_on(logged: Logged) -> None:
    page = await logged.world.admin("/stats/prometheus?filter=access_log")
    for name in ("logs_written", "logs_dropped"):
        assert f"# TYPE envoy_access_logs_grpc_access_log_{name} counter\n" in page


async def test_what_ends_while_no_sidecar_is_there_is_told_when_one_is_back(logged: Logged) -> None:
    """As long as Envoy has room for it: it would not do to send it to nobody in between."""
    world, count = logged.world, 200  # of which Envoy by default would keep thirty
    await world.sidecar.stop()
    answers = [await world.ask() for _ in range(count)]
    async with asyncio.timeout(DEADLINE_S):
        while "health_check.failure: 0\n" in await world.admin("/stats?filter=ext-proc.health_check.failure"):
            await asyncio.sleep(0.05)
    await world.sidecar.start()
    told = [await world.logged() for _ in range(count)]
    assert {each.request_id for each in told} == {answer.headers["x-request-id"] for answer in answers}
    assert {each.envelope for each in told} == {None}
    assert "logs_dropped: 0\n" in await world.admin("/stats?filter=logs_dropped")
    await world.sidecar_used()
