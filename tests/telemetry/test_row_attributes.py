from datetime import UTC, datetime

import msgspec
import pytest

from extproc.telemetry.row_attributes import attributes_of
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
