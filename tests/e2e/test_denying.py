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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("denying"), change=of_all_apis):
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
