"""Real traffic through Envoy, read back from a real Arize Phoenix: `make test-otlp`.

Not among the tests of `make test`: Phoenix is 600 MB, in an environment of its own. With
PHOENIX_SCREENSHOTS=DIR, pages of its user interface are kept there as a headless Chromium shows them.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from extproc.demo.child_processes import Process
from extproc.demo.loopback_ports import HOST, free
from extproc.demo.model_pool import Behaviour
from tests.e2e.conftest import Answer, World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

PYTHON = Path(os.environ.get("PHOENIX_PYTHON", Path(__file__).parents[2] / ".cache/phoenix/bin/python"))
CODE = "implement quicksort in python"
ENCODER = "embeddings all-MiniLM-L6-v2"
CALL = "chat demo-code-32b"
# How Phoenix shows each: a span that it cannot place is UNKNOWN.
DECIDED = {"route": "CHAIN", "rules": "CHAIN", ENCODER: "EMBEDDING", "score": "CHAIN", CALL: "LLM"}

Tree = dict[str, dict[str, Any]]


class Phoenix:
    """A running Phoenix with what it has been sent."""

    def __init__(self, url: str, otlp: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.otlp = otlp
        self._http = http

    async def tree(self, trace_id: str, count: int) -> Tree:
        """The spans of a trace by name, once Phoenix has all of them."""
        async with asyncio.timeout(30):
            while len(spans := await self._spans(trace_id)) < count:
                await asyncio.sleep(0.2)
        tree = {span["name"]: span for span in spans}
        assert len(tree) == len(spans) == count
        return tree

    async def _spans(self, trace_id: str) -> list[dict[str, Any]]:
        query = {"limit": "1000", "trace_id": trace_id}
        async with self._http.get(f"{self.url}/v1/projects/default/spans", params=query) as answer:
            if answer.status == 404:  # no span has come yet
                return []
            assert answer.status == 200, await answer.text()
            data = (await answer.json())["data"]
        return [span for span in data if span["context"]["trace_id"] == trace_id]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def phoenix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Phoenix]:
    folder = tmp_path_factory.mktemp("phoenix")
    http_port, grpc_port = free(2)
    process = await Process.start(
        "phoenix",
        [str(PYTHON), "-m", "phoenix.server.main", "serve"],
        log=folder / "phoenix.log",
        environment={
            "PHOENIX_HOST": HOST,
            "PHOENIX_PORT": str(http_port),
            "PHOENIX_GRPC_PORT": str(grpc_port),
            "PHOENIX_WORKING_DIR": str(folder),
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PYTHONPATH": "",
        },
    )
    url = f"http://{HOST}:{http_port}"
    try:
        await process.ready(f"{url}/healthz", timeout_s=120.0)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            yield Phoenix(url, f"http://{HOST}:{grpc_port}", http)
    finally:
        await process.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(phoenix: Phoenix, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    environment = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": phoenix.otlp,
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    async for made in world_in(tmp_path_factory.mktemp("world"), environment):
        yield made


async def seen(phoenix: Phoenix, world: World, answer: Answer, count: int) -> tuple[dict[str, Any], Tree]:
    """The record of an exchange, and what Phoenix shows of it: one tree below its route."""
    (record,) = await world.records([answer.headers["x-request-id"]])
    tree = await phoenix.tree(record["trace_id"], count)
    root = tree["route"]["context"]["span_id"]
    assert {span["parent_id"] for name, span in tree.items() if name != "route"} <= {root}
    return record, tree


@pytest.mark.parametrize("stream", [False, True])
async def test_an_exchange_is_shown_as_a_chain_with_its_embedding_and_its_llm_call(
    phoenix: Phoenix, world: World, stream: bool
) -> None:
    body = chat(CODE, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    record, tree = await seen(phoenix, world, await world.post(body), len(DECIDED))
    assert {name: span["span_kind"] for name, span in tree.items()} == DECIDED
    assert {span["status_code"] for span in tree.values()} <= {"UNSET", "OK"}
    call, encoder = tree[CALL]["attributes"], tree[ENCODER]["attributes"]
    assert call["llm.model_name"] == "demo-code-32b"
    assert call["gen_ai.provider.name"] == "demo"
    assert record["input_tokens"] > 0
    assert call["llm.token_count.prompt"] == record["input_tokens"]
    assert call["llm.token_count.completion"] == record["output_tokens"]
    assert call["gen_ai.original.model"] == "auto"
    assert encoder["embedding.model_name"] == "all-MiniLM-L6-v2"
    assert tree["route"]["attributes"]["router.route"] == "code"
    assert tree["score"]["attributes"]["router.margin"] == record["margin"]


async def test_a_failed_call_and_a_denied_request_are_shown_as_what_they_are(
    phoenix: Phoenix, world: World
) -> None:
    world.pool["small"].behaviour = Behaviour(status=503)
    _, failed = await seen(phoenix, world, await world.post(chat("Good morning!")), 5)
    assert [name for name, span in failed.items() if span["status_code"] == "ERROR"] == [
        name for name in failed if name in ("route", "chat demo-small-8b")
    ]
    world.pool["small"].behaviour = Behaviour()
    _, denied = await seen(phoenix, world, await world.post(chat("4111 1111 1111 1111 is my card")), 2)
    assert {name: span["span_kind"] for name, span in denied.items()} == {
        "route": "CHAIN",
        "rules": "GUARDRAIL",
    }
    assert "ERROR" not in {span["status_code"] for span in denied.values()}


async def test_an_exchange_of_a_clients_trace_is_below_the_clients_span(
    phoenix: Phoenix, world: World
) -> None:
    trace, parent = "c" * 32, "d" * 16
    answer = await world.post(chat(CODE), traceparent=f"00-{trace}-{parent}-01")
    _, tree = await seen(phoenix, world, answer, len(DECIDED))
    assert tree["route"]["parent_id"] == parent


@pytest.mark.skipif("PHOENIX_SCREENSHOTS" not in os.environ, reason="nobody asked for screenshots")
async def test_its_pages_can_be_looked_at(phoenix: Phoenix, world: World) -> None:
    folder = Path(os.environ["PHOENIX_SCREENSHOTS"])
    record, _ = await seen(phoenix, world, await world.post(chat(CODE, stream=True)), len(DECIDED))
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium is not None
    pages = {"spans": "/", "trace": f"/redirects/traces/{record['trace_id']}"}
    for name, path in pages.items():
        shot = await asyncio.create_subprocess_exec(
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1600,1000",
            "--virtual-time-budget=20000", f"--screenshot={folder / name}.png", f"{phoenix.url}{path}",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await shot.wait() == 0
        assert (folder / f"{name}.png").stat().st_size > 10_000
