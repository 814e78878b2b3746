"""A body that is no chat request gets OpenAI's own 400 or 413; nothing is forwarded."""

from typing import Any

import openai
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

BAD = {
    "invalid JSON": (b'{"model": "auto", "messages": [', None),
    "not an object": (b'["auto"]', None),
    "empty": (b"", None),
    "invalid UTF-8": (b'{"model": "auto", "messages": [{"role": "user", "content": "\xff"}]}', None),
    "invalid UTF-8 in a skipped field": (
        b'{"model": "auto", "messages": [{"role": "user"}], "x": "\xff"}',
        None,
    ),
    "deep nesting": (b'{"model": "auto", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", None),
    "no messages": (b'{"model": "auto"}', "messages"),
    "empty messages": (b'{"model": "auto", "messages": []}', "messages"),
    "messages of the wrong type": (b'{"model": "auto", "messages": "hi"}', "messages"),
    "content of the wrong type": (
        b'{"model": "auto", "messages": [{"role": "user", "content": 5}]}',
        "messages[0].content",
    ),
    "no model": (b'{"messages": [{"role": "user", "content": "hi"}]}', "model"),
    "two models": (b'{"model": "a", "model": "b", "messages": [{"role": "user", "content": "hi"}]}', "model"),
}


@pytest.mark.parametrize(("body", "param"), BAD.values(), ids=BAD.keys())
async def test_bad_input_is_told_in_the_apis_shape_and_not_forwarded(
    world: Any, body: bytes, param: str | None
) -> None:
    answer = await world.post(body)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert world.received() == {}
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["status"], record["error"]) == (400, "bad_request")


async def test_the_client_library_raises_its_own_error(world: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await world.openai.chat.completions.create(model="auto", messages=[])
    assert refused.value.param == "messages"


async def test_a_body_over_the_limit_is_413_as_json(world: Any) -> None:
    answer = await world.post(b'{"model": "auto", "x": "' + b"a" * (16 * 1024 * 1024) + b'"}')
    assert answer.status == 413
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "request_too_large"
    assert world.received() == {}


async def test_a_body_just_under_the_limit_passes(world: Any) -> None:
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "x": "'
    body += b"a" * (16 * 1024 * 1024 - len(body) - 1024) + b'"}'
    assert (await world.post(body)).status == 200
    assert len(world.only_request()[1].body) > 16_000_000
