"""What Envoy reads along in answers: usage, first token, end, names; and that it changes nothing."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from extproc.exchanges import Exchange, Usage
from extproc.vocabulary import Api
from tests.envoyconf.conftest import ASK, CHAT, DEADLINE_S, JSON, Handler, Launch, World, launcher

PATHS = {
    "chat": CHAT,
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
pytestmark = pytest.mark.asyncio(loop_scope="module")

PAUSE_S = 0.05
CLOCKS_S = 0.005  # how far two clocks of one machine may be apart: a start by one, a duration by another

# Valid in every API.
BODY = (
    b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"prompt":"hi","input":"hi","max_tokens":99}'
)

OPENAI_USAGE = {
    "prompt_tokens": 1200,
    "completion_tokens": 34,
    "total_tokens": 1234,
    "prompt_tokens_details": {"cached_tokens": 1000, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0},
}
RESPONSES_USAGE = {
    "input_tokens": 1200,
    "input_tokens_details": {"cached_tokens": 1000},
    "output_tokens": 34,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 1234,
}
ANTHROPIC_USAGE = {
    "input_tokens": 1200,
    "cache_creation_input_tokens": 50,
    "cache_read_input_tokens": 1000,
    "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 34,
    "service_tier": "standard",
}
# A tool's schema, and arguments, that say usage as well.
DECOY = {"usage": {"type": "object", "input_tokens": 5, "output_tokens": 6, "cached_tokens": 7}}

CHAT_ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1795475173,
    "model": "gpt-5-2026",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": 'say "usage": {"prompt_tokens": 1, "x": 2}'},
            "finish_reason": "stop",
        }
    ],
    "usage": OPENAI_USAGE,
    "system_fingerprint": "fp_1",
}
TEXT_ANSWER = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1795475173,
    "model": "davinci",
    "choices": [{"text": "hello", "index": 0, "logprobs": None, "finish_reason": "length"}],
    "usage": OPENAI_USAGE,
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1795475173,
    "status": "completed",
    "incomplete_details": None,
    "model": "gpt-5-2026",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "hello", "annotations": []}],
        }
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"properties": DECOY}}],
    "usage": RESPONSES_USAGE,
    "metadata": {"usage": "none", "text": "of a client"},
}
MESSAGE = {
    "model": "claude-sonnet-5",
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"finish_reason": "x", **DECOY}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": ANTHROPIC_USAGE,
}
ANSWERS: dict[str, Any] = {
    "chat": CHAT_ANSWER,
    "completions": TEXT_ANSWER,
    "responses": RESPONSE,
    "messages": MESSAGE,
}
OF_OPENAI = {"input": 1200, "output": 34, "cached": 1000, "reasoning": 20}
USAGES = {
    "chat": Usage(**OF_OPENAI, finish="stop", response_id="chatcmpl-1", response_model="gpt-5-2026"),
    "completions": Usage(**OF_OPENAI, finish="length", response_id="cmpl-1", response_model="davinci"),
    "responses": Usage(**OF_OPENAI, finish="completed", response_id="resp_1", response_model="gpt-5-2026"),
    "messages": Usage(
        input=1200,
        output=34,
        cached=1000,
        cache_write=50,
        finish="tool_use",
        response_id="msg_1",
        response_model="claude-sonnet-5",
    ),
}


def chunk(choices: list[Any], usage: Any = None) -> dict[str, Any]:
    head = {key: CHAT_ANSWER[key] for key in ("id", "created", "model")}
    return {**head, "object": "chat.completion.chunk", "choices": choices, "usage": usage}


def delta(fields: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": fields, "finish_reason": finish}]


def text_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {**TEXT_ANSWER, "choices": [{"text": text, "index": 0, "finish_reason": finish}], "usage": None}


def started(response: dict[str, Any]) -> dict[str, Any]:
    return {**response, "status": "in_progress", "output": [], "usage": None}


# One list an API: the events up to the first token, with it, and after it.
STREAMS: dict[str, list[list[Any]]] = {
    "chat": [
        [chunk(delta({"role": "assistant", "content": "", "tool_calls": []}))],
        [chunk(delta({"content": "hel"})), chunk(delta({"content": "lo"}))],
        [chunk(delta({}, "stop")), chunk([], OPENAI_USAGE), "[DONE]"],
    ],
    "completions": [
        [text_chunk("")],
        [text_chunk("hello")],
        [text_chunk("", "length"), {**TEXT_ANSWER, "choices": []}, "[DONE]"],
    ],
    "responses": [
        [
            {"type": "response.created", "response": started(RESPONSE)},
            {"type": "response.in_progress", "response": started(RESPONSE)},
            {"type": "response.output_item.added", "item": {"type": "message", "id": "msg_1", "content": []}},
            {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
        ],
        [{"type": "response.output_text.delta", "item_id": "msg_1", "delta": "hello"}],
        [{"type": "response.completed", "response": RESPONSE}],
    ],
    "messages": [
        [
            {
                "type": "message_start",
                "message": {
                    **MESSAGE,
                    "content": [],
                    "stop_reason": None,
                    "usage": {**ANTHROPIC_USAGE, "output_tokens": 1},
                },
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
        ],
        [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}],
        [
            {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": json.dumps(DECOY)}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 34}},
            {"type": "message_stop"},
        ],
    ],
}  # fmt: skip


def whole(api: str) -> list[Any]:
    """All events of the API's stream."""
    return [event for part in STREAMS[api] for event in part]


def sse(events: Sequence[Any], newline: bytes = b"\n", indent: bool = False) -> bytes:
    """The events as bytes; a text stands for itself."""
    data = [each if isinstance(each, str) else json.dumps(each) for each in events]
    lines = [line for text in data for line in (b"event: e", b"data: " + text.encode(), b"")]
    return newline.join([*lines, b""])


def answer_by(world: World, handler: Handler) -> None:
    """Whoever is asked: a sidecar that is late on a busy machine makes it the default, and no difference."""
    for name in ("small", "large"):
        world.providers[name].handler = handler


async def write(
    request: web.Request, pieces: Sequence[bytes], kind: str, pause: float, **headers: str
) -> web.StreamResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = web.StreamResponse(headers={"content-type": kind, **named})
    await response.prepare(request)
    for number, piece in enumerate(pieces):
        if number and pause:
            await asyncio.sleep(pause)
        await response.write(piece)
    return response


async def in_step(
    world: World, api: str, pieces: Sequence[bytes]
) -> tuple[Exchange, list[float], list[float]]:
    """A stream whose pieces are sent when the client has read all before: what is told of it, and when
    each piece was sent and read. So no machine is too slow for what must come between the two."""
    ready, sent, read = asyncio.Event(), list[float](), list[float]()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await ready.wait()
            ready.clear()
            await asyncio.sleep(PAUSE_S)
            sent.append(time.time())
            await response.write(piece)
        return response

    answer_by(world, handler)
    url = f"http://127.0.0.1:{world.port}{PATHS[api]}"
    async with world.http.post(url, data=BODY, headers=JSON) as answer:
        for piece in pieces:
            ready.set()
            assert await answer.content.readexactly(len(piece)) == piece
            read.append(time.time())
    return await world.logged(answer.headers["x-request-id"]), sent, read


async def answered(
    world: World,
    api: str,
    *pieces: bytes,
    kind: str = "text/event-stream",
    pause: float = 0.0,
    **headers: str,
) -> Usage | None:
    """What is observed of an answer in these pieces, which must arrive as it is."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await write(request, pieces, kind, pause, **headers)

    answer_by(world, handler)
    answer = await world.ask(BODY, path=PATHS[api])
    assert (answer.status, answer.body) == (200, b"".join(pieces))
    return (await world.logged(answer.headers["x-request-id"])).usage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with launcher(tmp_path_factory.mktemp("world")) as launch:
        yield await launch(speaks={"small": list(Api), "large": list(Api)})


@pytest.fixture
def world(shared: World) -> World:
    shared.forget()
    while not shared.sidecar.exchanges.empty():
        shared.sidecar.exchanges.get_nowait()
    return shared


def without_time(usage: Usage | None) -> Usage:
    assert usage is not None
    return Usage(
        **{name: getattr(usage, name) for name in Usage.__struct_fields__ if name != "first_token_at"}
    )


# --- Plain answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2, "\t\t\t\t"])
@pytest.mark.parametrize("api", PATHS)
async def test_a_plain_answers_usage_end_and_names_are_observed(world: World, api: str, indent: Any) -> None:
    body = json.dumps(ANSWERS[api], indent=indent).encode()
    assert await answered(world, api, body, kind="application/json; charset=utf-8") == USAGES[api]


@pytest.mark.parametrize("api", PATHS)
async def test_a_plain_answer_may_come_byte_by_byte(world: World, api: str) -> None:
    body = json.dumps(ANSWERS[api], indent=1).encode()
    pieces = [bytes([byte]) for byte in body]
    assert await answered(world, api, *pieces, kind="application/json") == USAGES[api]


async def test_keys_may_be_sorted(world: World) -> None:
    body = json.dumps(CHAT_ANSWER, sort_keys=True).encode()
    assert await answered(world, "chat", body, kind="application/json") == USAGES["chat"]


REFUSAL = 'I cannot "help" with that.'
REFUSALS: dict[str, Any] = {
    "chat": {
        **CHAT_ANSWER,
        "choices": [
            {"message": {"role": "assistant", "content": None, "refusal": REFUSAL}, "finish_reason": "stop"}
        ],
    },
    "responses": {
        **RESPONSE,
        "output": [{"type": "message", "content": [{"type": "refusal", "refusal": REFUSAL}]}],
    },
}
# What says refusal as well, and is none.
NO_REFUSALS: dict[str, Any] = {
    "chat": {
        **CHAT_ANSWER,
        "choices": [
            {
                "message": {
                    "content": '{"refusal": "a word in a text"}',
                    "refusal": None,
                    "tool_calls": [{"function": {"arguments": '{"refusal": "yes", "type": "refusal"}'}}],
                },
                "logprobs": {"content": [], "refusal": None},
                "finish_reason": "stop",
            }
        ],
    },
    "responses": {
        **RESPONSE,
        "tools": [{"type": "function", "parameters": {"properties": {"refusal": {"type": "string"}}}}],
        "metadata": {"refusal": "of a client"},
    },
    "messages": {
        **MESSAGE,
        "content": [{"type": "tool_use", "input": {"refusal": "an argument", "type": "refusal"}}],
        "stop_reason": "tool_use",
    },
    "completions": TEXT_ANSWER,
}


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("api", REFUSALS)
async def test_a_refusal_in_the_apis_own_field_is_observed(world: World, api: str, size: int) -> None:
    for indent in (None, 1):
        body = json.dumps(REFUSALS[api], indent=indent).encode()
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        usage = await answered(world, api, *pieces, kind="application/json")
        assert usage is not None
        assert usage.refusal


@pytest.mark.parametrize("api", NO_REFUSALS)
async def test_what_a_client_or_a_tool_calls_refusal_is_none(world: World, api: str) -> None:
    usage = await answered(world, api, json.dumps(NO_REFUSALS[api]).encode(), kind="application/json")
    assert usage is not None
    assert usage.finish
    assert not usage.refusal


@pytest.mark.parametrize("padding", [0, 16_300, 100_000])
async def test_a_refusal_is_observed_wherever_it_stands(world: World, padding: int) -> None:
    body = json.dumps({"padding": "x" * padding, **REFUSALS["chat"]}).encode()
    usage = await answered(world, "chat", body, kind="application/json")
    assert usage is not None
    assert usage.refusal


@pytest.mark.parametrize(
    ("api", "events"),
    [
        ("chat", [chunk(delta({"content": "", "refusal": None})), chunk(delta({"refusal": "I"}))]),
        ("responses", [{"type": "response.refusal.delta", "delta": "I", "output_index": 0}]),
        ("responses", [{"type": "response.refusal.done", "refusal": "I cannot"}]),
    ],
)
async def test_a_refusal_is_observed_in_a_stream_that_breaks_off(
    world: World, api: str, events: list[Any]
) -> None:
    pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    usage = await answered(world, api, *pieces)
    assert usage is not None
    assert (usage.refusal, usage.finish) == (True, "")
    quiet = json.dumps(chunk(delta({"content": "I", "refusal": None}))).encode()
    usage = await answered(world, "chat", b"data: " + quiet + b"\n\n")
    assert usage is not None
    assert not usage.refusal


async def test_a_tool_calls_id_is_not_the_answers(world: World) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": json.dumps(DECOY)}}
    choices = [{"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [call]}}]
    body = json.dumps({**CHAT_ANSWER, "choices": choices}, sort_keys=True).encode()
    usage = await answered(world, "chat", body, kind="application/json")
    assert usage is not None
    assert (usage.response_id, usage.response_model, usage.finish) == ("", "gpt-5-2026", "tool_calls")
    assert (usage.input, usage.cached) == (1200, 1000)


@pytest.mark.parametrize("size", [100_000, 10_000_000])
async def test_long_answers_pass_untouched_with_their_usage_wherever_it_stands(
    world: World, size: int
) -> None:
    long = {**CHAT_ANSWER, "choices": [{"finish_reason": "stop", "message": {"content": "é{" * (size // 7)}}]}
    first = {"usage": OPENAI_USAGE, **long}
    for answer in (long, {**first, "choices": first.pop("choices")}):
        body = json.dumps(answer).encode()
        assert await answered(world, "chat", body, kind="application/json") == USAGES["chat"]


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_answers_are_not_held_back(world: World, kind: str) -> None:
    seen = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        await response.write(b'{"choices":')
        await seen.wait()
        await response.write(b"[]}")
        return response

    answer_by(world, handler)
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    async with asyncio.timeout(DEADLINE_S), world.http.post(url, data=ASK, headers=JSON) as answer:
        assert await answer.content.readexactly(11) == b'{"choices":'
        seen.set()
        assert await answer.read() == b"[]}"


async def test_what_is_not_told_is_unknown_and_not_0(world: World) -> None:
    untold = {key: value for key, value in CHAT_ANSWER.items() if key != "usage"}
    for answer in (untold, {**untold, "usage": None}, {**untold, "usage": {}}):
        usage = await answered(world, "chat", json.dumps(answer).encode(), kind="application/json")
        assert usage == Usage(finish="stop", response_id="chatcmpl-1", response_model="gpt-5-2026")


@pytest.mark.parametrize("padding", [0, 40_000])
async def test_a_tools_arguments_are_not_taken_for_usage_that_is_not_told(world: World, padding: int) -> None:
    content = [*MESSAGE["content"], {"type": "text", "text": "x" * padding}]
    untold = {key: value for key, value in MESSAGE.items() if key != "usage"} | {"content": content}
    usage = await answered(world, "messages", json.dumps(untold).encode(), kind="application/json")
    assert usage is not None
    assert (usage.input, usage.output, usage.cached, usage.finish) == (None, None, None, "tool_use")


@pytest.mark.parametrize(
    ("count", "read"),
    [
        ("0", 0),
        ("999999999999999", 999_999_999_999_999),
        ("9007199254740993", None),
        ("1" * 400, None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ('"12"', None),
        ("true", None),
        ("null", None),
        ("[1]", None),
        ('{"a":1}', None),
    ],
)
async def test_a_count_that_is_no_whole_number_is_unknown(world: World, count: str, read: int | None) -> None:
    body = b'{"usage":{"prompt_tokens":%s,"completion_tokens":3}}' % count.encode()
    assert await answered(world, "chat", body, kind="application/json") == Usage(input=read, output=3)


@pytest.mark.parametrize(
    "headers",
    [{"kind": "text/html"}, {"kind": "application/octet-stream"}, {"content_encoding": "br"}],
)
async def test_what_cannot_be_read_is_unknown(world: World, headers: dict[str, str]) -> None:
    body = json.dumps(CHAT_ANSWER).encode()

    async def handler(request: web.Request) -> web.StreamResponse:
        kind = headers.get("kind", "application/json")
        coding = {key: value for key, value in headers.items() if key != "kind"}
        return await write(request, [body], kind, 0.0, **coding)

    answer_by(world, handler)
    url = f"http://127.0.0.1:{world.port}{CHAT}"
    async with (
        aiohttp.ClientSession(auto_decompress=False) as raw,
        raw.post(url, data=ASK, headers=JSON) as answer,
    ):
        assert await answer.read() == body
    assert (await world.logged(answer.headers["x-request-id"])).usage is None


@pytest.mark.asyncio(loop_scope="function")
async def test_providers_are_asked_not_to_compress(launch: Launch) -> None:
    world = await launch()
    await world.ask(headers=JSON | {"accept-encoding": "gzip, br"})
    await world.sidecar.stop()
    await world.ask(headers=JSON | {"accept-encoding": "gzip, br"})
    await world.ask(path="/v1/files", headers=JSON | {"accept-encoding": "gzip, br"})
    asked = [
        world.providers[name].received[0].headers["accept-encoding"] for name in ("small", "large", "rest")
    ]
    assert asked == ["identity", "identity", "gzip, br"]


# --- Streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", PATHS)
async def test_a_streams_usage_end_and_names_are_observed(world: World, api: str) -> None:
    asked_at = time.time()
    usage = await answered(world, api, *(sse(events) for events in STREAMS[api]))
    assert without_time(usage) == USAGES[api]
    assert usage is not None
    assert usage.first_token_at is not None
    assert asked_at - CLOCKS_S <= usage.first_token_at <= time.time() + CLOCKS_S


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("api", PATHS)
async def test_a_stream_may_be_cut_and_ended_anyhow(
    world: World, api: str, size: int, newline: bytes
) -> None:
    text = b"\xef\xbb\xbf: keep-alive" + newline * 2 + sse(whole(api), newline)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    usage = await answered(world, api, *pieces, kind="Text/Event-Stream; charset=utf-8")
    assert without_time(usage) == USAGES[api]
    assert usage is not None
    assert usage.first_token_at is not None


@pytest.mark.parametrize("api", PATHS)
async def test_the_first_token_is_the_first_and_not_the_first_byte(world: World, api: str) -> None:
    pieces = [b": early\n\n", *(sse(events) for events in STREAMS[api])]
    entry, sent, read = await in_step(world, api, pieces)
    assert entry.usage is not None
    assert entry.usage.first_token_at is not None
    assert entry.first_byte is not None
    assert entry.first_body_byte is not None
    assert entry.duration is not None
    early = entry.started_at + entry.first_body_byte
    assert entry.first_byte <= entry.first_body_byte
    assert sent[0] - CLOCKS_S <= early <= read[0] + CLOCKS_S
    assert sent[2] - CLOCKS_S <= entry.usage.first_token_at <= read[2] + CLOCKS_S
    assert entry.started_at + entry.duration >= sent[3] - CLOCKS_S


async def test_a_head_that_comes_early_is_not_the_body(world: World) -> None:
    entry, sent, _ = await in_step(world, "chat", [sse(whole("chat"))])
    assert entry.first_byte is not None
    assert entry.first_body_byte is not None
    assert entry.first_byte + PAUSE_S - CLOCKS_S <= entry.first_body_byte
    assert entry.started_at + entry.first_body_byte >= sent[0] - CLOCKS_S


async def test_a_stream_without_tokens_has_no_first_token(world: World) -> None:
    events = [*STREAMS["chat"][0], *STREAMS["chat"][2]]
    usage = await answered(world, "chat", sse(events))
    assert usage == USAGES["chat"]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
    ],
)
async def test_tokens_are_of_many_kinds(world: World, fields: dict[str, Any]) -> None:
    usage = await answered(world, "chat", sse([chunk(delta(fields))]))
    assert usage is not None
    assert usage.first_token_at is not None


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_a_stream_that_omits_its_usage_leaves_it_unknown(world: World, api: str) -> None:
    events = [each for each in whole(api) if isinstance(each, str) or not each["usage"]]
    usage = await answered(world, api, sse(events))
    known = USAGES[api]
    expected = Usage(finish=known.finish, response_id=known.response_id, response_model=known.response_model)
    assert without_time(usage) == expected


async def test_usage_may_come_late_after_the_end_and_without_a_last_newline(world: World) -> None:
    early = sse(whole("chat")[:-2])
    late = b"data: [DONE]\n\ndata: " + json.dumps(chunk([], OPENAI_USAGE)).encode()
    assert without_time(await answered(world, "chat", early, late, pause=PAUSE_S)) == USAGES["chat"]


async def test_an_event_of_a_megabyte_is_read(world: World) -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "x" * 1_000_000}]}]
    events = [
        *STREAMS["responses"][0],
        {"type": "response.completed", "response": {**RESPONSE, "output": output}},
    ]
    usage = await answered(world, "responses", sse(events))
    assert usage == USAGES["responses"]


async def test_a_long_schema_that_is_repeated_is_no_token(world: World) -> None:
    schema = {"parameters": {"x": {"description": "y" * 30_000}, "examples": [{"text": "z", "content": "z"}]}}
    event = {"type": "response.created", "response": {**started(RESPONSE), "tools": [schema]}}
    usage = await answered(world, "responses", sse([event]))
    assert usage is not None
    assert usage.first_token_at is None


async def test_an_upstream_that_breaks_off_leaves_what_was_seen(world: World) -> None:
    read = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await write(request, [sse(e) for e in STREAMS["messages"][:2]], "text/event-stream", 0.0)
        await read.wait()  # what is still on its way is lost with a connection that is reset
        assert request.transport is not None
        request.transport.abort()
        return response

    answer_by(world, handler)
    url = f"http://127.0.0.1:{world.port}{PATHS['messages']}"
    async with world.http.post(url, data=BODY, headers=JSON) as answer:
        await answer.content.readuntil(b"hello")
        read.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    entry = await world.logged()
    assert entry.usage is not None
    assert (entry.usage.input, entry.usage.output, entry.usage.finish) == (1200, None, "")
    assert entry.usage.first_token_at is not None


async def test_a_client_that_leaves_leaves_what_was_seen(world: World) -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await write(request, [sse(e) for e in STREAMS["messages"][:2]], "text/event-stream", 0.0)
        await gone.wait()
        return response

    answer_by(world, handler)
    url = f"http://127.0.0.1:{world.port}{PATHS['messages']}"
    async with world.http.post(url, data=BODY, headers=JSON) as answer:
        await answer.content.readuntil(b"hello")
        answer.close()
    entry = await world.logged(answer.headers["x-request-id"])
    gone.set()
    assert entry.flags == ("DC",)
    assert entry.usage is not None
    assert (entry.usage.input, entry.usage.output) == (1200, None)
    assert entry.usage.first_token_at is not None


# --- Whatever a provider may send ---------------------------------------------------------------

MEGABYTE = 2**20
HOSTILE = {
    "braces": b"{",
    "closing": b"}",
    "quotes": b'"',
    "backslashes": b"\\",
    "spaces": b" ",
    "escapes": b'\\"',
    "usage": b'"usage"',
    "open usage": b'"usage":{',
    "usage and spaces": b'"usage"' + b" " * 500,
    "usage of braces": b'"usage":{"a":{',
    "closed usage": b'"usage":{}',
    "counts": b'"usage":{"prompt_tokens":1},',
    "ends": b'"finish_reason":"a',
    "status": b'"object":"response","created_at":1,',
    "models": b'"model":"',
    "content": b'"content":',
    "no refusals": b'"refusals":"I",',
    "commas": b"{,",
    "newlines": b"\n",
    "short lines": b'"usage":{\n',
    "arrays": b"[",
}


@pytest.mark.parametrize("data", [*HOSTILE.values()], ids=[*HOSTILE])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_a_hostile_megabyte_passes_and_does_not_keep_envoy_busy(
    world: World, kind: str, data: bytes
) -> None:
    body = b"data: " + data * (MEGABYTE // len(data))
    idle = await worker_seconds(world, "text/plain", body)
    # One that is read in quadratic time takes minutes; the rest is room for a slow machine.
    assert await worker_seconds(world, kind, body) - idle < 1.0


async def worker_seconds(world: World, kind: str, body: bytes) -> float:
    """CPU time that Envoy takes for an answer of ``body``: the least of three."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"content-type": kind})

    answer_by(world, handler)
    took = []
    for _ in range(3):
        before = world.cpu_seconds()
        assert (await world.ask(BODY)).body == body
        took.append(world.cpu_seconds() - before)
    return min(took)


@pytest.mark.parametrize("size", [1, 100])
async def test_a_long_line_in_many_chunks_does_not_keep_envoy_busy_either(world: World, size: int) -> None:
    line = b'data: "usage":{"prompt_tokens":' * 2000
    pieces = [line[start : start + size] for start in range(0, len(line), size)]
    before = world.cpu_seconds()
    await answered(world, "chat", *pieces)
    assert world.cpu_seconds() - before < 10.0  # with 62,000 chunks, mostly for these


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: null\n\n",
        b"data: 0\n\ndata: true\n\ndata: 1.5\n\n",
        b'data: "x"\n\n',
        b"data: []\n\ndata: {}\n\n",
        b'data: {"usage":\n\n',
        b"data:\n\n\r\r\n:\n",
        b"\x00\xff\xfe" * 1000,
        b"data: " + b"[" * 60_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'"usage": null, "usage": [], "usage": "x", "usage": 3',
        b'{"id":7,"model":["x"],"finish_reason":{"a":1}}',
        b'{"id":"%s","model":"a\\"b"}' % (b"x" * 20_000),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_nothing_is_read_out_of_nonsense_and_envoy_lives(world: World, kind: str, body: bytes) -> None:
    assert await answered(world, "chat", body, kind=kind) in (None, Usage())
    assert (await world.ask()).status == 200
    assert "lua" not in world.log.read_text()


@pytest.mark.asyncio(loop_scope="function")
async def test_the_api_and_the_clients_own_path_are_noted_even_when_nothing_is_decided(
    launch: Launch,
) -> None:
    world = await launch(running=False, speaks={"large": list(Api)}, paths={"large": "/api/v9"})
    for path in PATHS.values():
        await world.ask(BODY, path=f"{path}?key=secret")
    await world.sidecar.start()
    seen = [await world.logged() for _ in PATHS]
    assert [(entry.api, entry.path) for entry in seen] == list(zip(Api, PATHS.values(), strict=True))


async def test_what_a_client_sends_is_not_taken_for_an_observation(world: World) -> None:
    body = BODY.replace(b'"hi"', json.dumps(json.dumps(CHAT_ANSWER)).encode())
    answer = await world.ask(body)
    assert (await world.logged(answer.headers["x-request-id"])).usage is None
