"""What another model is asked, and what its answer says that it cost."""

import json
from typing import Any

import pytest

from extproc.gate.second_answer import asked_of, usage
from extproc.vocabulary import Api

CHAT, MESSAGES = Api.OPENAI_CHAT, Api.ANTHROPIC_MESSAGES


def test_the_request_is_the_clients_but_for_the_name_and_the_stream() -> None:
    body = b'{"model":"auto","n":3,"stream":true,"stream_options":{},"big":9007199254740993,"e":1E400}'
    assert asked_of('a"b', body) == b'{"model":"a\\"b","stream":false,"big":9007199254740993,"e":1E400}'


def test_a_temperature_replaces_the_clients() -> None:
    assert asked_of("m", b'{"temperature":0}', 0.7) == b'{"temperature":0.7,"model":"m","stream":false}'


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\x1f\x8b\x00", b'{"a":"\xff"}x'])
def test_what_is_no_json_object_cannot_be_asked(body: bytes) -> None:
    assert asked_of("m", body) is None


@pytest.mark.parametrize(
    ("api", "told", "counts"),
    [
        (CHAT, {"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        (CHAT, {"prompt_tokens": 0}, (0, None)),
        (Api.OPENAI_RESPONSES, {"input_tokens": 7, "output_tokens": 3}, (7, 3)),
        (MESSAGES, {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 100}, (107, 3)),
        (CHAT, {"prompt_tokens": -1, "completion_tokens": True}, (None, None)),
        (CHAT, {"prompt_tokens": 1.5}, (None, None)),
        (CHAT, None, (None, None)),
    ],
)
def test_usage_as_the_answer_tells_it(api: Api, told: Any, counts: tuple[Any, Any]) -> None:
    assert usage(api, json.dumps({"usage": told}).encode()) == counts


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff"])
def test_an_answer_that_tells_none_is_unknown(body: bytes) -> None:
    assert usage(CHAT, body) == (None, None)
