"""What a deny rule does to a request of each API, through Envoy."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from extproc.vocabulary import Api
from tests.e2e.clients import PATHS, ask, of_all_apis
from tests.e2e.conftest import World, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

CARD = "my card is 4111 1111 1111 1111"
MESSAGE = "Card numbers may not be sent to a model."


def with_a_password(registry: Any) -> None:
    of_all_apis(registry)
    registry["rules"] += [
        {"name": "no-password", "in": "everything", "when": {"keyword": "swordfish"}, "deny": MESSAGE}
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("denying"), change=with_a_password):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


@pytest.mark.parametrize("api", Api)
async def test_a_denied_request_gets_the_apis_own_content_policy_error(world: World, api: Api) -> None:
    client: Any = anthropic if api is Api.ANTHROPIC_MESSAGES else openai
    with pytest.raises(client.BadRequestError) as refused:
        await ask(world, api, CARD)
    error: Any = refused.value.response.json()["error"]
    if api is Api.ANTHROPIC_MESSAGES:
        assert error == {"type": "invalid_request_error", "message": MESSAGE}
    else:
        assert error == {
            "message": MESSAGE,
            "type": "invalid_request_error",
            "param": None,
            "code": "content_policy_violation",
        }
    (record,) = await world.records([refused.value.response.headers["x-request-id"]])
    assert (record["status"], record["error"], record["rule"], record["refused"]) == (
        400,
        "denied",
        "no-card-numbers",
        True,
    )
    assert world.received() == {}


# A rule that reads the last text finds nothing, and a provider may keep the first.
TWO_TEXTS = {
    Api.OPENAI_CHAT: b'{"model":"auto","messages":[{"role":"user","content":"4111 1111 1111 1111","con\\u0074ent":"x"}]}',
    Api.OPENAI_COMPLETIONS: b'{"model":"auto","prompt":"4111 1111 1111 1111","prompt":"x"}',
    Api.OPENAI_RESPONSES: b'{"model":"auto","input":[{"role":"user","content":[{"type":"input_text",'
    b'"text":"4111 1111 1111 1111","text":"x"}]}]}',
    Api.ANTHROPIC_MESSAGES: b'{"model":"auto","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text",'
    b'"text":"4111 1111 1111 1111","text":"x"}]}]}',
}


@pytest.mark.parametrize("api", Api)
async def test_two_texts_under_one_key_are_not_forwarded(world: World, api: Api) -> None:
    answer = await world.post(TWO_TEXTS[api], PATHS[api], anthropic_version="2023-06-01")
    assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "more than once" in answer.json()["error"]["message"]
    assert world.received() == {}


CHATS = [Api.OPENAI_CHAT, Api.OPENAI_RESPONSES, Api.ANTHROPIC_MESSAGES]
FORMS = {
    "zero-width characters": "4111\u200b1111\u20601111\ufeff1111",
    "full-width digits": "４１１１ １１１１ １１１１ １１１１",
    "mathematical digits": "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏",
    "Arabic digits": "٤١١١ ١١١١ ١١١١ ١١١١",
    "other dashes": "4111–1111‑1111−1111",
}


def texts(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


def request(api: Api, turns: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    if api is Api.OPENAI_RESPONSES:
        return {"model": "auto", "input": turns, **more}
    return {"model": "auto", "max_tokens": 9, "messages": turns, **more}


async def refused(world: World, api: Api, body: dict[str, Any]) -> str:
    """The rule that refused it; empty when a model was asked."""
    answer = await world.post(body, PATHS[api], anthropic_version="2023-06-01")
    assert (answer.status == 400) is (world.received() == {}), answer
    (record,) = await world.records([answer.headers["x-request-id"]])
    return str(record["rule"]) if record["error"] == "denied" else ""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("api", Api)
async def test_no_form_of_a_number_evades_a_rule(world: World, api: Api, form: str) -> None:
    if api is Api.OPENAI_COMPLETIONS:
        body = {"model": "auto", "prompt": FORMS[form]}
    else:
        body = request(api, [{"role": "user", "content": FORMS[form]}])
    assert await refused(world, api, body) == "no-card-numbers"


@pytest.mark.parametrize("api", CHATS)
async def test_a_number_split_over_parts_or_said_earlier_is_refused(world: World, api: Api) -> None:
    split = [{"role": "user", "content": texts("pay with 4111 11", "11 1111 1111 please")}]
    earlier = [
        {"role": "user", "content": CARD},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "Then pay."},
    ]
    assert await refused(world, api, request(api, split)) == "no-card-numbers"
    assert await refused(world, api, request(api, earlier)) == "no-card-numbers"


SECRET = "it is \u0455wordfi\u200bsh"  # with a Cyrillic letter
HIDDEN: dict[str, tuple[Api, list[dict[str, Any]], dict[str, Any]]] = {
    "chat: a system prompt": (Api.OPENAI_CHAT, [{"role": "system", "content": SECRET}], {}),
    "chat: an answer": (Api.OPENAI_CHAT, [{"role": "assistant", "content": SECRET}], {}),
    "chat: a tool's result": (
        Api.OPENAI_CHAT,
        [{"role": "tool", "tool_call_id": "a", "content": SECRET}],
        {},
    ),
    "chat: a tool's description": (
        Api.OPENAI_CHAT,
        [],
        {"tools": [{"type": "function", "function": {"name": "f", "description": SECRET}}]},
    ),
    "chat: a tool's call": (
        Api.OPENAI_CHAT,
        [
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "\\u0073wordfish"}'}}],
            }
        ],
        {},
    ),
    "responses: instructions": (Api.OPENAI_RESPONSES, [], {"instructions": SECRET}),
    "responses: a tool's result": (
        Api.OPENAI_RESPONSES,
        [{"type": "function_call_output", "call_id": "a", "output": SECRET}],
        {},
    ),
    "messages: a system prompt": (Api.ANTHROPIC_MESSAGES, [], {"system": texts(SECRET)}),
    "messages: a document": (
        Api.ANTHROPIC_MESSAGES,
        [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": SECRET}}]}],
        {},
    ),
    "messages: a tool's result": (
        Api.ANTHROPIC_MESSAGES,
        [
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": texts(SECRET)}],
            }
        ],
        {},
    ),
    "messages: a tool's call": (
        Api.ANTHROPIC_MESSAGES,
        [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {"a": [SECRET]}}]}],
        {},
    ),
}


@pytest.mark.parametrize("place", HIDDEN)
async def test_a_rule_that_reads_everything_finds_a_text_wherever_it_stands(world: World, place: str) -> None:
    api, turns, more = HIDDEN[place]
    hello = {"role": "user", "content": "Good morning!"}
    assert await refused(world, api, request(api, [hello, *turns, hello], **more)) == "no-password"


@pytest.mark.parametrize("api", CHATS)
async def test_a_rule_for_the_users_turns_leaves_what_others_say(world: World, api: Api) -> None:
    turns = [
        {"role": "user", "content": "Good morning!"},
        {"role": "assistant", "content": CARD},
        {"role": "user", "content": "Good morning!"},
    ]
    assert await refused(world, api, request(api, turns)) == ""
