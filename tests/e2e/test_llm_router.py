"""An LLM that is asked about requests in doubt, from the registry through the real Envoy to the record."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from extproc.lab.measure.holdout_sampling import SampledSuggestion, read_records, sample
from extproc.lab.store.record_store import open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.lab.traffic.doubt_report import DoubtReport, read_doubts
from extproc.telemetry.segments import segment_paths
from tests.e2e.conftest import World, chat, world_in
from tests.routing.test_llm_question import ATTEMPTS

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Fake models answer a schema with its first choice: for `llm`, the registry's first route.
LLM = "small"
DOUBTFUL = "purple umbrella carpet"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("llm")

    def doubting(registry: Any) -> None:
        registry["thresholds"] = {"margin": 0.9999, "in_scope": 0.9999}
        registry["llm"] = {"model": LLM, "deadline_ms": 2000, "max_share": 1.0, "per_second": 1000}
        registry["envoy"] = {**registry.get("envoy", {}), "egress": f"unix:{folder}/e"}

    async for world in world_in(
        folder, {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}, doubting
    ):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


def says(route: str, why: str = "it fits") -> Behaviour:
    return Behaviour(text=msgspec.json.encode({"route": route, "why": why}).decode())


async def test_the_llms_route_is_followed_and_its_call_is_on_the_record(world: World) -> None:
    world.pool[LLM].behaviour = says("code", "it names a language")
    answer = await world.post(chat(f"{DOUBTFUL} one"))
    assert answer.headers["x-router-route"] == "code"
    assert answer.headers["x-router-model"] == "code"
    (asked,) = world.pool[LLM].journal
    assert (asked.key, asked.model) == (world.pool[LLM].key, "demo-small-8b")
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["stage"], record["reason"], record["route"]) == ("llm", "matched", "code")
    assert (record["llm_result"], record["llm_model"], record["llm_cached"]) == ("matched", LLM, False)
    assert record["llm_doubt"] in ("low_margin", "out_of_scope")
    assert record["llm_why"] == "it names a language"
    assert record["llm_us"] > 0
    assert record["margin"] is not None
    assert record["llm_cost_usd"] > 0
    assert record["cost_usd"] > record["llm_cost_usd"]


async def test_an_equal_text_is_not_asked_about_again(world: World) -> None:
    world.pool[LLM].behaviour = says("code")
    answers = [await world.post(chat(f"{DOUBTFUL} again")) for _ in range(2)]
    assert [answer.headers["x-router-route"] for answer in answers] == ["code", "code"]
    assert len(world.pool[LLM].journal) == 1
    _, again = await world.records([answer.headers["x-request-id"] for answer in answers])
    assert (again["stage"], again["llm_cached"], again["llm_cost_usd"]) == ("llm", True, None)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_every_api_is_routed_by_the_llm(world: World, path: str, stream: bool) -> None:
    world.pool[LLM].behaviour = says("code")
    text = f"{DOUBTFUL} {path} {stream}"
    body = {
        "/v1/chat/completions": chat(text),
        "/v1/messages": chat(text, max_tokens=50),
        "/v1/responses": {"model": "auto", "input": text},
        "/v1/completions": {"model": "auto", "prompt": text},
    }[path]
    headers = {"anthropic_version": "2023-06-01"} if path == "/v1/messages" else {}
    answer = await world.post({**body, "stream": stream}, path, **headers)
    assert answer.status == 200
    assert answer.headers["x-router-route"] == "code"
    assert len(world.pool["code"].journal) == 1


@pytest.mark.parametrize("kind", ATTEMPTS)
async def test_a_text_that_poses_as_instructions_reaches_the_llm_as_data(world: World, kind: str) -> None:
    world.pool[LLM].behaviour = says("none")
    answer = await world.post(chat(ATTEMPTS[kind]))
    (asked,) = world.pool[LLM].journal
    messages = msgspec.json.decode(asked.body)["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert msgspec.json.decode(messages[1]["content"]) == {"text": ATTEMPTS[kind]}
    assert answer.headers["x-router-model"] == "mid"


@pytest.mark.parametrize(
    ("behaviour", "result"),
    [
        (says("none"), "none"),
        (says("admin"), "invalid"),
        (says("../../cluster"), "invalid"),
        (Behaviour(text="I think it is code."), "invalid"),
        (Behaviour(status=503), "failed"),
        (Behaviour(reset_after_writes=0), "failed"),
        (Behaviour(delay_before_headers_s=20), "timeout"),
    ],
)
async def test_an_llm_that_is_dead_slow_or_wrong_leaves_the_default(
    world: World, behaviour: Behaviour, result: str
) -> None:
    world.pool[LLM].behaviour = says("none")
    await world.post(chat(f"{DOUBTFUL} {result} {behaviour.text} first"))  # closes the breaker
    world.pool[LLM].behaviour = behaviour
    answer = await world.post(chat(f"{DOUBTFUL} {result} {behaviour.text}"))
    assert answer.status == 200
    assert answer.headers["x-router-model"] == "mid"
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["stage"], record["llm_result"]) == ("default", result)
    assert record["bypassed"] is False


async def test_a_request_that_is_decided_asks_no_llm(world: World) -> None:
    answers = await asyncio.gather(
        world.post(chat("hi", model="large")),
        world.post(chat("look", tools=[{"type": "function", "function": {"name": "browser_open"}}])),
        world.post(chat("my card is 4111 1111 1111 1111")),
    )
    assert [answer.status for answer in answers] == [200, 200, 400]
    assert not world.pool[LLM].journal


async def test_its_records_are_read_by_the_report_and_become_candidates_for_training(world: World) -> None:
    world.pool[LLM].behaviour = says("code", "it names a language")
    answer = await world.post(chat(f"{DOUBTFUL} recorded"))
    await world.records([answer.headers["x-request-id"]])

    def read() -> DoubtReport:
        with open_store(None) as store:
            prepare(store)
            for path in segment_paths(world.stack.records):
                load(store, path)
            return read_doubts(store)

    report = await asyncio.to_thread(read)
    assert "matched" in {calls.result for calls in report.calls}
    assert all(standing.standing != "embedding has none" for standing in report.standings)
    drawn = sample(read_records([world.stack.records], suggested=True), 1000, seed=0, suggested=True)
    row = {row.text: row for row in drawn}[f"{DOUBTFUL} recorded"]
    assert isinstance(row, SampledSuggestion)
    assert (row.suggested, row.why) == ("code", "it names a language")


async def test_each_result_is_counted(world: World) -> None:
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        lines = (await page.text()).splitlines()
    series = [line for line in lines if line.startswith("router_llm_requests_total{")]
    counted = dict.fromkeys(("matched", "none", "invalid", "timeout", "failed", "breaker"), 0.0)
    for line in series:
        for result in counted:
            if f'result="{result}"' in line:
                counted[result] += float(line.rpartition(" ")[2])
    assert all(counted[result] > 0 for result in ("matched", "none", "invalid", "timeout", "failed"))
    assert counted["breaker"] == 0
