import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from extproc.exchanges import Attempt, Envelope, Exchange, Usage
from extproc.telemetry.row_building import attempt_row_of, refusal_of, row_of
from extproc.telemetry.rows import KINDS, AnyRow, AttemptRow, ExchangeRow, Row, fields_of, kind_of

Make = Callable[..., Exchange]


def test_a_row_carries_the_decision_and_its_outcome(exchange: Make) -> None:
    assert row_of(exchange()) == ExchangeRow(
        time=datetime.fromtimestamp(1_795_000_000.25, UTC),
        request_id="7f2c",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        api="openai.chat",
        method="POST",
        path="/v1/chat/completions",
        route="code",
        model="code",
        upstream_model="qwen3-coder",
        original_model="auto",
        provider="acme",
        stage="embedding",
        reason="matched",
        rule="",
        probability=0.91,
        margin=0.84,
        similarity=0.0,
        candidates=("code:0.91", "greeting:0.07"),
        predicted_quality=0.87,
        offers=("code:0.87", "large:0.95"),
        version="v1",
        status=200,
        error="",
        flags=(),
        bypassed=False,
        refused=False,
        failed=False,
        mode="active",
        attempts=1,
        stream=True,
        cluster="model-code",
        duration_ms=1500.0,
        first_byte_ms=125.0,
        request_bytes=120,
        response_bytes=4096,
        tokens=16,
        parse_us=12,
        rules_us=20,
        queue_us=0,
        embed_us=2400,
        total_us=2600,
    )


def test_what_was_not_measured_is_null_or_unknown_and_never_zero(exchange: Make) -> None:
    row = row_of(exchange(envelope=Envelope(), duration=None, first_byte=None, status=0))
    numbers = {
        field.info.name for field in fields_of(ExchangeRow) if field.type in (int | None, float | None)
    }
    assert len(numbers) > 20
    sent = {"request_bytes", "response_bytes", "attempts"}  # Envoy counts them always
    assert {name: getattr(row, name) for name in numbers - sent} == dict.fromkeys(numbers - sent)
    assert row.usage_source == "unknown"


def test_a_fact_of_the_decision_has_one_type_in_the_envelope_and_in_the_row() -> None:
    """The row takes it from the envelope by its name."""
    row = {
        field.info.name: get_args(field.info.type)[0] if field.attribute else field.type
        for field in fields_of(ExchangeRow)
    }
    envelope = {field.name: field.type for field in msgspec.structs.fields(Envelope)}
    derived = {"schema", "mode", "stream"}  # the row may not know them
    shared = envelope.keys() & row.keys() - derived
    assert {"route", "model", "margin", "version", "total_us"} <= shared
    assert {name: envelope[name] for name in shared} == {name: row[name] for name in shared}


def test_usage_is_what_the_answer_told(exchange: Make) -> None:
    usage = Usage(
        input=10, output=0, cached=4, cache_write=1, reasoning=2, finish="stop", response_id="c1",
        response_model="q", first_token_at=1_795_000_000.75,
    )  # fmt: skip
    row = row_of(exchange(usage=usage, attempts=2, served_by="large"))
    assert (row.input_tokens, row.output_tokens, row.cached_tokens, row.cache_write_tokens) == (10, 0, 4, 1)
    assert (row.reasoning_tokens, row.usage_source, row.finish_reason) == (2, "answer", "stop")
    assert (row.response_id, row.response_model, row.time_to_first_token_ms) == ("c1", "q", 500.0)
    assert (row.attempts, row.served_by) == (2, "large")
    assert row_of(exchange(usage=Usage(finish="stop"))).usage_source == "unknown"


@pytest.mark.parametrize(
    ("usage", "refusal"),
    [
        (None, None),
        (Usage(input=1), None),
        (Usage(finish="stop"), False),
        (Usage(finish="completed"), False),
        (Usage(finish="content_filter"), True),
        (Usage(finish="refusal"), True),
        (Usage(refusal=True), True),
        (Usage(finish="stop", refusal=True), True),
    ],
)
def test_a_refusal_is_what_the_api_calls_one_and_unknown_where_no_end_was_seen(
    exchange: Make, usage: Usage | None, refusal: bool | None
) -> None:
    assert row_of(exchange(usage=usage)).refusal is refusal


@pytest.mark.parametrize("reask", [None, False, True])
def test_whether_the_client_asks_again_is_what_the_decision_saw(exchange: Make, reask: bool | None) -> None:
    assert row_of(exchange(reask=reask)).reask is reask
    assert row_of(exchange(envelope=None)).reask is None


def test_anthropics_input_is_told_with_what_went_through_the_cache_like_everybody_elses(
    exchange: Make,
) -> None:
    usage = Usage(input=10, cached=1000, cache_write=50)
    assert row_of(exchange(api="anthropic.messages", usage=usage)).input_tokens == 1060
    assert row_of(exchange(api="openai.chat", usage=usage)).input_tokens == 10
    assert row_of(exchange(api="anthropic.messages", usage=Usage(input=10))).input_tokens == 10
    assert row_of(exchange(api="anthropic.messages", usage=Usage(cached=5))).input_tokens is None


def test_the_provider_is_the_models_own_or_its_apis_and_a_refused_request_has_none(exchange: Make) -> None:
    assert row_of(exchange()).provider == "acme"
    assert row_of(exchange(provider="")).provider == "openai"
    assert row_of(exchange(error="denied")).provider == ""


def test_an_exchange_without_an_envelope_is_bypassed_and_claims_no_decision(exchange: Make) -> None:
    row = row_of(exchange(envelope=None))
    assert row.bypassed
    assert row.api == "openai.chat"  # the path tells
    assert (row.route, row.model, row.upstream_model, row.version) == ("", "", "", "")
    assert row.stream is None
    assert row.mode == "unknown"


@pytest.mark.parametrize("flag", ["DC", "DR"])
def test_a_client_that_left_before_the_decision_bypassed_nothing(exchange: Make, flag: str) -> None:
    left = row_of(exchange(envelope=None, status=0, flags=(flag,), attempts=0))
    assert (left.bypassed, left.stage, left.status, left.mode) == (False, "", None, "unknown")
    # With a dead sidecar the request goes on to a model, whether the client waits for it or not.
    assert row_of(exchange(envelope=None, status=0, flags=(flag,), attempts=1)).bypassed
    assert row_of(exchange(envelope=None, status=503, flags=("UH",), attempts=0)).bypassed


def test_a_path_that_is_no_llm_call_has_no_api(exchange: Make) -> None:
    assert row_of(exchange(envelope=None, path="/v1/models")).api == ""


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 200}, ""),
        ({"status": 399}, ""),
        ({"status": 400}, "400"),
        ({"status": 429, "flags": ("URX",)}, "429"),
        ({"status": 503, "flags": ("URX", "UF")}, "UF"),
        ({"status": 504, "flags": ("UT",)}, "UT"),
        ({"status": 200, "flags": ("UC",)}, "UC"),
        ({"status": 0, "flags": ("DC",)}, ""),
        ({"status": 200, "flags": ("DR",)}, ""),
        ({"status": 400, "error": "bad_request"}, "bad_request"),
    ],
)
def test_the_error_names_the_failure_and_the_clients_leaving_is_none(
    exchange: Make, changes: dict[str, object], error: str
) -> None:
    assert row_of(exchange(**changes)).error == error


@pytest.mark.parametrize(
    "traceparent", ["", "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", "00-0af7-b7ad-01"]
)
def test_without_a_valid_traceparent_the_trace_is_named_by_the_request(
    exchange: Make, traceparent: str
) -> None:
    uuid = "5F0C7E1A-0000-4a3b-8c2d-1e2f3a4b5c6d"
    assert (
        row_of(exchange(traceparent=traceparent, request_id=uuid)).trace_id == uuid.replace("-", "").lower()
    )
    others = {
        row_of(exchange(traceparent=traceparent, request_id=name)).trace_id for name in ("", "7f2c", "0" * 32)
    }
    assert len(others) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) and trace_id.strip("0") for trace_id in others)


def test_a_path_of_any_length_is_cut(exchange: Make) -> None:
    assert row_of(exchange(path="/" + "x" * 60_000)).path == "/" + "x" * 255


def test_a_row_has_no_field_for_text_of_prompts_or_answers(exchange: Make) -> None:
    # What clients can put words of their own into; each is bounded where it is read.
    chosen_by_clients = {"method", "path", "original_model"}
    told = msgspec.to_builtins(row_of(exchange(envelope=None, method="M", path="P")))
    texts = {name for name, value in told.items() if isinstance(value, str) and name not in chosen_by_clients}
    of_the_decision = {"route", "stage", "reason", "rule", "version", "mode", "would_route", "would_model"}
    of_the_decision |= {"lexical", "read_part", "llm_result", "llm_doubt", "llm_model", "safety"}
    of_the_answer = {"api", "model", "upstream_model", "cluster", "error", "usage_source", "cascade"}
    of_the_answer |= {"provider", "served_by"}
    of_the_provider = {"response_model", "response_id", "finish_reason"}
    joining = {"kind", "time", "request_id", "trace_id", "conversation_id"}
    assert texts == of_the_decision | of_the_answer | of_the_provider | joining
    assert (told["input_messages"], told["llm_why"]) == (None, None)  # only by opt-in


def test_text_that_the_operator_opted_into_is_a_message_of_the_conventions(exchange: Make) -> None:
    told = row_of(exchange(prompt='say "hi"')).input_messages
    assert told is not None
    assert msgspec.json.decode(told) == [{"role": "user", "parts": [{"type": "text", "content": 'say "hi"'}]}]


def test_lines_of_an_older_version_are_still_read(exchange: Make) -> None:
    whole = msgspec.to_builtins(row_of(exchange()))
    first_version = {
        *("kind", "time", "request_id", "trace_id", "api", "method", "path", "route", "model", "status"),
        *("upstream_model", "original_model", "stage", "reason", "rule", "probability", "margin"),
        *("similarity", "version", "error", "flags", "bypassed", "refused", "stream", "cluster"),
        *("duration_ms", "first_byte_ms", "request_bytes", "response_bytes", "tokens", "parse_us"),
        *("queue_us", "embed_us", "total_us", "schema"),
    }
    old = {name: value for name, value in whole.items() if name in first_version}
    row = msgspec.json.decode(msgspec.json.encode(old), type=AnyRow)
    assert isinstance(row, ExchangeRow)
    assert (row.margin, row.input_tokens, row.mode) == (0.84, None, "unknown")


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_says_its_kind_and_reads_back_as_it_was(kind: type[Row]) -> None:
    needed = {
        "time": datetime(2026, 11, 25, tzinfo=UTC), "request_id": "r", "attempt": 1, "evaluation_id": "e",
        "name": "judge", "bypassed": False, "refused": False, "failed": False,
    }  # fmt: skip
    row = kind(**{name: value for name, value in needed.items() if name in kind.__struct_fields__})
    line = msgspec.json.encode(row)
    assert msgspec.json.decode(line)["kind"] == kind_of(kind)
    assert msgspec.json.decode(line, type=AnyRow) == row


def test_an_attempt_carries_whom_it_asked_and_what_came(exchange: Make) -> None:
    call = exchange(
        envelope=None,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        usage=Usage(input=3, output=4, finish="stop", response_model="coder-2"),
        cluster="model-code",
    )
    assert attempt_row_of(Attempt(call, 2, "code", "qwen3-coder", "acme", "v1")) == AttemptRow(
        time=datetime.fromtimestamp(1_795_000_000.25, UTC),
        request_id="7f2c",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        attempt=2,
        api="openai.chat",
        model="code",
        upstream_model="qwen3-coder",
        provider="acme",
        response_model="coder-2",
        cluster="model-code",
        status=200,
        finish_reason="stop",
        refusal=False,
        duration_ms=1500.0,
        first_byte_ms=125.0,
        request_bytes=120,
        response_bytes=4096,
        input_tokens=3,
        output_tokens=4,
        usage_source="answer",
    )


@pytest.mark.parametrize(("finish", "refusal"), [("refusal", True), ("content_filter", True), ("", None)])
def test_an_attempt_says_whether_its_model_refused(exchange: Make, finish: str, refusal: bool | None) -> None:
    call = exchange(envelope=None, usage=Usage(input=3, output=4, finish=finish))
    assert attempt_row_of(Attempt(call, 1, "code")).refusal is refusal


@pytest.mark.parametrize(
    ("status", "flags", "error"),
    [
        (200, (), ""),
        (200, ("DR",), ""),  # an answer that came and was not wanted
        (503, ("DR",), "503"),
        (503, ("UF",), "UF"),
        (0, ("DR",), "DR"),  # given up before there was one
        (0, (), ""),
    ],
)
def test_an_attempt_failed_by_its_answer_or_by_being_given_up(
    exchange: Make, status: int, flags: tuple[str, ...], error: str
) -> None:
    row = attempt_row_of(Attempt(exchange(envelope=None, status=status, flags=flags), 1, "code"))
    assert (row.error, row.status) == (error, status or None)


def test_calls_that_only_retries_made_are_counted_and_belong_to_no_cascade(exchange: Make) -> None:
    row = row_of(exchange(attempts=3))
    assert (row.attempts, row.cascade, row.tier, row.served_by) == (3, "", None, "")


def test_an_observed_exchange_names_who_answered_and_what_would_have(exchange: Make) -> None:
    row = row_of(
        exchange(
            mode="observe",
            route="",
            model="mid",
            would_route="code",
            would_model="code",
            conversation_id="c0ffee",
        )
    )
    assert (row.mode, row.route, row.model) == ("observe", "", "mid")
    assert (row.would_route, row.would_model, row.conversation_id) == ("code", "code", "c0ffee")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"error": "denied"}, "denied"),
        ({"error": "bad_request", "reason": "bad_request"}, "bad_request"),
        ({"mode": "observe", "reason": "denied"}, "denied"),
        ({"mode": "observe", "reason": "unknown_model"}, "unknown_model"),
        ({"mode": "observe", "reason": "low_margin"}, ""),
        ({"reason": "matched"}, ""),
    ],
)
def test_a_refusal_is_one_that_was_or_that_would_have_been(
    exchange: Make, fields: dict[str, str], refusal: str
) -> None:
    row = row_of(exchange(**fields))
    assert refusal_of(row) == refusal
    assert row.refused == bool(fields.get("error"))
