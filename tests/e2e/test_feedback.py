"""Feedback by a client that knows only Envoy: from its answer's ids to the report."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.lab.store.record_store import Store, open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.lab.traffic.traffic_reading import read_report
from extproc.telemetry.segments import segment_paths
from tests.e2e.conftest import FEEDBACK_TOKEN, Answer, World, chat

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/v1/router/feedback"
CODE = chat("implement quicksort in python")


async def give(world: World, opinion: dict[str, Any], token: str = FEEDBACK_TOKEN) -> Answer:
    return await world.post(opinion, PATH, authorization=f"Bearer {token}")


async def opinions(world: World, count: int) -> list[dict[str, Any]]:
    """All opinions on record, once there are so many."""
    async with asyncio.timeout(30):
        while len(found := world.rows("evaluation")) < count:
            await asyncio.sleep(0.02)
    return found


@contextmanager
def stored(world: World) -> Iterator[Store]:
    with open_store(None) as store:
        prepare(store)
        for segment in segment_paths(world.stack.records):
            load(store, segment)
        yield store


async def test_feedback_by_request_and_by_trace_is_in_the_report_once(own_world: World) -> None:
    world = own_world
    trace = "0af7651916cd43dd8448eb211c80319c"
    first = await world.post(CODE)
    second = await world.post(CODE, traceparent=f"00-{trace}-b7ad6b7169203331-01")
    third = await world.post(CODE)
    ids = [answer.headers["x-request-id"] for answer in (first, second, third)]
    good = {"request_id": ids[0], "score": 1, "source": "ann"}
    accepted = [
        await give(world, opinion)
        for opinion in (
            good,
            good,  # a client that is not sure whether it was heard
            {"trace_id": trace, "label": "thumbs_down", "source": "bob"},
            {"request_id": ids[2], "score": 0.5, "id": "ticket-7", "name": "triage"},
        )
    ]
    assert [answer.status for answer in accepted] == [202] * 4
    assert accepted[0].body == accepted[1].body
    assert accepted[3].json() == {"id": "ticket-7", "accepted": True}
    records = await world.records(ids)
    assert records[1]["trace_id"] == trace
    kept = await opinions(world, 4)
    assert [row["evaluation_id"] for row in kept] == [answer.json()["id"] for answer in accepted]
    with stored(world) as store:
        assert len(store.rows("SELECT * FROM evaluations")) == 3
        told = read_report(store)
    assert told is not None
    (part,) = told.slices
    assert (part.route, part.model, part.requests) == ("code", "code", 3)
    assert (part.quality["feedback"].samples, part.quality["feedback"].value) == (2, 0.5)
    assert (part.quality["triage"].samples, part.quality["triage"].value) == (1, 0.5)
    assert {name for name, got in world.received().items() if got} == {"code"}


async def test_a_client_that_asks_again_is_noticed_and_no_text_is_kept(world: World) -> None:
    said = [
        {"role": "user", "content": "implement quicksort in zig"},
        {"role": "assistant", "content": "No."},
    ]
    bodies = [
        {"model": "auto", "messages": [*said, {"role": "user", "content": text}]}
        for text in ("Implement quicksort in Zig!", "then write a poem about it")
    ]
    answers = [await world.post(body) for body in (*bodies, chat("implement quicksort in zig"))]
    records = await world.records([answer.headers["x-request-id"] for answer in answers])
    assert [record["reask"] for record in records] == [True, False, None]
    assert [record["refusal"] for record in records] == [False, False, False]
    assert "zig" not in world.record_text().lower()


async def test_what_is_refused_is_counted_and_leaves_no_record(world: World) -> None:
    before = len(world.rows("evaluation"))
    assert (await give(world, {"request_id": "r", "score": 1}, "guessed")).status == 401
    assert (await give(world, {"score": 1})).status == 400
    assert world.received() == {}
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        families = text_string_to_metric_families(await page.text())
    counts = {
        sample.labels["result"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "router_feedback_total"
    }
    assert counts["unauthorized"] >= 1
    assert counts["bad_request"] >= 1
    assert len(world.rows("evaluation")) == before


async def test_a_token_is_rotated_without_a_restart_and_nobody_is_heard_without_a_sidecar(
    own_world: World,
) -> None:
    world = own_world
    opinion = {"request_id": "r", "score": 1}
    assert (await give(world, opinion)).status == 202
    secret = "another-token-of-the-operator"
    aside = world.stack.registry.with_name("feedback.new")
    aside.write_text(secret)
    aside.replace(world.stack.registry.with_name("feedback.key"))
    async with asyncio.timeout(30):
        while (await give(world, opinion, secret)).status != 202:
            await asyncio.sleep(0.05)
    assert (await give(world, opinion)).status == 401
    written = [path for path in world.stack.run_dir.rglob("*") if path.is_file()]
    assert written
    for path in written:
        text = path.read_bytes()
        assert secret.encode() not in text, path
        assert FEEDBACK_TOKEN.encode() not in text, path

    await world.stack.stop_sidecar()
    answer = await give(world, opinion, secret)
    assert answer.status == 503
    assert "may be sent again" in answer.json()["error"]["message"]
    assert world.received() == {}
