"""The pool seen through the official client and, where that would smooth things over, raw HTTP."""

import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo.model_pool import Behaviour, FakeModel, Pool, gzipped, rechunk
from extproc.errors import OperatorError

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
WEATHER: list[Any] = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


@pytest.fixture
async def small() -> AsyncIterator[FakeModel]:
    async with Pool({"small": FakeModel("demo-small", key="key-small")}) as pool:
        yield pool["small"]


@pytest.fixture
async def client(small: FakeModel) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="key-small", max_retries=0) as client:
        yield client


async def post(model: FakeModel, body: bytes, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """One request as raw bytes: no client library between the test and the answer."""
    headers = {"authorization": f"Bearer {model.key}", "content-type": "application/json"} | headers
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(f"{model.url}/v1/chat/completions", data=io.BytesIO(body), headers=headers) as answer,
    ):
        return answer.status, await answer.read(), {k.lower(): v for k, v in answer.headers.items()}


def body(**fields: object) -> bytes:
    return json.dumps({"model": "demo-small", "messages": HELLO} | fields).encode()


async def test_a_json_answer_says_who_answered_and_counts_words_as_tokens(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="demo-small", messages=HELLO)
    content = answer.choices[0].message.content
    assert content is not None
    assert content.startswith('[demo-small] You asked: "hello there".')
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == (
        "chat.completion",
        "demo-small",
        "stop",
    )
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint is not None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, len(content.split()))
    assert answer.usage.total_tokens == 2 + len(content.split())


async def test_a_streamed_answer_is_role_content_finish_and_says_the_same(client: openai.AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(model="demo-small", messages=HELLO)
    stream = await client.chat.completions.create(model="demo-small", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_is_streamed_in_a_last_chunk_only_when_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="demo-small", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *others, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens == 2
    assert all(chunk.usage is None and chunk.choices for chunk in others)


async def test_the_event_stream_is_framed_as_openai_frames_it(small: FakeModel) -> None:
    status, stream, headers = await post(small, body(stream=True))
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = stream.split(b"\n\n")
    assert rest == b""
    assert events[-1] == b"data: [DONE]"
    assert {json.loads(event.removeprefix(b"data: "))["object"] for event in events[:-1]} == {
        "chat.completion.chunk"
    }


async def test_max_tokens_cuts_the_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="demo-small", messages=HELLO, max_tokens=3)
    assert answer.choices[0].message.content == "[demo-small] You asked: "
    assert answer.choices[0].finish_reason == "length"


async def test_a_tool_is_called_when_the_prompt_names_it(client: openai.AsyncOpenAI) -> None:
    ask: list[Any] = [{"role": "user", "content": "use get_weather for Oslo"}]
    answer = await client.chat.completions.create(model="demo-small", messages=ask, tools=WEATHER)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls if call.type == "function"] == ["get_weather"]


async def test_a_streamed_tool_call_assembles_to_valid_arguments(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="demo-small", messages=HELLO, tools=WEATHER, tool_choice="required", stream=True
    )
    chunks = [chunk async for chunk in stream]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function is not None
    assert calls[0].function.name == "get_weather"
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == {}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("messages", "tool_choice"),
    [
        (HELLO, "auto"),  # does not name the tool
        ([{"role": "user", "content": "use get_weather"}], "none"),
        ([{"role": "tool", "tool_call_id": "call_1", "content": "get_weather: sunny"}], "auto"),
    ],
)
async def test_tools_that_need_no_call_are_answered_in_words(
    client: openai.AsyncOpenAI, messages: Any, tool_choice: Any
) -> None:
    answer = await client.chat.completions.create(
        model="demo-small", messages=messages, tools=WEATHER, tool_choice=tool_choice
    )
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["auto", "small", "demo-large"])
async def test_a_model_it_does_not_serve_is_not_found(client: openai.AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        await client.chat.completions.create(model=name, messages=HELLO)
    assert error.value.code == "model_not_found"


async def test_another_key_is_refused_before_the_model_is_looked_at(small: FakeModel) -> None:
    async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="other", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as error:
            await client.chat.completions.create(model="auto", messages=HELLO)
    assert error.value.code == "invalid_api_key"
    assert small.journal[-1].key == "other"


@pytest.mark.parametrize("authorization", ["", "Basic a2V5LXNtYWxs", "Bearer"])
async def test_a_missing_key_is_refused(small: FakeModel, authorization: str) -> None:
    status, answer, _ = await post(small, body(), authorization=authorization)
    assert status == 401
    assert json.loads(answer)["error"]["message"] == "You didn't provide an API key."


async def test_without_a_key_of_its_own_it_serves_anyone() -> None:
    async with Pool({"open": FakeModel("demo-small")}) as pool:
        status, _, _ = await post(pool["open"], body(), authorization="")
    assert status == 200


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"model":"demo-small","messages":[{"role":"user","content":"\xff"}]}',
        b"[" * 100_000,
        b'{"model":"demo-small","messages":' + b"[" * 100_000,
        b'{"messages":[]}',
        body(messages=[]),
        body(messages="hello"),
        body(messages=[{"role": "nobody", "content": "hello"}]),
        body(model=7),
        body(stream_options={"include_usage": True}),
    ],
)
async def test_what_the_api_cannot_read_is_a_bad_request(small: FakeModel, bad: bytes) -> None:
    status, answer, _ = await post(small, bad)
    assert status == 400
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert small.journal[-1].body == bad


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/v1/embeddings", 404), ("GET", "/", 404)],
)
async def test_other_urls_are_answered_as_openai_does(
    small: FakeModel, method: str, path: str, status: int
) -> None:
    headers = {"authorization": "Bearer key-small"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, small.url + path, headers=headers) as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_models_lists_its_own_model_alone(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["demo-small"]


async def test_the_journal_keeps_the_request_as_it_came(small: FakeModel) -> None:
    sent = b'{ "model":"demo-small" ,"messages":[{"role":"user","content":"\\u0041"}]}'
    await post(small, sent, **{"X-Test": "yes"})
    received = small.journal[-1]
    assert (received.method, received.path, received.body) == ("POST", "/v1/chat/completions", sent)
    assert (received.model, received.key, received.headers["x-test"]) == ("demo-small", "key-small", "yes")


async def test_a_bounded_journal_keeps_the_latest() -> None:
    async with Pool({"m": FakeModel("demo-small", keep=1)}) as pool:
        await post(pool["m"], body(user="first"))
        await post(pool["m"], body(user="second"))
        assert [json.loads(received.body)["user"] for received in pool["m"].journal] == ["second"]


async def test_a_body_of_several_megabytes_is_taken(small: FakeModel) -> None:
    status, _, _ = await post(small, body(user="x" * 5_000_000))
    assert status == 200


async def test_models_with_one_upstream_name_live_side_by_side() -> None:
    async with Pool({"east": FakeModel("gpt", key="e"), "west": FakeModel("gpt", key="w")}) as pool:
        await post(pool["east"], body(model="gpt"))
        assert (len(pool["east"].journal), len(pool["west"].journal)) == (1, 0)


async def test_a_taken_port_is_an_operator_error_and_nothing_stays_up(small: FakeModel) -> None:
    first = FakeModel("first")
    with pytest.raises(OperatorError, match=f"fake model second cannot listen on {small.url}"):
        async with Pool({"first": first, "second": FakeModel("second", port=small.port)}):
            pytest.fail("the pool started")
    with pytest.raises(aiohttp.ClientConnectionError):
        await post(first, body())


@pytest.mark.parametrize(
    ("status", "error"), [(429, openai.RateLimitError), (500, openai.InternalServerError)]
)
async def test_an_injected_status_comes_with_an_openai_error(
    small: FakeModel, client: openai.AsyncOpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    small.behaviour = Behaviour(status=status)
    with pytest.raises(error) as raised:
        await client.chat.completions.create(model="demo-small", messages=HELLO)
    assert raised.value.status_code == status
    assert raised.value.type is not None


async def test_an_injected_failure_never_hides_a_wrong_model_name(
    small: FakeModel, client: openai.AsyncOpenAI
) -> None:
    small.behaviour = Behaviour(status=503)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="auto", messages=HELLO)


async def test_events_split_across_writes_read_the_same(small: FakeModel, client: openai.AsyncOpenAI) -> None:
    small.behaviour = Behaviour(write_sizes=(1, 7, 2))
    stream = await client.chat.completions.create(model="demo-small", messages=HELLO, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text.startswith("[demo-small] You asked: ")


@pytest.mark.parametrize(("writes", "received"), [(0, 0), (2, 2)])
async def test_a_reset_cuts_the_answer_after_so_many_writes(
    small: FakeModel, writes: int, received: int
) -> None:
    small.behaviour = Behaviour(reset_after_writes=writes, early_headers=True)
    async with (
        aiohttp.ClientSession(headers={"authorization": "Bearer key-small"}) as session,
        session.post(f"{small.url}/v1/chat/completions", data=body(stream=True)) as answer,
    ):
        got = [await answer.content.readuntil(b"\n\n") for _ in range(received)]
        assert all(event.startswith(b"data: {") for event in got)
        with pytest.raises(aiohttp.ClientError):
            await answer.content.readuntil(b"\n\n")


async def test_a_reset_before_anything_was_sent_is_a_lost_connection(small: FakeModel) -> None:
    small.behaviour = Behaviour(reset_after_writes=0)
    with pytest.raises(aiohttp.ClientConnectionError):
        await post(small, body())


async def test_early_headers_arrive_before_a_body_that_never_comes(small: FakeModel) -> None:
    small.behaviour = Behaviour(early_headers=True, delay_before_body_s=3600)
    async with (
        aiohttp.ClientSession(headers={"authorization": "Bearer key-small"}) as session,
        session.post(f"{small.url}/v1/chat/completions", data=body(stream=True)) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(delay_before_headers_s=3600),
        Behaviour(delay_before_body_s=3600),
        Behaviour(early_headers=True, delay_between_writes_s=3600),
    ],
)
async def test_a_delayed_answer_does_not_end_and_does_not_keep_the_pool_from_stopping(
    small: FakeModel, behaviour: Behaviour
) -> None:
    small.behaviour = behaviour
    timeout = aiohttp.ClientTimeout(total=0.05)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        with pytest.raises(TimeoutError):
            async with session.post(
                f"{small.url}/v1/chat/completions",
                data=body(stream=True),
                headers={"authorization": "Bearer key-small"},
            ) as answer:
                await answer.read()


async def test_usage_can_be_omitted_even_when_asked_for(small: FakeModel) -> None:
    small.behaviour = Behaviour(omit_usage=True)
    _, plain, _ = await post(small, body())
    _, stream, _ = await post(small, body(stream=True, stream_options={"include_usage": True}))
    assert "usage" not in json.loads(plain)
    assert b"usage" not in stream


@pytest.mark.parametrize("stream", [False, True])
async def test_gzip_is_used_where_the_request_accepts_it(small: FakeModel, stream: bool) -> None:
    small.behaviour = Behaviour(gzip=True)
    _, compressed, headers = await post(small, body(stream=stream), **{"Accept-Encoding": "br, gzip"})
    _, identity, plain_headers = await post(small, body(stream=stream), **{"Accept-Encoding": "identity"})
    assert headers["content-encoding"] == "gzip"
    assert b"demo-small" in gzip.decompress(compressed)
    assert "content-encoding" not in plain_headers
    assert b"demo-small" in identity


async def test_a_health_check_needs_no_key_and_is_no_request(small: FakeModel) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{small.url}/health") as answer:
        assert answer.status == 200
    assert not small.journal


PIECES = st.lists(st.binary(max_size=20), max_size=8)


@given(PIECES, st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
def test_rechunk_keeps_every_byte_in_writes_of_the_sizes_asked(
    pieces: list[bytes], sizes: tuple[int, ...]
) -> None:
    writes = list(rechunk(pieces, sizes))
    assert b"".join(writes) == b"".join(pieces)
    expected = [sizes[number % len(sizes)] for number in range(len(writes))]
    assert [len(write) for write in writes[:-1]] == expected[:-1]
    assert all(0 < len(write) <= size for write, size in zip(writes, expected, strict=True))


def test_rechunk_without_sizes_keeps_one_write_an_event() -> None:
    assert list(rechunk([b"one", b"two"], ())) == [b"one", b"two"]


@pytest.mark.parametrize("sizes", [(0,), (3, 0), (-1,)])
def test_rechunk_refuses_a_size_that_would_never_end(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        list(rechunk([b"one"], sizes))


@given(PIECES)
def test_gzipped_is_one_gzip_member_of_the_same_bytes(pieces: list[bytes]) -> None:
    assert gzip.decompress(b"".join(gzipped(pieces))) == b"".join(pieces)


def test_each_gzipped_piece_can_be_read_when_it_arrives() -> None:
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    compressed = gzipped([b"first", b"second"])
    assert reader.decompress(next(compressed)) == b"first"
    assert reader.decompress(next(compressed)) == b"second"
