"""The trace of each exchange reaches a real OTLP receiver, in the client's trace."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from extproc.demo.model_pool import Behaviour
from tests.collector import Collector, attributes
from tests.e2e.conftest import FEEDBACK_TOKEN, Answer, World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARENT = "b7ad6b7169203331"
CODE = "implement quicksort in python"
ENCODER = "embeddings all-MiniLM-L6-v2"
STEPS = ["route", "rules", ENCODER, "score"]


def collecting(collector: Collector, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        **more,
    }


class Traced:
    """A world whose sidecar exports to a collector."""

    def __init__(self, world: World, collector: Collector) -> None:
        self.world = world
        self.collector = collector

    async def trace_of(self, answer: Answer, count: int) -> tuple[dict[str, Any], dict[str, Span]]:
        """The record of an exchange, and its spans by name, which are ``count`` and one tree."""
        (record,) = await self.world.records([answer.headers["x-request-id"]])
        async with asyncio.timeout(60):
            while len(spans := self._spans(record["trace_id"])) < count:
                await asyncio.sleep(0.02)
        named = {span.name: span for span in spans}
        assert len(named) == len(spans) == count
        for span in spans:
            if span.name != "route":
                assert span.parent_span_id == named["route"].span_id
                assert named["route"].start_time_unix_nano <= span.start_time_unix_nano
                assert span.end_time_unix_nano <= named["route"].end_time_unix_nano
        return record, named

    def _spans(self, trace_id: str) -> list[Span]:
        mine = [span for span in self.collector.spans if span.trace_id.hex() == trace_id]
        return sorted(mine, key=lambda span: span.start_time_unix_nano)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    collector = Collector()
    async for world in world_in(tmp_path_factory.mktemp("traced"), collecting(collector)):
        yield Traced(world, collector)
    collector.stop()


@pytest.fixture(autouse=True)
def _behaving(traced: Traced) -> None:
    for model in traced.world.pool.values():
        model.behaviour = Behaviour()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_decided_exchange_is_a_tree_of_its_steps_and_its_call(traced: Traced, stream: bool) -> None:
    trace = f"{int(stream) + 1:032x}"
    body = chat(CODE, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    answer = await traced.world.post(body, traceparent=f"00-{trace}-{PARENT}-01")
    record, spans = await traced.trace_of(answer, 5)
    call = "chat demo-code-32b"
    assert list(spans) == [*STEPS, call]
    assert (spans["route"].trace_id.hex(), spans["route"].parent_span_id.hex()) == (trace, PARENT)
    assert record["trace_id"] == trace

    told = {name: attributes(span.attributes) for name, span in spans.items()}
    assert [name for name, about in told.items() if about.get("openinference.span.kind") == "CHAIN"] == [
        *("route", "rules", "score")
    ]
    assert told[ENCODER]["gen_ai.operation.name"] == "embeddings"
    assert told[ENCODER]["gen_ai.usage.input_tokens"] == record["tokens"]
    assert told["score"]["router.margin"] == record["margin"]
    assert told["score"]["router.candidates"] == record["candidates"]
    assert record["candidates"][0].startswith("code:")

    about = told[call]
    assert spans[call].kind == Span.SPAN_KIND_CLIENT
    assert (about["gen_ai.operation.name"], about["gen_ai.request.model"]) == ("chat", "demo-code-32b")
    assert (about["gen_ai.original.model"], about["gen_ai.provider.name"]) == ("auto", "demo")
    assert about["gen_ai.response.model"] == "demo-code-32b"
    assert about["gen_ai.response.finish_reasons"] == ["stop"]
    assert record["input_tokens"] > 0
    assert record["output_tokens"] > 0
    for spoken in (about, told["route"]):
        assert spoken["gen_ai.usage.input_tokens"] == record["input_tokens"]
        assert spoken["gen_ai.usage.output_tokens"] == record["output_tokens"]
    assert ("gen_ai.response.time_to_first_chunk" in about) is stream
    assert told["route"]["router.cost_usd"] == record["cost_usd"]
    assert 0 < record["cost_usd"] < record["reference_cost_usd"]


async def test_its_times_are_true(traced: Traced) -> None:
    traced.world.pool["code"].behaviour = Behaviour(delay_before_headers_s=0.3)
    record, spans = await traced.trace_of(await traced.world.post(chat(CODE)), 5)
    took = {name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 for name, span in spans.items()}
    assert took["route"] == pytest.approx(record["duration_ms"], abs=0.01)
    assert 300 <= took["chat demo-code-32b"] <= took["route"]
    assert took[ENCODER] == pytest.approx((record["queue_us"] + record["embed_us"]) / 1e3, abs=0.01)
    # The call began when the decision was made.
    assert spans["chat demo-code-32b"].start_time_unix_nano >= spans["score"].end_time_unix_nano - 10_000


async def test_a_failing_provider_and_a_refused_request_are_told_apart(traced: Traced) -> None:
    world = traced.world
    world.pool["small"].behaviour = Behaviour(status=503)
    _, failed = await traced.trace_of(await world.post(chat("Good morning!")), 5)
    for name in ("route", "chat demo-small-8b"):
        assert failed[name].status.code == Status.STATUS_CODE_ERROR
        assert attributes(failed[name].attributes)["error.type"] == "503"
    _, refused = await traced.trace_of(await world.post({"model": "auto"}), 1)
    assert attributes(refused["route"].attributes)["router.refused"] == "bad_request"
    _, denied = await traced.trace_of(await world.post(chat("4111 1111 1111 1111 is my card")), 2)
    assert attributes(denied["rules"].attributes)["router.rule"] == "no-card-numbers"
    assert attributes(denied["rules"].attributes)["openinference.span.kind"] == "GUARDRAIL"
    for span in (*refused.values(), *denied.values()):
        assert span.status.code == Status.STATUS_CODE_UNSET


async def test_a_pinned_model_is_called_without_an_embedding(traced: Traced) -> None:
    _, spans = await traced.trace_of(await traced.world.post(chat(CODE, model="small")), 3)
    assert list(spans) == ["route", "rules", "chat demo-small-8b"]


async def test_under_a_parent_that_is_not_sampled_it_is_a_root_with_a_link(traced: Traced) -> None:
    trace = "a" * 32
    answer = await traced.world.post(chat(CODE), traceparent=f"00-{trace}-{PARENT}-00")
    _, spans = await traced.trace_of(answer, 5)
    assert spans["route"].parent_span_id == b""
    assert [link.span_id.hex() for link in spans["route"].links] == [PARENT]


async def test_without_a_trace_the_exchange_is_found_by_its_request_id(traced: Traced) -> None:
    answer = await traced.world.post(chat(CODE))
    record, spans = await traced.trace_of(answer, 5)
    assert record["trace_id"] == answer.headers["x-request-id"].replace("-", "")
    assert spans["route"].parent_span_id == b""


async def test_metrics_are_pushed_with_the_tokens_of_the_answers(traced: Traced) -> None:
    record, _ = await traced.trace_of(await traced.world.post(chat(CODE)), 5)
    async with asyncio.timeout(60):
        while "gen_ai.client.token.usage" not in traced.collector.metrics:
            await asyncio.sleep(0.02)
    points = traced.collector.metrics["gen_ai.client.token.usage"].histogram.data_points
    labels = [attributes(point.attributes) for point in points]
    assert {"input", "output"} == {label["gen_ai.token.type"] for label in labels}
    assert "demo-code-32b" in {label["gen_ai.request.model"] for label in labels}
    assert record["cost_usd"] > 0
    assert {
        "router.cost.usd",
        "router.reference_cost.usd",
        "router.overhead.share",
    } <= traced.collector.metrics.keys()


async def test_no_text_of_prompt_or_answer_leaves_the_sidecar(traced: Traced) -> None:
    secret = "implement quicksort for the xylophone orchestra"
    answer = await traced.world.post(chat(secret))
    said = answer.json()["choices"][0]["message"]["content"]
    _, spans = await traced.trace_of(answer, 5)
    sent = "".join(map(str, (*spans.values(), *traced.collector.metrics.values())))
    assert "xylophone" not in sent
    assert said not in sent
    assert "xylophone" not in traced.world.record_text()


async def test_an_operator_who_opts_in_gets_the_beginning_of_prompts(tmp_path: Path) -> None:
    collector = Collector()
    opted_in = collecting(collector, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true")
    async for world in world_in(tmp_path, opted_in):
        prompt = "implement quicksort in python, for the xylophone " + "x" * 8000
        answer = await world.post(chat(prompt))
        assert answer.status == 200
        record, spans = await Traced(world, collector).trace_of(answer, 5)
        told = attributes(spans["chat demo-code-32b"].attributes)["gen_ai.input.messages"]
        assert told == record["input_messages"]
        assert prompt[:4096] in told
        assert prompt[:4097] not in told
    collector.stop()


async def test_feedback_is_told_to_the_collector_below_the_exchange(traced: Traced) -> None:
    trace = f"{77:032x}"
    answer = await traced.world.post(chat(CODE), traceparent=f"00-{trace}-{PARENT}-01")
    _, spans = await traced.trace_of(answer, 5)
    opinion = {"request_id": answer.headers["x-request-id"], "trace_id": trace, "score": 0, "source": "ann"}
    token = f"Bearer {FEEDBACK_TOKEN}"
    accepted = await traced.world.post(opinion, "/v1/router/feedback", authorization=token)
    async with asyncio.timeout(30):
        while not (found := [s for s in traced.collector.spans if s.name == "evaluate feedback"]):
            await asyncio.sleep(0.02)
    (span,) = found
    assert (span.trace_id.hex(), span.parent_span_id) == (trace, spans["route"].span_id)
    about = attributes(span.attributes)
    assert about["router.evaluation.id"] == accepted.json()["id"]
    assert about["gen_ai.evaluation.score.value"] == 0.0
    (row,) = traced.world.rows("evaluation")
    assert row["evaluation_id"] == accepted.json()["id"]
