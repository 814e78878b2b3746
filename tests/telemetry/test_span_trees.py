"""The spans of one exchange: their shape, times, names and what each says."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from extproc.exchanges import Attempt, Envelope, Exchange, Ruling, Usage
from extproc.telemetry.row_building import attempt_row_of, verdict_row_of
from extproc.telemetry.rows import (
    ATTRIBUTES,
    KINDS,
    AttemptRow,
    EvaluationRow,
    ExchangeRow,
    Row,
    ShadowRow,
    fields_of,
)
from extproc.telemetry.sinks import Outcome
from extproc.telemetry.span_trees import Origin, attributes_of, span_of_attempt, span_of_evaluation, spans_of

Make = Callable[..., Outcome]

START_NS = 1_795_000_000_250_000_000
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
ORIGIN = Origin(Resource({}), InstrumentationScope("extproc", "1"), "minilm")


def tree(outcome: Outcome) -> dict[str, ReadableSpan]:
    """The spans by name, of which there is one each, all below the first and in its trace."""
    spans = spans_of(outcome, ORIGIN)
    whole, *parts = spans
    for part in parts:
        assert part.parent == whole.context
        assert part.context.trace_id == whole.context.trace_id
    assert len({span.context.span_id for span in spans}) == len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def route(outcome: Outcome) -> ReadableSpan:
    return spans_of(outcome, ORIGIN)[0]


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def since_start(span: ReadableSpan) -> tuple[int, int]:
    """Microseconds since the exchange began."""
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.start_time - START_NS) // 1000, (span.end_time - START_NS) // 1000


def test_the_exchange_is_a_chain_under_its_parent_with_its_true_times(outcome: Make) -> None:
    span = route(outcome())
    assert (span.name, span.kind) == ("route", SpanKind.INTERNAL)
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert since_start(span) == (0, 1_500_000)
    assert span.status.status_code is StatusCode.UNSET
    assert span.links == ()


def test_its_attributes_are_the_record(outcome: Make) -> None:
    assert told(route(outcome())) == {
        "openinference.span.kind": "CHAIN",
        "gen_ai.provider.name": "acme",
        "gen_ai.request.model": "qwen3-coder",
        "gen_ai.original.model": "auto",
        "gen_ai.request.stream": True,
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "http.request.body.size": 120,
        "http.response.body.size": 4096,
        "router.record": "exchange",
        "router.record.schema": 1,
        "router.request_id": "7f2c",
        "router.attempts": 1,
        "router.mode": "active",
        "router.usage_source": "unknown",
        "router.api": "openai.chat",
        "router.route": "code",
        "router.model": "code",
        "router.stage": "embedding",
        "router.reason": "matched",
        "router.probability": 0.91,
        "router.margin": 0.84,
        "router.similarity": 0.0,
        "router.candidates": ("code:0.91", "greeting:0.07"),
        "router.predicted_quality": 0.87,
        "router.offers": ("code:0.87", "large:0.95"),
        "router.config.version": "v1",
        "router.bypassed": False,
        "router.cluster": "model-code",
        "router.first_byte_ms": 125.0,
        "router.tokens": 16,
        "router.parse_us": 12,
        "router.rules_us": 20,
        "router.queue_us": 0,
        "router.embed_us": 2400,
        "router.total_us": 2600,
    }


def test_each_step_has_its_span_one_after_the_other_and_then_comes_the_call(outcome: Make) -> None:
    spans = tree(outcome(share=1.0))
    assert [(name, since_start(span)) for name, span in spans.items()] == [
        ("route", (0, 1_500_000)),
        ("rules", (1_012, 1_032)),  # the body came after 1 ms, and was parsed in 12 us
        ("embeddings minilm", (1_032, 3_432)),
        ("score", (3_432, 3_612)),
        ("chat qwen3-coder", (3_612, 1_500_000)),
    ]
    kinds = {name: told(span).get("openinference.span.kind") for name, span in spans.items()}
    assert kinds == {
        "route": "CHAIN", "rules": "CHAIN", "score": "CHAIN", "embeddings minilm": None, "chat qwen3-coder": None,
    }  # fmt: skip
    assert [span.name for span in spans.values() if span.kind is SpanKind.CLIENT] == ["chat qwen3-coder"]


def test_the_encoder_is_an_embedding_of_the_conventions(outcome: Make) -> None:
    assert told(tree(outcome(share=1.0))["embeddings minilm"]) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "envoy-semantic-router",
        "gen_ai.request.model": "minilm",
        "gen_ai.usage.input_tokens": 16,
        "router.queue_us": 0,
    }


def test_the_scores_are_told_with_what_they_led_to(outcome: Make) -> None:
    assert told(tree(outcome(share=1.0))["score"]) == {
        "openinference.span.kind": "CHAIN",
        "router.route": "code",
        "router.stage": "embedding",
        "router.reason": "matched",
        "router.probability": 0.91,
        "router.margin": 0.84,
        "router.similarity": 0.0,
        "router.candidates": ("code:0.91", "greeting:0.07"),
        "router.predicted_quality": 0.87,
        "router.offers": ("code:0.87", "large:0.95"),
    }


def test_the_call_is_one_of_the_conventions_with_what_the_answer_told(outcome: Make) -> None:
    usage = Usage(
        input=100, output=20, cached=64, reasoning=7, finish="stop", response_id="c-1", response_model="q-0711",
        first_token_at=1_795_000_000.75,
    )  # fmt: skip
    about = told(tree(outcome(share=1.0, usage=usage, attempts=2, served_by="large"))["chat qwen3-coder"])
    # The client waited 500 ms for a token, of which 3.612 ms were gone when the model was asked.
    assert about.pop("gen_ai.response.time_to_first_chunk") == pytest.approx(0.496388)
    assert about == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "acme",
        "gen_ai.request.model": "qwen3-coder",
        "gen_ai.original.model": "auto",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "c-1",
        "gen_ai.response.model": "q-0711",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 64,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "http.response.status_code": 200,
        "router.request_id": "7f2c",
        "router.model": "code",
        "router.cluster": "model-code",
        "router.attempts": 2,
        "router.served_by": "large",
        "router.refusal": False,
    }


def test_only_calls_name_an_operation_so_that_tokens_are_counted_once(outcome: Make) -> None:
    spans = tree(outcome(share=1.0, usage=Usage(input=100)))
    named = {told(span).get("gen_ai.operation.name"): name for name, span in spans.items()}
    assert named.keys() == {None, "embeddings", "chat"}
    assert "gen_ai.operation.name" not in told(spans["route"])


@pytest.mark.parametrize("traceparent", ["", "00-short-short-01"])
def test_without_a_parent_the_exchange_is_a_root(outcome: Make, traceparent: str) -> None:
    made = outcome(traceparent=traceparent)
    span = route(made)
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == made.row.trace_id
    assert span.links == ()


def test_a_parent_that_is_not_sampled_is_linked_and_leaves_no_orphan(outcome: Make) -> None:
    span = route(outcome(traceparent=f"00-{TRACE_ID}-{PARENT_ID}-00"))
    assert span.parent is None
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert f"{span.context.trace_id:032x}" == TRACE_ID  # found by the same id as the record
    assert span.context.trace_flags.sampled


def test_an_exchange_that_the_sidecar_missed_is_in_its_trace_all_the_same(outcome: Make) -> None:
    span = route(outcome(envelope=None, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01"))
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)


def test_who_tells_an_exchange_twice_tells_the_same_spans(outcome: Make) -> None:
    def ids(made: Outcome) -> list[int]:
        return [span.context.span_id for span in spans_of(made, ORIGIN)]

    assert ids(outcome(share=1.0)) == ids(outcome(share=1.0))
    assert not set(ids(outcome(share=1.0))) & set(ids(outcome(share=1.0, request_id="other")))


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"status": 404}, "404"), ({"status": 500}, "500"), ({"status": 503, "flags": ("UF",)}, "UF")],
)
def test_a_failed_call_is_an_error_with_its_type_and_so_is_the_exchange(
    outcome: Make, changes: dict[str, Any], error: str
) -> None:
    spans = tree(outcome(**changes))  # failures are kept whatever the share
    for name in ("route", "chat qwen3-coder"):
        assert spans[name].status.status_code is StatusCode.ERROR
        assert told(spans[name])["error.type"] == error
    assert spans["score"].status.status_code is StatusCode.UNSET


def test_a_client_that_left_is_no_error_but_its_flag_is_told(outcome: Make) -> None:
    span = route(outcome(status=0, flags=("DC",), duration=None, first_byte=None))
    assert span.status.status_code is StatusCode.UNSET
    assert told(span)["router.response_flags"] == ("DC",)
    assert not {"error.type", "http.response.status_code", "router.first_byte_ms"} & told(span).keys()
    assert since_start(span) == (0, 0)


def test_a_denied_request_is_no_error_and_calls_nothing(outcome: Make) -> None:
    spans = tree(
        outcome(
            status=400, error="denied", reason="denied", stage="deny", rule="no-spam", upstream_model="",
            cluster="", probability=None, margin=None, embed_us=None, queue_us=None, total_us=20,
        )
    )  # fmt: skip
    assert spans.keys() == {"route", "rules"}
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}
    assert told(spans["route"])["router.refused"] == "denied"
    assert "error.type" not in told(spans["route"])
    assert told(spans["rules"]) == {
        "openinference.span.kind": "GUARDRAIL",
        "router.stage": "deny",
        "router.reason": "denied",
        "router.rule": "no-spam",
    }


def test_what_was_settled_by_a_rule_embedded_nothing(outcome: Make) -> None:
    made = outcome(
        share=1.0, stage="rule", reason="rule", rule="vip", probability=None, margin=None, similarity=None,
        queue_us=None, embed_us=None, total_us=30,
    )  # fmt: skip
    spans = tree(made)
    assert spans.keys() == {"route", "rules", "chat qwen3-coder"}
    assert told(spans["rules"])["router.rule"] == "vip"


@pytest.mark.parametrize("reason", ["deadline", "overloaded", "encoder_error"])
def test_an_encoder_that_gave_no_answer_in_time_is_an_error_of_its_own(outcome: Make, reason: str) -> None:
    spans = tree(
        outcome(
            stage="default", reason=reason, probability=None, margin=None, similarity=None, queue_us=None,
            embed_us=None, total_us=200_000, tokens=None,
        )
    )  # fmt: skip
    assert spans.keys() == {"route", "rules", "embeddings minilm", "chat qwen3-coder"}
    encoder = spans["embeddings minilm"]
    assert (encoder.status.status_code, told(encoder)["error.type"]) == (StatusCode.ERROR, reason)
    assert since_start(encoder) == (1_032, 201_012)
    assert spans["route"].status.status_code is StatusCode.UNSET  # the default model answered


def test_a_bypassed_call_is_a_call_whose_model_is_not_claimed(outcome: Make) -> None:
    spans = tree(outcome(envelope=None))
    assert spans.keys() == {"route", "chat"}
    assert told(spans["route"])["router.bypassed"] is True
    assert not {"gen_ai.request.model", "gen_ai.request.stream", "router.route"} & told(spans["chat"]).keys()


def test_what_is_no_llm_call_claims_no_operation(outcome: Make) -> None:
    spans = tree(outcome(envelope=None, path="/metrics"))
    assert spans.keys() == {"route"}
    assert not [key for key in told(spans["route"]) if key.startswith("gen_ai.")]


@pytest.mark.parametrize("began_us", [None, 1, 1_795_000_009_000_000])
def test_a_clock_that_differs_from_envoys_moves_no_step_out_of_its_exchange(
    outcome: Make, began_us: int | None
) -> None:
    spans = tree(outcome(share=1.0, began_us=began_us))
    assert since_start(spans["rules"]) == (12, 32)
    assert since_start(spans["chat qwen3-coder"]) == (2_612, 1_500_000)


def test_text_is_on_the_spans_only_when_the_envelope_has_it(outcome: Make) -> None:
    for span in spans_of(outcome(share=1.0), ORIGIN):
        assert "gen_ai.input.messages" not in told(span)
    spans = tree(outcome(share=1.0, prompt="sing"))
    assert "sing" in told(spans["route"])["gen_ai.input.messages"]
    assert "sing" in told(spans["chat qwen3-coder"])["gen_ai.input.messages"]


def test_where_hops_asked_the_models_each_attempt_is_a_call_below_the_exchange(
    outcome: Make, exchange: Callable[..., Exchange]
) -> None:
    told_alone = exchange(envelope=None, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01")
    tried = tuple(
        Attempt(told_alone, number, model, f"{model}-9b", "acme")
        for number, model in enumerate(("code", "code", "large"), 1)
    )
    spans = tree(outcome(share=1.0, served_by="large", tried=tried))
    assert not [name for name in spans if name.startswith("chat")]
    calls = [span_of_attempt(attempt_row_of(each), None, ORIGIN) for each in tried]
    assert [call.name for call in calls] == ["chat code-9b", "chat code-9b", "chat large-9b"]
    assert len({call.context.span_id for call in calls}) == 3
    for number, call in enumerate(calls, 1):
        assert call.parent is not None
        assert call.parent.span_id == spans["route"].context.span_id
        assert call.context.trace_id == spans["route"].context.trace_id
        assert since_start(call) == (0, 1_500_000)
        assert call.kind is SpanKind.CLIENT
        about = told(call)
        assert about["router.record"] == "attempt"
        assert about["router.attempt"] == number
        assert about["gen_ai.operation.name"] == "chat"


def test_a_gates_verdict_is_an_event_of_its_attempt(exchange: Callable[..., Exchange]) -> None:
    ruling = Ruling(escalate=True, gate="sound", reason="refusal/refusal_text", score=0.125)
    attempt = Attempt(exchange(envelope=None), 1, "code", "code-9b", cascade="frugal", tier=0, ruling=ruling)
    span = span_of_attempt(attempt_row_of(attempt), verdict_row_of(attempt), ORIGIN)
    about = told(span)
    assert (about["router.cascade"], about["router.tier"], about["router.verdict"]) == (
        "frugal",
        0,
        "escalate",
    )
    (event,) = span.events
    assert event.name == "gen_ai.evaluation.result"
    assert event.timestamp == START_NS + 1_500_000_000
    said = dict(event.attributes or {})
    assert "router.record" not in said
    assert said["gen_ai.evaluation.name"] == "sound"
    assert said["gen_ai.evaluation.score.value"] == 0.125
    assert said["gen_ai.evaluation.score.label"] == "escalate"
    assert said["gen_ai.evaluation.explanation"] == "refusal/refusal_text"
    assert said["router.evaluation.id"] == "gate/7f2c/1"


def test_an_attempt_without_a_trace_is_in_that_of_its_exchange(
    outcome: Make, exchange: Callable[..., Exchange]
) -> None:
    call = exchange(envelope=None, status=0, flags=("DR",))
    span = span_of_attempt(attempt_row_of(Attempt(call, 1, "code", "code-9b")), None, ORIGIN)
    assert span.parent == route(outcome(envelope=Envelope())).context
    assert span.status.status_code is StatusCode.ERROR
    assert told(span)["error.type"] == "DR"


def test_an_observed_exchange_tells_in_every_span_who_answered_and_what_would_have(outcome: Make) -> None:
    observed = {"route": "", "model": "mid", "upstream_model": "llama-70b"}
    would = {"mode": "observe", "would_route": "code", "would_model": "code"}
    spans = tree(outcome(share=1.0, **observed, **would))
    assert told(spans["route"])["router.mode"] == "observe"
    assert told(spans["route"])["router.would_model"] == "code"
    assert "router.route" not in told(spans["route"])
    assert told(spans["score"])["router.would_route"] == "code"
    assert told(spans["chat llama-70b"])["router.model"] == "mid"


def opinion(**fields: Any) -> EvaluationRow:
    known: dict[str, Any] = {
        "request_id": "7f2c",
        "trace_id": TRACE_ID,
        "evaluation_id": "e1",
        "name": "feedback",
    }
    return EvaluationRow(time=datetime(2026, 11, 25, tzinfo=UTC), **(known | fields))


def test_an_opinion_that_names_request_and_trace_is_below_the_exchange(outcome: Make) -> None:
    span = span_of_evaluation(opinion(score=0.0, label="bad", source="ann"), ORIGIN)
    assert span.parent == route(outcome()).context
    assert span.name == "evaluate feedback"
    assert span.start_time == span.end_time
    attributes = told(span)
    assert attributes["router.record"] == "evaluation"
    assert attributes["gen_ai.evaluation.name"] == "feedback"
    assert attributes["gen_ai.evaluation.score.value"] == 0.0
    assert attributes["gen_ai.evaluation.score.label"] == "bad"
    assert attributes["openinference.span.kind"] == "EVALUATOR"


@pytest.mark.parametrize(
    ("request_id", "trace_id", "lies_in"),
    [
        ("", TRACE_ID, TRACE_ID),
        ("0af76519-16cd-43dd-8448-eb211c80319c", "", TRACE_ID),
        ("0af76519-16cd-43dd-8448-eb211c80319c", "0" * 32, TRACE_ID),
    ],
)
def test_an_opinion_that_does_not_name_both_is_nobodys_child(
    request_id: str, trace_id: str, lies_in: str
) -> None:
    span = span_of_evaluation(opinion(request_id=request_id, trace_id=trace_id), ORIGIN)
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == lies_in


@pytest.mark.parametrize("trace_id", ["no hex", "0" * 32])
def test_an_opinion_on_what_is_no_trace_is_in_one_of_its_own(trace_id: str) -> None:
    assert span_of_evaluation(opinion(request_id="", trace_id=trace_id), ORIGIN).context.is_valid


def test_the_same_opinion_is_the_same_span_and_another_is_another() -> None:
    first, again = (span_of_evaluation(opinion(), ORIGIN).context for _ in range(2))
    assert first == again
    assert span_of_evaluation(opinion(evaluation_id="e2"), ORIGIN).context.span_id != first.span_id


NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def exchange(**fields: object) -> ExchangeRow:
    known = {"time": NOON, "request_id": "r", "bypassed": False, "refused": False, "failed": False}
    return msgspec.convert(known | fields, ExchangeRow, strict=False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_every_kind_is_on_its_span(kind: type[Row]) -> None:
    without = {field.info.name for field in fields_of(kind) if field.attribute is None}
    assert without <= {"time", "trace_id", "duration_ms", "error", "refused", "failed"}  # the span's own


def test_no_attribute_stands_for_two_fields_and_a_field_has_one_in_all_kinds() -> None:
    names = [attribute.name for attribute in ATTRIBUTES.values()]
    assert len(names) == len(set(names))
    for kind in KINDS:
        for field in fields_of(kind):
            assert field.attribute == ATTRIBUTES.get(field.info.name)


def test_what_is_not_known_is_absent_and_a_known_zero_is_not() -> None:
    told = attributes_of(exchange(margin=0.0, input_tokens=0, stream=False))
    assert told["router.margin"] == 0.0
    assert told["gen_ai.usage.input_tokens"] == 0
    assert told["gen_ai.request.stream"] is False
    assert not {"router.probability", "gen_ai.usage.output_tokens", "router.cost_usd"} & told.keys()


def test_units_and_shapes_are_those_of_the_conventions() -> None:
    told = attributes_of(exchange(time_to_first_token_ms=1250.0, finish_reason="stop", candidates=("a:0.9",)))
    assert told["gen_ai.response.time_to_first_chunk"] == 1.25  # seconds
    assert told["gen_ai.response.finish_reasons"] == ("stop",)  # a list
    assert told["router.candidates"] == ("a:0.9",)


def test_a_span_says_which_kind_of_row_it_is() -> None:
    opinion = EvaluationRow(time=NOON, request_id="r", evaluation_id="e", name="feedback", score=0.0)
    rows = [
        exchange(),
        AttemptRow(time=NOON, request_id="r", attempt=1),
        opinion,
        ShadowRow(time=NOON, request_id="r"),
    ]
    kinds = [attributes_of(row)["router.record"] for row in rows]
    assert kinds == ["exchange", "attempt", "evaluation", "shadow"]
    told = attributes_of(opinion)
    assert (told["gen_ai.evaluation.name"], told["gen_ai.evaluation.score.value"]) == ("feedback", 0.0)
    assert told["openinference.span.kind"] == "EVALUATOR"


def test_a_failed_attempt_tells_its_error_as_the_conventions_do() -> None:
    told = attributes_of(AttemptRow(time=NOON, request_id="r", attempt=2, api="openai.chat", error="UF"))
    assert (told["error.type"], told["gen_ai.operation.name"], told["router.attempt"]) == ("UF", "chat", 2)


def test_an_llm_that_was_asked_in_doubt_has_a_span_between_the_scores_and_the_call(outcome: Make) -> None:
    decided = msgspec.structs.replace(
        outcome(share=1.0).exchange.envelope, stage="llm", llm_result="matched", llm_doubt="low_margin",
        llm_model="judge", llm_input_tokens=90, llm_output_tokens=8, llm_us=100,
    )  # fmt: skip
    spans = tree(outcome(share=1.0, envelope=decided))
    assert told(spans["chat judge"]) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "judge",
        "gen_ai.usage.input_tokens": 90,
        "gen_ai.usage.output_tokens": 8,
        "router.llm.result": "matched",
        "router.llm.doubt": "low_margin",
    }
    score, asked, call = (spans[name] for name in ("score", "chat judge", "chat qwen3-coder"))
    assert score.end_time == asked.start_time
    assert asked.end_time == call.start_time
