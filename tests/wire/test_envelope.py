"""The envelope through the Struct that Envoy carries."""

import math
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchanges import Envelope
from extproc.wire import envelope

FULL = Envelope(
    api="openai.chat",
    route="code",
    model="coder",
    upstream_model="qwen-coder",
    original_model="auto",
    stage="embedding",
    reason="matched",
    rule="r",
    error="e",
    probability=0.9123,
    margin=0.0,
    similarity=-0.25,
    candidates=("code:0.91", "chat:0.09"),
    predicted_quality=0.0,
    offers=("coder:0", "large:0.97"),
    version="v1",
    tokens=7,
    stream=True,
    reask=False,
    traceparent="00-aa-bb-01",
    began_us=1_795_000_000_250_001,
    parse_us=0,
    rules_us=20,
    queue_us=11,
    embed_us=2500,
    total_us=2600,
    prompt="hi",
    conversation_id="c0ffee",
)


def written(value: Envelope) -> Struct:
    struct = Struct()
    envelope.write(value, struct)
    return struct


def struct(fields: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(fields)
    return message


def test_what_is_written_is_read_back() -> None:
    assert envelope.read(Struct.FromString(written(FULL).SerializeToString())) == FULL


def test_empty_fields_are_not_written_but_zeros_are() -> None:
    sparse = Envelope(route="code", margin=0.0, queue_us=0)
    assert MessageToDict(written(sparse)) == {
        "schema": 1, "mode": "active", "route": "code", "margin": 0, "queue_us": 0,
    }  # fmt: skip


def test_the_schema_and_the_mode_are_always_written() -> None:
    assert MessageToDict(written(Envelope())) == {"schema": 1, "mode": "active"}


def test_what_is_only_observed_stands_where_nobody_takes_it_for_a_decision() -> None:
    observed = Envelope(
        mode="observe", would_route="code", would_model="coder", model="mid", reason="matched", margin=0.5
    )
    assert MessageToDict(written(observed)) == {
        "schema": 1,
        "mode": "observe",
        "observed": {
            "mode": "observe",
            "would_route": "code",
            "would_model": "coder",
            "model": "mid",
            "reason": "matched",
            "margin": 0.5,
        },
    }
    assert envelope.read(Struct.FromString(written(observed).SerializeToString())) == observed


def test_an_envelope_of_before_there_were_modes_was_obeyed() -> None:
    assert envelope.read(struct({"route": "code"})).mode == "active"


def test_observations_that_are_none_are_left_alone() -> None:
    spoilt = struct({"mode": "observe", "observed": "code", "version": "v1"})
    assert envelope.read(spoilt) == Envelope(mode="observe", version="v1")
    forged = struct({"mode": "active", "observed": {"route": "code"}})
    assert envelope.read(forged) == Envelope()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("route", 7),
        ("route", None),
        ("route", ["code"]),
        ("stream", "yes"),
        ("tokens", "7"),
        ("tokens", True),
        ("tokens", math.inf),
        ("tokens", 2.0**53),
        ("margin", "0.5"),
        ("margin", math.nan),
        ("margin", {"value": 1}),
        ("candidates", "code:1"),
        ("candidates", []),
    ],
)
def test_a_field_of_another_type_keeps_its_default_and_spoils_no_other(field: str, value: object) -> None:
    assert envelope.read(struct({field: value, "model": "coder"})) == Envelope(model="coder")


def test_fields_of_another_version_are_skipped() -> None:
    assert envelope.read(struct({"schema": 2, "tier": "large", "model": "coder"})) == Envelope(
        schema=2, model="coder"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(Envelope.__struct_fields__) | st.text(max_size=8), json_values))
def test_whatever_stands_in_the_namespace_gives_an_envelope(fields: dict[str, Any]) -> None:
    assert isinstance(envelope.read(struct(fields)), Envelope)
