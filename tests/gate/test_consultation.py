"""What another model is asked, and what its response says."""

import json
from typing import Any

import pytest

from extproc.gate.consultation import (
    VERIFIER_PROMPT,
    second_request,
    usage,
    verifier_request,
    verifier_score,
)
from extproc.vocabulary import Api

CHAT, MESSAGES = Api.OPENAI_CHAT, Api.ANTHROPIC_MESSAGES


def test_the_request_is_the_clients_but_for_the_name_and_the_stream() -> None:
    body = b'{"model":"auto","n":3,"stream":true,"stream_options":{},"big":9007199254740993,"e":1E400}'
    assert second_request('a"b', body) == b'{"model":"a\\"b","stream":false,"big":9007199254740993,"e":1E400}'


def test_a_temperature_replaces_the_clients() -> None:
    assert second_request("m", b'{"temperature":0}', 0.7) == b'{"temperature":0.7,"model":"m","stream":false}'


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\x1f\x8b\x00", b'{"a":"\xff"}x'])
def test_what_is_no_json_object_cannot_be_asked(body: bytes) -> None:
    assert second_request("m", body) is None


@pytest.mark.parametrize(
    ("api", "reported", "counts"),
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
def test_usage_as_the_response_reports_it(api: Api, reported: Any, counts: tuple[Any, Any]) -> None:
    assert usage(api, json.dumps({"usage": reported}).encode()) == counts


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff"])
def test_usage_that_is_not_reported_is_unknown(body: bytes) -> None:
    assert usage(CHAT, body) == (None, None)


def test_question_and_answer_are_shown_to_it() -> None:
    body = json.loads(verifier_request("judge-9b", "Where?", "In Bern."))
    assert (body["model"], body["stream"]) == ("judge-9b", False)
    instruction, shown = body["messages"]
    assert instruction == {"role": "system", "content": VERIFIER_PROMPT}
    assert shown == {"role": "user", "content": "QUESTION:\nWhere?\n\nANSWER:\nIn Bern."}


def test_an_operators_own_words_replace_ours() -> None:
    assert json.loads(verifier_request("m", "q", "a", "Be strict."))["messages"][0]["content"] == "Be strict."


def test_of_a_long_answer_it_sees_beginning_and_end() -> None:
    shown = json.loads(verifier_request("m", "q", "a" * 50_000 + "the end"))["messages"][1]["content"]
    assert len(shown) < 17_000
    assert shown.endswith("the end")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("0.85", 0.85), ("1", 1.0), ("Score: 0.", 0.0), ("I see 3 mistakes, so 0.1", 0.1), ("{\"score\": 0.5}", 0.5),
        ("9/10", None), ("-0.5", None), ("85%", None), ("good", None), ("", None),
    ],
)  # fmt: skip
def test_its_word_is_the_last_number_it_says(word: str, found: float | None) -> None:
    assert verifier_score(word) == found
