"""What comes out: one record and one span per exchange, metrics, health."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.lab.store.record_store import open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.registry.registry_loading import load as load_registry
from extproc.telemetry.segments import segment_paths
from tests.e2e.conftest import World, chat

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_each_exchange_leaves_one_record_of_decision_and_outcome(world: World) -> None:
    asked = [
        chat("implement quicksort in python"),
        chat("Good morning!", stream=True),
        chat("asdkjh qwe zxc"),
    ]
    answers = await asyncio.gather(*(world.post(body) for body in asked))
    ids = [answer.headers["x-request-id"] for answer in answers]
    code, small, doubtful = await world.records(ids)
    assert (code["route"], code["model"], code["upstream_model"]) == ("code", "code", "demo-code-32b")
    assert (code["stage"], code["reason"], code["original_model"]) == ("embedding", "matched", "auto")
    assert code["cluster"] == "model-code"
    assert code["version"] == load_registry(world.stack.registry).version
    assert (code["status"], code["error"], code["bypassed"]) == (200, "", False)
    assert 0 < code["first_byte_ms"] <= code["duration_ms"]
    assert 0 < code["embed_us"] < code["total_us"]
    assert (small["route"], small["stream"]) == ("greeting", True)
    assert (doubtful["route"], doubtful["reason"], doubtful["stage"]) == ("", "out_of_scope", "default")
    assert doubtful["in_scope"] < 0.5 < code["in_scope"]
    text = world.record_text()
    for request_id in ids:
        assert text.count(request_id) == 1


async def test_records_of_real_traffic_load_into_the_store_as_they_are(world: World) -> None:
    answers = [await world.post(chat("implement quicksort in python")), await world.post(b"not json")]
    records = await world.records([answer.headers["x-request-id"] for answer in answers])
    with open_store(None) as store:
        prepare(store)
        loaded = [load(store, segment) for segment in segment_paths(world.stack.records)]
        assert sum(done.bad for done in loaded) == 0
        for record in records:
            asked = {"id": record["request_id"]}
            (row,) = store.rows("SELECT * EXCEPT (time) FROM exchanges WHERE request_id = {id:String}", asked)
            assert row == {name: value for name, value in record.items() if name not in ("kind", "time")}


async def test_no_prompt_and_no_key_is_written_anywhere(world: World) -> None:
    secret = "implement quicksort for the xylophone orchestra"
    answer = await world.post(chat(secret), authorization="Bearer clients-own-secret")
    await world.records([answer.headers["x-request-id"]])
    keys = [model.key for model in world.pool.values()]
    written = [path for path in world.stack.run_dir.rglob("*") if path.is_file()]
    assert {"sidecar.log", "envoy.log", "cds.json", "rds.json"} <= {path.name for path in written}
    assert set(segment_paths(world.stack.records)) <= set(written)
    for path in written:
        text = path.read_text()
        assert not [found for found in ["xylophone", "clients-own-secret", *keys] if found in text], path


async def test_metrics_count_decisions_and_say_where_the_encoder_runs(world: World) -> None:
    async def samples() -> dict[tuple[str, str], float]:
        """Sums, by the name and the route or the device."""
        found: dict[tuple[str, str], float] = defaultdict(float)
        async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
            for family in text_string_to_metric_families(await page.text()):
                for sample in family.samples:
                    label = sample.labels.get("router_route", sample.labels.get("device", ""))
                    found[sample.name, label] += sample.value
        return found

    before = await samples()
    await world.post(chat("implement quicksort in python"))
    after = await samples()
    name = next(name for name, route in after if "decisions" in name and route == "code")
    assert after[name, "code"] == before[name, "code"] + 1
    assert [device for name, device in after if "encoder_info" in name] == ["cpu"]


async def test_series_exist_before_their_first_event_and_the_process_reports_its_cpu_and_memory(
    world: World,
) -> None:
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        text = await page.text()
    for never_happened in (
        'router_failures_total{error_type="access_log"} 0.0',
        'router_registry_reloads_total{result="failed"} 0.0',
        'router_feedback_total{result="unavailable"} 0.0',
    ):
        assert never_happened in text
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert f"\n{name} " in text


async def test_health_tells_each_component(world: World) -> None:
    async with world.http.get(f"{world.stack.sidecar_admin_url}/readyz") as page:
        assert page.status == 200
        ready: Any = await page.json()
    assert ready["ready"] is True
    assert ready["components"].keys() == {"registry", "encoder", "grpc", "tasks"}
    assert "on cpu" in ready["components"]["encoder"]["detail"]
    async with world.http.get(f"{world.stack.sidecar_admin_url}/healthz") as page:
        assert page.status == 200
