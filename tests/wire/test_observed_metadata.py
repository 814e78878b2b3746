"""What Envoy's filters left in dynamic metadata, read without believing any of it."""

import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchanges import Usage
from extproc.wire import observed_metadata


def metadata(namespace: str, **fields: Any) -> dict[str, Struct]:
    struct = Struct()
    for name, value in fields.items():
        if isinstance(value, Value):
            struct.fields[name].CopyFrom(value)
        else:
            struct.update({name: value})
    return {namespace: struct}


def usage(**fields: Any) -> Usage | None:
    return observed_metadata.usage(metadata("router.usage", **fields))


def test_everything_that_was_seen_is_read() -> None:
    assert usage(
        input=1200,
        output=34,
        cached=1000,
        cache_write=50,
        reasoning=20,
        finish="stop",
        refusal=True,
        id="chatcmpl-1",
        model="gpt-5",
        first_token="1795475173250000",
    ) == Usage(
        input=1200,
        output=34,
        cached=1000,
        cache_write=50,
        reasoning=20,
        finish="stop",
        refusal=True,
        response_id="chatcmpl-1",
        response_model="gpt-5",
        first_token_at=1795475173.25,
    )


def test_where_nothing_was_seen_nothing_is_known() -> None:
    assert observed_metadata.usage({}) is None
    assert observed_metadata.usage(metadata("router", input=1)) is None
    assert usage() == Usage()


def test_0_is_a_count() -> None:
    assert usage(input=0, output=0) == Usage(input=0, output=0)


@pytest.mark.parametrize(
    "value",
    ["12", True, None, [12], {"a": 12}, -1, 1.5, 2**53, 1e300, math.nan, math.inf, -math.inf, Value()],
)
def test_a_count_that_is_no_whole_number_is_unknown(value: Any) -> None:
    assert usage(input=value, output=3) == Usage(output=3)


def test_the_largest_exact_count_is_one() -> None:
    assert usage(input=2**53 - 1) == Usage(input=2**53 - 1)


@pytest.mark.parametrize("value", ["", "-1", "1.5", "soon", "١٢", " 1", 12, True, None])
def test_a_time_that_is_no_number_of_microseconds_is_unknown(value: Any) -> None:
    assert usage(first_token=value) == Usage()


@pytest.mark.parametrize("digits", ["9" * 400, "9" * 5000])
def test_a_time_beyond_all_bounds_is_unknown(digits: str) -> None:
    assert usage(first_token=digits) == Usage()


def test_long_texts_are_cut_and_other_kinds_are_empty() -> None:
    assert usage(finish="x" * 1000, id=7, model=["m"]) == Usage(finish="x" * 256)


def test_the_api_and_path_that_were_asked_are_read() -> None:
    asked = metadata("router.request", api="openai.chat", path="/v1/chat/completions")
    assert observed_metadata.request(asked) == ("openai.chat", "/v1/chat/completions")
    assert observed_metadata.request({}) == ("", "")
    assert observed_metadata.request(metadata("router.request", api=1)) == ("", "")


values = (
    st.builds(Value, number_value=st.floats())
    | st.builds(Value, string_value=st.text(max_size=30) | st.text("0123456789", max_size=400))
    | st.builds(Value, bool_value=st.booleans())
    | st.just(Value())
)
keys = ("input", "output", "cached", "cache_write", "reasoning", "finish", "id", "model", "first_token")


@given(st.dictionaries(st.sampled_from(keys), values))
def test_whatever_was_left_there_is_read(fields: dict[str, Value]) -> None:
    struct = Struct(fields=fields)
    found = observed_metadata.usage({"router.usage": struct})
    assert found is not None
    for name in ("input", "output", "cached", "cache_write", "reasoning"):
        count = getattr(found, name)
        assert count is None or 0 <= count < 2**53
