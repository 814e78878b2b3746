"""Which conversation a request is of, and that nothing but a hash tells it."""

import json
import re
from hashlib import blake2b
from typing import Any

import pytest

from extproc import apis
from extproc.apis.conversation import conversation_id
from extproc.vocabulary import Api, RequestHead

BODIES: dict[Api, dict[str, Any]] = {
    Api.OPENAI_CHAT: {"model": "auto", "messages": [{"role": "user", "content": "hi"}]},
    Api.OPENAI_RESPONSES: {"model": "auto", "input": "hi"},
    Api.OPENAI_COMPLETIONS: {"model": "auto", "prompt": "hi"},
    Api.ANTHROPIC_MESSAGES: {
        "model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}],
    },
}  # fmt: skip


def told(api: Api, header: str = "", headers: dict[str, str] | None = None, **fields: Any) -> str:
    request = apis.parse(api, json.dumps(BODIES[api] | fields).encode())
    return conversation_id(request, RequestHead("POST", "/", headers or {}), header)


def hashed(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        (Api.OPENAI_CHAT, {"metadata": {"conversation_id": "c", "session_id": "s"}, "prompt_cache_key": "k"}),
        (Api.OPENAI_CHAT, {"metadata": {"session_id": "c"}, "prompt_cache_key": "k"}),
        (Api.OPENAI_CHAT, {"metadata": {"other": "s"}, "prompt_cache_key": "c"}),
        (Api.OPENAI_RESPONSES, {"conversation": "c", "prompt_cache_key": "k"}),
        (Api.OPENAI_RESPONSES, {"conversation": {"id": "c"}, "metadata": {"session_id": "s"}}),
        (Api.OPENAI_RESPONSES, {"metadata": {"session_id": "c"}, "prompt_cache_key": "k"}),
        (Api.OPENAI_RESPONSES, {"prompt_cache_key": "c", "previous_response_id": "r"}),
        (Api.OPENAI_RESPONSES, {"previous_response_id": "c"}),
    ],
)
def test_the_most_telling_field_of_the_api_is_hashed(api: Api, fields: dict[str, Any]) -> None:
    assert told(api, **fields) == hashed("c")


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        *((api, {}) for api in Api),
        (Api.OPENAI_CHAT, {"user": "u", "safety_identifier": "u", "conversation": "c"}),
        (Api.OPENAI_RESPONSES, {"user": "u", "safety_identifier": "u", "conversation": None}),
        (Api.ANTHROPIC_MESSAGES, {"metadata": {"user_id": "u"}}),
        (Api.OPENAI_CHAT, {"metadata": {"session_id": ""}, "prompt_cache_key": ""}),
    ],
)
def test_what_names_a_user_or_nothing_is_no_conversation(api: Api, fields: dict[str, Any]) -> None:
    assert told(api, **fields) == ""


@pytest.mark.parametrize(
    "odd", [7, True, None, [], ["c"], {}, {"id": 7}, {"session_id": [1]}, {"id": {"id": "c"}}]
)
def test_what_is_no_text_is_not_there_and_refuses_nobody(odd: object) -> None:
    fields = {"metadata": odd, "prompt_cache_key": odd}
    assert told(Api.OPENAI_CHAT, **fields) == ""
    assert told(Api.OPENAI_RESPONSES, conversation=odd, **fields) == ""


def test_the_header_of_the_operators_proxy_goes_before_what_the_client_says() -> None:
    headers, fields = {"x-chat": "c"}, {"prompt_cache_key": "k"}
    assert told(Api.OPENAI_CHAT, "x-chat", headers, **fields) == hashed("c")
    assert told(Api.OPENAI_CHAT, "x-chat", {"x-chat": ""}, **fields) == hashed("k")
    assert told(Api.OPENAI_CHAT, "", headers, **fields) == hashed("k")


def test_nothing_of_the_text_is_in_its_hash() -> None:
    assert re.fullmatch("[0-9a-f]{32}", told(Api.OPENAI_CHAT, prompt_cache_key="alice@example.com" * 1000))
    assert told(Api.OPENAI_CHAT, prompt_cache_key="a") != told(Api.OPENAI_CHAT, prompt_cache_key="b")
