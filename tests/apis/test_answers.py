"""The same answer, in the shapes of four APIs, whole and streamed in any pieces."""

import contextlib
import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from extproc.apis import answers
from extproc.apis.answers import EVENT_LIMIT, AnswerReader
from extproc.apis.model_answer import ANSWER_LIMIT, Finish, ModelAnswer, ToolCall
from extproc.vocabulary import Api

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    Api.OPENAI_CHAT,
    Api.OPENAI_COMPLETIONS,
    Api.OPENAI_RESPONSES,
    Api.ANTHROPIC_MESSAGES,
)
CALL = ToolCall("find", '{"city":"Bern"}')
TEXT = ModelAnswer(text="Bern is it.", finish=Finish.STOP, output_tokens=4)
CALLS = ModelAnswer(tool_calls=(CALL,), finish=Finish.TOOL_CALLS, output_tokens=4)

WHOLE: dict[str, tuple[Api, ModelAnswer, Any]] = {
    "chat": (
        CHAT,
        TEXT,
        {
            "choices": [
                {"index": 0, "message": {"content": "Bern is it."}, "finish_reason": "stop"},
                {"index": 1, "message": {"content": "Or Basel."}, "finish_reason": "length"},
            ],
            "usage": {"completion_tokens": 4},
        },
    ),
    "chat with tools": (
        CHAT,
        CALLS,
        {
            "choices": [
                {
                    "message": {
                        "content": None,
                        "tool_calls": [
                            {
                                "type": "function",
                                "function": {"name": "find", "arguments": CALL.arguments},
                            }
                        ],
                    },
                    "finish_reason": "tool_calls",
                }
            ],
            "usage": {"completion_tokens": 4},
        },
    ),
    "chat with a refusal": (
        CHAT,
        ModelAnswer(refusal="I can't.", finish=Finish.STOP),
        {"choices": [{"message": {"content": None, "refusal": "I can't."}, "finish_reason": "stop"}]},
    ),
    "chat with log-probabilities": (
        CHAT,
        ModelAnswer(text="Bern", finish=Finish.LENGTH, mean_logprob=-0.5),
        {
            "choices": [
                {
                    "message": {"content": "Bern"},
                    "logprobs": {"content": [{"logprob": -0.25}, {"logprob": -0.75}]},
                    "finish_reason": "length",
                }
            ]
        },
    ),
    "completions": (
        COMPLETIONS,
        ModelAnswer(text="Bern", finish=Finish.CONTENT_FILTER, mean_logprob=-0.5),
        {
            "choices": [
                {
                    "text": "Bern",
                    "logprobs": {"token_logprobs": [None, -0.5]},
                    "finish_reason": "content_filter",
                }
            ]
        },
    ),
    "responses": (
        RESPONSES,
        TEXT,
        {
            "status": "completed",
            "error": None,
            "output": [
                {"type": "reasoning", "summary": []},
                {"type": "message", "content": [{"type": "output_text", "text": "Bern is it."}]},
            ],
            "usage": {"output_tokens": 4},
        },
    ),
    "responses with tools": (
        RESPONSES,
        CALLS,
        {
            "status": "completed",
            "output": [{"type": "function_call", "name": "find", "arguments": CALL.arguments}],
            "usage": {"output_tokens": 4},
        },
    ),
    "responses cut off": (
        RESPONSES,
        ModelAnswer(refusal="I", finish=Finish.LENGTH),
        {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "I"}]}],
        },
    ),
    "responses failed": (
        RESPONSES,
        ModelAnswer(failed=True),
        {"status": "failed", "error": {"code": "server_error"}, "output": []},
    ),
    "messages": (
        MESSAGES,
        TEXT,
        {
            "type": "message",
            "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Bern is it."}],
            "stop_reason": "end_turn",
            "usage": {"output_tokens": 4},
        },
    ),
    "messages with tools": (
        MESSAGES,
        CALLS,
        {
            "content": [{"type": "tool_use", "name": "find", "input": {"city": "Bern"}}],
            "stop_reason": "tool_use",
            "usage": {"output_tokens": 4},
        },
    ),
    "messages refused": (
        MESSAGES,
        ModelAnswer(finish=Finish.REFUSAL),
        {"content": [], "stop_reason": "refusal"},
    ),
    "messages failed": (
        MESSAGES,
        ModelAnswer(failed=True),
        {"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}},
    ),
}

STREAMS: dict[str, tuple[Api, ModelAnswer, list[Any]]] = {
    "chat": (
        CHAT,
        TEXT,
        [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"index": 0, "delta": {"content": "Bern "}}]},
            {"choices": [{"index": 1, "delta": {"content": "Basel"}}]},
            {"choices": [{"index": 0, "delta": {"content": "is it."}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"completion_tokens": 4}},
        ],
    ),
    "chat with tools": (
        CHAT,
        CALLS,
        [
            {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "find"}}]}}]},
            *(
                {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}}]}
                for part in ('{"city"', ':"Bern"}')
            ),
            {
                "choices": [{"delta": {}, "finish_reason": "tool_calls"}],
                "usage": {"completion_tokens": 4},
            },
        ],
    ),
    "responses": (
        RESPONSES,
        TEXT,
        [
            {"type": "response.created", "response": {"status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
            {"type": "response.output_text.delta", "output_index": 0, "delta": "Bern "},
            {"type": "response.output_text.delta", "output_index": 0, "delta": "is it."},
            {"type": "response.shape_to_come", "item": "none"},
            {
                "type": "response.completed",
                "response": WHOLE["responses"][2],
            },
        ],
    ),
    "responses with tools": (
        RESPONSES,
        CALLS,
        [
            {
                "type": "response.output_item.added",
                "output_index": 1,
                "item": {"type": "function_call", "name": "find", "arguments": ""},
            },
            *(
                {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": part}
                for part in ('{"city":', '"Bern"}')
            ),
            {"type": "response.completed", "response": WHOLE["responses with tools"][2]},
        ],
    ),
    "messages": (
        MESSAGES,
        TEXT,
        [
            {"type": "message_start", "message": {"usage": {"output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *(
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": part}}
                for part in ("Bern ", "is it.")
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 4},
            },
            {"type": "message_stop"},
        ],
    ),
    "messages with tools": (
        MESSAGES,
        CALLS,
        [
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "name": "find", "input": {}},
            },
            *(
                {
                    "type": "content_block_delta",
                    "index": 1,
                    "delta": {"type": "input_json_delta", "partial_json": part},
                }
                for part in ('{"city":', '"Bern"}')
            ),
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 4},
            },
        ],
    ),
}
NEWLINES = ("\n", "\r\n", "\r")


def stream(events: list[Any], newline: str = "\n") -> bytes:
    """As providers write them: comments between events, and ``[DONE]`` at the end."""
    lines = [": comment", ""]
    for event in events:
        lines += ["event: any", "data: " + json.dumps(event), ""]
    return newline.join([*lines, "data: [DONE]", "", ""]).encode()


def fed(api: Api, data: bytes, cuts: list[int]) -> ModelAnswer:
    reader = AnswerReader(api)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        reader.feed(data[start:end])
    return reader.answer()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_reads_the_same_in_every_api(name: str) -> None:
    api, expected, body = WHOLE[name]
    assert answers.read(api, json.dumps(body, separators=(",", ":")).encode()) == expected


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("newline", NEWLINES)
def test_a_stream_reads_as_the_whole_answer_does(name: str, newline: str) -> None:
    api, expected, events = STREAMS[name]
    assert fed(api, stream(events, newline) + b"\n", []) == expected


@given(st.sampled_from(list(STREAMS)), st.sampled_from(NEWLINES), st.lists(st.integers(0, 5000), max_size=40))
def test_how_a_stream_is_cut_makes_no_difference(name: str, newline: str, cuts: list[int]) -> None:
    api, _, events = STREAMS[name]
    data = stream(events, newline)
    assert fed(api, data, cuts) == fed(api, data, [])


@given(
    st.sampled_from(list(STREAMS)),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=8)), max_size=8),
    st.lists(st.integers(0, 5000), max_size=40),
)
def test_damaged_streams_are_read_without_raising_and_the_same_in_any_pieces(
    name: str, damage: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    api, _, events = STREAMS[name]
    data = stream(events)
    for place, noise in damage:
        place %= len(data)
        data = data[:place] + noise + data[place + len(noise) :]
    assert fed(api, data, cuts) == fed(api, data, list(range(len(data))))


@settings(max_examples=50)
@given(st.sampled_from(list(Api)), st.binary(max_size=200).map(b"{".__add__))
@example(Api.OPENAI_CHAT, b"{")
def test_bytes_that_are_no_json_are_a_failed_answer(api: Api, body: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(body)
        reject()  # `{}` is an answer without a word
    assert answers.read(api, body).failed


@pytest.mark.parametrize("api", Api)
def test_nesting_deeper_than_the_interpreter_goes_is_a_failed_answer(api: Api) -> None:
    deep = b'{"choices":' + b"[" * 100_000
    assert answers.read(api, deep).failed


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_has_only_begun_is_not_complete(name: str) -> None:
    api, expected, events = STREAMS[name]
    begun = fed(api, stream(events)[:-200], [])
    assert not begun.complete
    assert begun.finish is Finish.UNKNOWN
    assert expected.text.startswith(begun.text)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_ends_in_the_middle_has_failed(name: str) -> None:
    api, expected, events = STREAMS[name]
    reader = AnswerReader(api)
    reader.feed(stream(events)[:-200])
    assert not reader.answer().failed
    assert reader.answer(ended=True).failed
    whole = AnswerReader(api)
    whole.feed(stream(events))
    assert whole.answer(ended=True) == expected


def test_the_status_of_the_answer_is_kept() -> None:
    assert answers.read(CHAT, b'{"error": {"message": "Slow down."}}', 429) == ModelAnswer(
        failed=True, status=429
    )
    assert AnswerReader(CHAT, 503).answer().status == 503


def test_an_answer_that_is_too_long_is_kept_in_part() -> None:
    body = {"choices": [{"message": {"content": "x" * (ANSWER_LIMIT + 1)}, "finish_reason": "stop"}]}
    answer = answers.read(CHAT, json.dumps(body).encode())
    assert (len(answer.text), answer.complete) == (ANSWER_LIMIT, False)
    assert answers.read(CHAT, b" " * (EVENT_LIMIT + 1)) == ModelAnswer(complete=False)


def test_lines_and_events_without_end_are_dropped_in_any_pieces() -> None:
    reader = AnswerReader(CHAT)
    reader.feed(b"data: " + b"x" * EVENT_LIMIT)
    reader.feed(b"x" * EVENT_LIMIT + b"\r")
    reader.feed(b"\n\r\n")
    for _ in range(3):
        reader.feed(b"data:" + b"x" * (EVENT_LIMIT // 2) + b"\n")
    reader.feed(b"\n" + stream(STREAMS["chat"][2]))
    assert reader.answer() == TEXT
    assert reader.events == len(STREAMS["chat"][2]) + 1


def test_more_calls_than_any_model_makes_are_not_all_kept() -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}] * 1000
    body = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    answer = answers.read(CHAT, json.dumps(body).encode())
    assert (len(answer.tool_calls), answer.complete) == (128, False)
