"""Lines of Envoy's JSON access log to exchanges. That both logs tell the same, tests/envoyconf holds."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchanges import Envelope, Exchange, Usage
from extproc.wire import access_log_file
from extproc.wire.access_log_file import BadLine

# As Envoy 1.40 wrote it.
LINE: dict[str, Any] = {
    "attempts": 1,
    "cluster": "model-small~1a2b",
    "decision": {
        "api": "openai.chat",
        "began_us": 1795594366382574,
        "candidates": ["code:0.910", "greeting:0.070"],
        "margin": 0.84,
        "model": "small",
        "schema": 1,
        "stream": True,
        "tokens": 16,
    },
    "duration": "0.013259127s",
    "first_body_byte_us": 8386,
    "first_byte_ns": 8290904,
    "flags": "-",
    "kind": "envoy",
    "last_byte_ns": 1_008_441_201,
    "method": "POST",
    "request": {"api": "openai.chat", "path": "/v1/chat/completions"},
    "request_bytes": 60,
    "request_id": "b5f4d8f9-72fb-4ac5-b0c5-2f8f671a0318",
    "response_bytes": 15,
    "start_time": "1795594366.376351000",
    "status": 200,
    "traceparent": None,
    "upstream_address": "127.0.0.1:41941",
    "upstream_host": "127.0.0.1:41941",
    "usage": {"input": 12, "output": 3, "finish": "stop", "model": "m-1"},
}


def exchange(**changes: Any) -> Exchange:
    return access_log_file.exchange(json.dumps({**LINE, **changes}).encode())


def test_every_member_that_is_asked_for_is_in_the_example() -> None:
    assert LINE.keys() == access_log_file.FORMAT.keys()


def test_a_line_becomes_an_exchange() -> None:
    assert exchange() == Exchange(
        request_id="b5f4d8f9-72fb-4ac5-b0c5-2f8f671a0318",
        started_at=1795594366.376351,
        duration=1.008441201,
        first_byte=0.008290904,
        first_body_byte=0.008386,
        status=200,
        flags=(),
        method="POST",
        path="/v1/chat/completions",
        cluster="model-small",
        request_bytes=60,
        response_bytes=15,
        envelope=Envelope(
            api="openai.chat", model="small", began_us=1795594366382574, margin=0.84, tokens=16, stream=True,
            candidates=("code:0.910", "greeting:0.070"),
        ),
        api="openai.chat",
        usage=Usage(input=12, output=3, finish="stop", response_model="m-1"),
        attempts=1,
    )  # fmt: skip


def test_what_envoy_has_no_value_for_is_not_known() -> None:
    told = exchange(
        **dict.fromkeys(
            ("cluster", "decision", "first_body_byte_us", "first_byte_ns", "last_byte_ns", "usage"), None
        ),
        status=0,
        flags="DC",
    )
    assert (told.status, told.flags, told.cluster) == (0, ("DC",), "")
    assert (told.envelope, told.usage, told.first_byte, told.first_body_byte) == (None, None, None, None)
    assert told.duration == 0.013259127


def test_flags_are_in_the_order_of_the_stream() -> None:
    assert exchange(flags="URX,NEW,UF").flags == ("UF", "URX", "NEW")


def test_a_cluster_that_no_request_was_sent_to_is_not_told() -> None:
    assert exchange(upstream_host=None).cluster == ""


def test_the_hop_that_answered_is_told() -> None:
    assert exchange(upstream_address="envoy://hop-large~77/").served_by == "large"


def test_a_method_that_the_stream_has_no_name_for_is_empty() -> None:
    assert exchange(method="BREW").method == ""


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b'{"kind":"exchange","request_id":"r"}',
        json.dumps({**LINE, "request_id": None}).encode(),
        json.dumps({**LINE, "status": "200"}).encode(),
        json.dumps({**LINE, "start_time": "yesterday"}).encode(),
        json.dumps(LINE).encode()[:-20],
        json.dumps(LINE).encode().replace(b"POST", b"\xff"),
    ],
)
def test_what_is_no_line_of_it_says_why(line: bytes) -> None:
    with pytest.raises(BadLine, match=r"\w"):
        access_log_file.exchange(line)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(LINE)), values, max_size=3))
def test_any_line_gives_an_exchange_that_can_be_recorded_or_says_why(changes: dict[str, Any]) -> None:
    with contextlib.suppress(BadLine):
        assert msgspec.json.encode(exchange(**changes))


@given(st.dictionaries(st.sampled_from(Envelope.__struct_fields__), values, max_size=4))
def test_what_others_left_in_the_metadata_does_no_harm(fields: dict[str, Any]) -> None:
    assert isinstance(exchange(decision=fields, usage=fields, request=fields), Exchange)
