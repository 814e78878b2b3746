"""A cascade whose gate judges, through Envoy, for every API and its client; what is told of it."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml

from extproc.cli import main
from extproc.demo.model_pool import Behaviour
from extproc.registry.registry_loading import load
from extproc.vocabulary import Api
from tests.e2e.clients import ask, heard, of_all_apis
from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

EASY = "implement quicksort in python"
HARD = "implement quicksort in python, the hard way"
HELD = "a-model-whose-streams-are-held"
# The fake models repeat the prompt after their name, so this is the first tier's answer to hard ones.
DOUBT = r"\[demo-code-32b\].*the hard way"


def cascading(registry: Any) -> None:
    of_all_apis(registry)
    registry["gates"] = {
        "sure": {"finish": True, "self_report": {"pattern": DOUBT}, "prefix_chars": 80},
        "something": {"length": {"min_chars": 1}},
    }
    tiers = [{"model": "code", "gate": "sure"}, {"model": "mid", "gate": "sure"}, {"model": "large"}]
    held = [{"model": "code", "gate": "something", "stream": "hold"}, {"model": "mid"}]
    registry["cascades"] = {"frugal": {"tiers": tiers, "deadline_s": 60}, "held": {"tiers": held}}
    registry["rules"].append({"name": "held", "when": {"model": HELD}, "route": "held"})
    registry["routes"]["held"] = {"cascade": "held", "candidates": ["code"]}
    registry["routes"]["code"] = {
        "cascade": "frugal",
        "candidates": ["code"],
        "examples": registry["routes"]["code"]["examples"],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("cascades"), change=cascading):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


def told(world: World, kind: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in world.rows(kind) if row["request_id"] == record["request_id"]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_an_answer_that_will_do_comes_from_the_first_tier(world: World, api: Api, stream: bool) -> None:
    raw = await ask(world, api, EASY, stream=stream)
    assert (await heard(raw, stream)).startswith("[demo-code-32b] You asked:")
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["cascade"], record["tier"], record["attempts"]) == ("frugal", 0, 1)
    (attempt,) = told(world, "attempt", record)
    assert (attempt["verdict"], attempt["wasted_tokens"], attempt["wasted_cost_usd"]) == (
        "accept",
        None,
        None,
    )
    (verdict,) = told(world, "evaluation", record)
    assert (verdict["name"], verdict["label"], verdict["source"]) == ("sure", "accept", "gate")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_one_that_will_not_do_is_left_to_the_next_and_its_cost_is_told(
    world: World, api: Api, stream: bool
) -> None:
    raw = await ask(world, api, HARD, stream=stream)
    text = await heard(raw, stream)
    assert text.startswith("[demo-mid-70b] You asked:")
    assert raw.headers["x-router-served-by"] == "mid"
    for name in ("code", "mid"):
        (request,) = world.pool[name].journal
        assert request.key == world.pool[name].key
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["cascade"], record["tier"], record["attempts"]) == ("frugal", 1, 2)
    first, second = told(world, "attempt", record)
    assert (first["verdict"], first["verdict_reason"]) == ("escalate", "self_report/self_report")
    assert (first["status"], first["error"], second["verdict"]) == (200, "", "accept")
    refused, kept = told(world, "evaluation", record)
    assert (refused["label"], refused["attempt"], refused["model"]) == ("escalate", 1, "code")
    assert (kept["label"], kept["attempt"], kept["model"]) == ("accept", 2, "mid")
    if not stream:
        assert first["wasted_tokens"] == first["input_tokens"] + first["output_tokens"] > 0
        assert first["wasted_cost_usd"] == first["cost_usd"] > 0
        assert record["cost_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
        assert record["output_tokens"] == first["output_tokens"] + second["output_tokens"]


async def test_a_sidecar_that_stops_does_not_keep_the_answer_that_it_judges(world: World) -> None:
    world.pool["code"].behaviour = Behaviour(delay_before_headers_s=0.5)
    request = asyncio.create_task(world.post(chat(HARD)))
    async with asyncio.timeout(60):
        while not world.pool["code"].journal:
            await asyncio.sleep(0.01)
        world.stack.sidecar.send_signal(signal.SIGSTOP)
        try:
            answer = await request
            assert (answer.status, answer.headers["x-router-served-by"]) == (200, "code")
            stats = f"{world.stack.envoy_admin_url}/stats?filter=ext-proc.http2.keepalive_timeout"
            while (await (await world.http.get(stats)).text()).endswith(" 0\n"):
                await asyncio.sleep(0.05)
        finally:
            world.stack.sidecar.send_signal(signal.SIGCONT)
    await world.stack.sidecars_used()


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_tools_are_judged_and_come_whole(world: World, stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "sort_list", "parameters": {"type": "object"}}}
    answer = await world.post(chat(f"{EASY}: sort_list", tools=[tool], stream=stream))
    assert answer.headers["x-router-served-by"] == "code"
    assert b'"name":"sort_list"' in answer.body
    assert not stream or answer.body.endswith(b"data: [DONE]\n\n")
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert [row["verdict"] for row in told(world, "attempt", record)] == ["accept"]


async def test_the_report_tells_what_cascades_did(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [await world.post(chat(text)) for text in (EASY, HARD)]
    await world.records([answer.headers["x-request-id"] for answer in answers])
    assert await asyncio.to_thread(main, ["report", str(world.stack.records), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (frugal,) = (part for part in report["cascades"] if part["cascade"] == "frugal")
    assert 0 < frugal["escalated"]["value"] < 1
    assert 0 < frugal["wasted_cost_usd"] < frugal["cost_usd"]
    assert frugal["saved_usd"] is not None


async def test_tiers_that_fail_are_told_as_attempts_without_a_verdict(world: World) -> None:
    world.pool["code"].behaviour = Behaviour(status=503)
    world.pool["mid"].behaviour = Behaviour(status=429)
    answer = await world.post(chat(EASY))
    assert answer.headers["x-router-served-by"] == "large"
    (record,) = await world.records([answer.headers["x-request-id"]])
    attempts = told(world, "attempt", record)
    assert [(row["tier"], row["status"], row["verdict"]) for row in attempts] == [
        (0, 503, ""),
        (1, 429, ""),
        (2, 200, ""),
    ]
    assert told(world, "evaluation", record) == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("written", [0, 2])
@pytest.mark.parametrize("api", Api)
async def test_an_answer_that_ends_in_the_middle_is_left_to_the_next(
    world: World, api: Api, written: int, stream: bool
) -> None:
    sizes = () if stream else (40,)
    world.pool["code"].behaviour = Behaviour(end_after_writes=written, write_sizes=sizes)
    raw = await ask(world, api, EASY, model=HELD, stream=stream)
    assert (await heard(raw, stream)).startswith("[demo-mid-70b] You asked:")
    (record,) = await world.records([raw.headers["x-request-id"]])
    first, _ = told(world, "attempt", record)
    assert (first["verdict"], first["verdict_reason"]) == ("escalate", "finish/failed")


async def test_what_cascades_did_is_counted(world: World) -> None:
    answers = await asyncio.gather(*(world.post(chat(text)) for text in (EASY, HARD)))
    await world.records([answer.headers["x-request-id"] for answer in answers])
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        text = await page.text()
    for sample in (
        'router_cascade_exchanges_total{router_calls="1",router_cascade="frugal",router_tier="0"}',
        'router_cascade_exchanges_total{router_calls="2",router_cascade="frugal",router_tier="1"}',
        'router_cascade_wasted_usd_total{router_cascade="frugal",router_tier="0"}',
        'router_cascade_escalation_share{router_cascade="frugal",router_tier="0"}',
    ):
        assert sample in text


async def test_an_envoy_that_holds_an_old_version_keeps_its_gates_and_prices(world: World) -> None:
    """More versions than a store that counts them would keep: it is use that keeps a version."""
    first = (await world.post(chat(EASY))).headers["x-router-version"]
    await world.stack.stop_writer()
    registry = world.stack.registry
    text = registry.read_text()
    tree = yaml.safe_load(text)
    tree["gates"]["sure"] = {"finish": True}
    try:
        for number in range(1, 21):
            for model in tree["models"].values():
                model["price"] = {"input": 1000.0 * number, "output": 1000.0 * number}
            await reloaded(world, yaml.safe_dump(tree, sort_keys=False))
        answer = await world.post(chat(HARD))
        assert answer.headers["x-router-version"] == first
        assert answer.headers["x-router-served-by"] == "mid"
        (record,) = await world.records([answer.headers["x-request-id"]])
        refused, kept = told(world, "attempt", record)
        assert (refused["verdict"], kept["verdict"]) == ("escalate", "accept")
        price = yaml.safe_load(text)["models"]["code"]["price"]
        tokens = refused["input_tokens"] * price["input"] + refused["output_tokens"] * price["output"]
        assert refused["cost_usd"] == pytest.approx(tokens / 1e6)
        assert record["cost_usd"] == pytest.approx(refused["cost_usd"] + kept["cost_usd"])
    finally:
        await reloaded(world, text)
        await world.stack.start_writer()


async def reloaded(world: World, text: str) -> None:
    """Replace the registry, and wait until the sidecar decides by it."""
    aside = world.stack.registry.with_suffix(".aside")
    aside.write_text(text)
    aside.replace(world.stack.registry)
    version = load(world.stack.registry).version
    world.stack.sidecar.send_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while version != await decides_by(world):
            await asyncio.sleep(0.01)


async def decides_by(world: World) -> str:
    async with world.http.get(f"{world.stack.sidecar_admin_url}/readyz") as page:
        return str((await page.json())["registry_version"])


async def test_a_sidecar_killed_under_a_cascading_load_fails_no_client(world: World) -> None:
    for model in world.pool.values():
        model.behaviour = Behaviour(delay_between_writes_s=0.002)  # so that streams are under way
    some = asyncio.Event()
    answers = []

    async def client(number: int) -> None:
        for turn in range(10):
            text, stream = ((EASY, HARD)[(number + turn) % 2], bool(turn % 3))
            answer = await world.post(chat(text, stream=stream))
            assert answer.status == 200
            assert not stream or answer.body.endswith(b"data: [DONE]\n\n")
            answers.append(answer)
            if len(answers) == 40:
                some.set()

    async with asyncio.timeout(120), asyncio.TaskGroup() as clients:
        for number in range(16):
            clients.create_task(client(number))
        await some.wait()
        await world.stack.stop_sidecar(signal.SIGKILL)
    assert len(answers) == 160
    for name, requests in world.received().items():
        assert {request.key for request in requests} == {world.pool[name].key}
        assert {request.model for request in requests} == {world.pool[name].name}
    await world.stack.start_sidecar()
    await world.stack.sidecars_used()
