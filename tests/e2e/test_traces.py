"""One span per exchange reaches a real OTLP receiver, in the client's trace."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from extproc.demo.behaviour import Behaviour
from tests.collector import Collector, attributes
from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest_asyncio.fixture(loop_scope="session")
async def traced(tmp_path: Path) -> AsyncIterator[tuple[World, Collector]]:
    collector = Collector()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async for world in world_in(tmp_path, environment):
        yield world, collector
    collector.stop()


async def spans(collector: Collector, count: int) -> list[Span]:
    async with asyncio.timeout(10):
        while len(collector.spans) < count:
            await asyncio.sleep(0.02)
    return sorted(collector.spans, key=lambda span: span.start_time_unix_nano)


async def test_the_span_of_an_exchange_tells_decision_and_outcome(traced: tuple[World, Collector]) -> None:
    world, collector = traced
    answer = await world.post(chat("implement quicksort in python"), traceparent=f"00-{TRACE}-{PARENT}-01")
    (span,) = await spans(collector, 1)
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (span.name, span.kind) == ("chat demo-code-32b", Span.SPAN_KIND_CLIENT)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert record["trace_id"] == TRACE
    duration_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    assert duration_ms == pytest.approx(record["duration_ms"], abs=0.01)
    told = attributes(span.attributes)
    assert told["gen_ai.request.model"] == "demo-code-32b"
    assert told["gen_ai.original.model"] == "auto"
    assert (told["router.route"], told["router.reason"]) == ("code", "matched")
    assert told["router.margin"] == record["margin"]
    assert "quicksort" not in str(span)


async def test_a_failing_provider_and_a_refused_request_are_told_apart(
    traced: tuple[World, Collector],
) -> None:
    world, collector = traced
    world.pool["small"].behaviour = Behaviour(status=503)
    assert (await world.post(chat("Good morning!"))).status == 503
    assert (await world.post({"model": "auto"})).status == 400
    failed, refused = await spans(collector, 2)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed.attributes)["error.type"] == "503"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert refused.name == "refuse"
