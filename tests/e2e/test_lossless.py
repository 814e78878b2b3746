"""Exactly one record per exchange, whatever became of it, and the same one from Envoy's own log."""

import asyncio
import json
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from extproc.cli import main
from extproc.demo.model_pool import Behaviour
from extproc.lab.store.file_imports import ImportCounts, Pricing, segments_of
from extproc.telemetry.segments import segment_paths
from tests.collector import Collector
from tests.e2e.conftest import Answer, World, chat, world_in
from tests.e2e.test_traces import collecting

pytestmark = pytest.mark.asyncio(loop_scope="session")

CODE = "implement quicksort in python"
LOG = "envoy.jsonl"
DEADLINE_S = 30.0
# The clocks of this test and of Envoy are one, read to a microsecond.
TICK_S = 1e-6


def with_log(tree: Any) -> None:
    tree["envoy"] = {**tree.get("envoy", {}), "access_log": LOG}
    tree["models"]["gone"] = {"base_url": "http://127.0.0.1:1", "apis": ["openai.chat"]}


class Lossless:
    """A world whose exchanges are recorded twice over."""

    def __init__(self, world: World, folder: Path, collector: Collector) -> None:
        self.world = world
        self.folder = folder
        self.collector = collector

    @property
    def log(self) -> Path:
        return self.folder / LOG

    def rows(self) -> list[dict[str, Any]]:
        """Every record of every sidecar."""
        return [msgspec.json.decode(line) for line in self.world.record_text().splitlines()]

    def filed(self, scratch: Path) -> list[dict[str, Any]]:
        """What Envoy's log makes, as records."""
        pricing, reading = Pricing.of([self.world.stack.registry]), ImportCounts()
        rows = [
            msgspec.json.decode(line)
            for segment in segments_of(self.log, pricing, reading, scratch)
            for line in segment.read_bytes().splitlines()
        ]
        assert reading.bad == []
        return rows

    async def record(self, scratch: Path, **of: str) -> dict[str, Any]:
        """The record of one exchange by a field, once both sources have it: one in each, and equal."""
        ((name, value),) = of.items()
        async with asyncio.timeout(DEADLINE_S):
            while not (
                (streamed := [row for row in self.rows() if row[name] == value])
                and (filed := [row for row in self.filed(scratch) if row[name] == value])
            ):
                await asyncio.sleep(0.05)
        assert (len(streamed), len(filed)) == (1, 1)
        assert filed == streamed
        return streamed[0]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lossless]:
    folder, collector = tmp_path_factory.mktemp("lossless"), Collector()
    async for world in world_in(folder, collecting(collector), change=with_log):
        yield Lossless(world, folder, collector)
    collector.stop()


@pytest.fixture
def lossless(shared: Lossless) -> Lossless:
    shared.world.forget()
    for model in shared.world.pool.values():
        model.behaviour = Behaviour()
    return shared


def new_trace() -> tuple[str, dict[str, str]]:
    """A trace to find an exchange by whose answer never comes, and its header."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}


def usage_of(answer: Answer) -> tuple[int, int]:
    """What the provider said that the answer took."""
    if answer.headers["content-type"].startswith("application/json"):
        usage = answer.json()["usage"]
    else:
        events = [line[6:] for line in answer.body.splitlines() if line.startswith(b"data: {")]
        (usage,) = [event["usage"] for event in map(json.loads, events) if event.get("usage")]
    return usage["prompt_tokens"], usage["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_recorded_once_with_the_providers_usage_and_the_true_times(
    lossless: Lossless, tmp_path: Path, stream: bool
) -> None:
    world = lossless.world
    world.pool["code"].behaviour = Behaviour(delay_before_headers_s=0.05)
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    began = time.time()
    answer = await world.post(chat(CODE, **more))
    ended = time.time()
    record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
    assert (record["status"], record["error"], record["bypassed"]) == (200, "", False)
    assert (record["input_tokens"], record["output_tokens"]) == usage_of(answer)
    assert record["usage_source"] == "answer"
    assert record["cost_usd"] is not None
    assert record["response_bytes"] == len(answer.body)
    started = msgspec.convert(record["time"], datetime).timestamp()
    assert began - TICK_S <= started
    assert started + record["duration_ms"] / 1e3 <= ended + TICK_S
    assert 50 <= record["first_byte_ms"] <= record["duration_ms"]
    if stream:
        assert record["first_byte_ms"] <= record["time_to_first_token_ms"]
        assert record["time_to_first_token_ms"] <= record["duration_ms"]


async def test_refused_requests_are_recorded_once(lossless: Lossless, tmp_path: Path) -> None:
    bodies = {
        "bad_request": (400, b"not json"),
        "denied": (400, msgspec.json.encode(chat("pay with 4111 1111 1111 1111"))),
    }
    for error, (status, body) in bodies.items():
        answer = await lossless.world.post(body)
        assert answer.status == status
        record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
        assert (record["status"], record["error"], record["refused"]) == (status, error, True)
    assert lossless.world.received() == {}


async def test_a_body_that_is_too_large_is_recorded_once(lossless: Lossless, tmp_path: Path) -> None:
    answer = await lossless.world.post(b'{"x": "' + b"a" * 16 * 1024 * 1024 + b'"}')
    record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
    assert (answer.status, record["status"], record["error"]) == (413, 413, "413")


async def test_a_client_that_leaves_before_the_answer_is_recorded_once(
    lossless: Lossless, tmp_path: Path
) -> None:
    world = lossless.world
    world.pool["code"].behaviour = Behaviour(delay_before_headers_s=DEADLINE_S)
    trace_id, header = new_trace()
    asking = asyncio.create_task(world.post(chat(CODE), **header))
    async with asyncio.timeout(DEADLINE_S):
        while not world.pool["code"].journal:
            await asyncio.sleep(0.01)
    asking.cancel()
    record = await lossless.record(tmp_path, trace_id=trace_id)
    assert (record["status"], record["flags"], record["error"]) == (None, ["DC"], "")
    assert record["duration_ms"] > 0
    assert (record["first_byte_ms"], record["usage_source"]) == (None, "unknown")


async def test_a_client_that_leaves_in_mid_stream_is_recorded_once(
    lossless: Lossless, tmp_path: Path
) -> None:
    world = lossless.world
    world.pool["code"].behaviour = Behaviour(delay_before_usage_s=DEADLINE_S)
    trace_id, header = new_trace()
    body = chat(CODE, stream=True, stream_options={"include_usage": True})
    url = f"{world.stack.url}/v1/chat/completions"
    async with world.http.post(url, json=body, headers=header) as answer:
        await answer.content.readany()
        answer.close()
    record = await lossless.record(tmp_path, trace_id=trace_id)
    assert (record["status"], record["flags"], record["error"]) == (200, ["DC"], "")
    assert (record["output_tokens"], record["usage_source"]) == (None, "unknown")
    assert record["response_bytes"] > 0


async def test_an_upstream_that_breaks_off_is_recorded_once(lossless: Lossless, tmp_path: Path) -> None:
    lossless.world.pool["code"].behaviour = Behaviour(reset_after_writes=2)
    trace_id, header = new_trace()
    with pytest.raises(aiohttp.ClientPayloadError):
        await lossless.world.post(chat(CODE, stream=True), **header)
    record = await lossless.record(tmp_path, trace_id=trace_id)
    assert (record["status"], record["failed"]) == (200, True)
    assert record["error"] in ("UC", "UR", "UPE")


async def test_a_providers_error_is_recorded_once(lossless: Lossless, tmp_path: Path) -> None:
    lossless.world.pool["code"].behaviour = Behaviour(status=400)
    answer = await lossless.world.post(chat(CODE))
    record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
    assert (answer.status, record["status"], record["error"], record["failed"]) == (400, 400, "400", True)


async def test_an_upstream_that_cannot_be_reached_is_recorded_once(
    lossless: Lossless, tmp_path: Path
) -> None:
    answer = await lossless.world.post(chat(CODE, model="gone"))
    record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
    assert (answer.status, record["status"], record["error"], record["failed"]) == (503, 503, "UF", True)
    assert (record["model"], record["cluster"], record["first_byte_ms"]) == ("gone", "model-gone", None)


async def test_what_a_hung_sidecar_took_no_part_in_is_recorded_once(
    lossless: Lossless, tmp_path: Path
) -> None:
    world = lossless.world
    world.stack.sidecar.send_signal(signal.SIGSTOP)
    try:
        answer = await world.post(chat(CODE))
    finally:
        world.stack.sidecar.send_signal(signal.SIGCONT)
    record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
    assert (record["status"], record["bypassed"], record["api"]) == (200, True, "openai.chat")
    assert (record["input_tokens"], record["output_tokens"]) == usage_of(answer)
    await world.stack.sidecars_used()


async def test_what_is_no_llm_call_is_not_recorded(lossless: Lossless, tmp_path: Path) -> None:
    world = lossless.world
    others = []
    for path in ("/v1/models", "/v1/models/code", "/v1/nothing", "/"):
        async with world.http.get(f"{world.stack.url}{path}") as answer:
            others.append(answer.headers["x-request-id"])
    last = await world.post(chat(CODE))
    await lossless.record(tmp_path, request_id=last.headers["x-request-id"])
    told = world.record_text() + lossless.log.read_text()
    assert not [request_id for request_id in others if request_id in told]


async def test_no_text_is_anywhere_unless_it_is_asked_for(lossless: Lossless, tmp_path: Path) -> None:
    """On disk: records, both logs of Envoy, the sidecar's, the store. On the wire: OTLP and /metrics."""
    world, marks = lossless.world, {name: f"zq{name}{secrets.token_hex(4)}" for name in _SPOKEN}
    for stream in (False, True):
        answer = await world.post(_marked(marks, stream=stream))
        assert marks["user"] in answer.body.decode()  # the fake model repeats it: so much for the answer
        record = await lossless.record(tmp_path, request_id=answer.headers["x-request-id"])
        async with asyncio.timeout(DEADLINE_S):
            while not any(span.trace_id.hex() == record["trace_id"] for span in lossless.collector.spans):
                await asyncio.sleep(0.05)
    assert (await world.post(msgspec.json.encode(_marked(marks))[:-1])).status == 400
    assert main(["records", "import", str(lossless.log), "--store", str(tmp_path / "store")]) == 0
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        wire = [await page.text(), repr(lossless.collector.received), repr(lossless.collector.metrics)]
    files = [path for root in (lossless.folder, tmp_path) for path in root.rglob("*") if path.is_file()]
    assert {lossless.log, world.stack.envoy_log, world.stack.sidecar_log} <= set(files)
    assert set(segment_paths(world.stack.records)) <= set(files)
    assert any("store" in path.parts for path in files)
    for name, mark in marks.items():
        assert not [path for path in files if mark.encode() in path.read_bytes()], name
        assert not [text for text in wire if mark in text], name


_SPOKEN = ("system", "user", "assistant", "tool", "argument", "schema")


def _marked(marks: dict[str, str], **more: Any) -> dict[str, Any]:
    """A request that has something to hide wherever a text may stand."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps({"a": marks["argument"]})},
    }
    return {
        "model": "auto",
        "messages": [
            {"role": "system", "content": marks["system"]},
            {"role": "user", "content": f"{CODE} {marks['user']}"},
            {"role": "assistant", "content": marks["assistant"], "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": marks["tool"]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": marks["schema"], "parameters": {}}}],
        **more,
    }  # fmt: skip


async def test_what_the_stream_lost_is_imported_from_envoys_log_and_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async for world in world_in(tmp_path, change=with_log):
        store, log = str(tmp_path / "store"), tmp_path / LOG
        answers = [await world.post(chat(CODE)) for _ in range(3)]
        await world.records([answer.headers["x-request-id"] for answer in answers])
        await world.stack.stop_sidecar(signal.SIGKILL)
        answers += [await world.post(chat(CODE)) for _ in range(3)]
        await world.stack.start_sidecar()
        await world.stack.sidecars_used()
        answers.append(await world.post(chat(CODE)))
        ids = [answer.headers["x-request-id"] for answer in answers]
        async with asyncio.timeout(DEADLINE_S):
            while not (log.exists() and log.read_bytes().count(b"\n") == len(ids)):
                await asyncio.sleep(0.05)
        await world.records(ids[-1:])
        registry = ("--registry", str(world.stack.registry))
        assert main(["records", "import", str(world.stack.records), "--store", store]) == 0
        told = [
            main(["records", "import", str(log), "--store", store, *registry]) or capsys.readouterr().out
            for _ in range(2)
        ]
        streamed = Counter(
            msgspec.json.decode(line)["request_id"] for line in world.record_text().splitlines()
        )
        lost = set(ids) - streamed.keys()
        assert f"\n{len(lost)} new rows of {len(ids)} lines" in f"\n{told[0].splitlines()[-1]}"
        assert told[1].startswith("0 new rows")
        assert set(streamed.values()) == {1}
        check = ("records", "check", "--admin", world.stack.envoy_admin_url.removeprefix("http://"))
        statuses = [
            await asyncio.to_thread(main, [*check, *where])
            for where in ([str(world.stack.records)], ["--store", store])
        ]
        before, after = capsys.readouterr().out.splitlines()
        assert statuses == [1 if lost else 0, 0]
        assert before.startswith(f"{len(ids)} sent by Envoy since ")
        assert before.endswith(f"{len(streamed)} recorded, {len(lost)} missing")
        assert after.endswith(f"{len(ids)} recorded, 0 missing")


async def test_a_sidecar_that_is_stopped_writes_all_that_it_was_told(tmp_path: Path) -> None:
    count = 200
    async for world in world_in(tmp_path):
        answers = await asyncio.gather(*(world.post(chat("Good morning!")) for _ in range(count)))
        async with asyncio.timeout(DEADLINE_S):
            while await _told(world) < count:
                await asyncio.sleep(0.02)
        assert await world.stack.stop_sidecar(signal.SIGTERM) == 0
        lines = [msgspec.json.decode(line) for line in world.record_text().splitlines()]
        assert sorted(line["request_id"] for line in lines) == sorted(
            answer.headers["x-request-id"] for answer in answers
        )


async def _told(world: World) -> int:
    """How many exchanges the sidecar counts."""
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        lines = (await page.text()).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("router_exchanges_total{"))
