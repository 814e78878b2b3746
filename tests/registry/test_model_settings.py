"""Where a model is, what it speaks and how it wants its key, from what the registry says of it."""

import pytest

from extproc.registry.model_settings import Endpoint, KeyHeader, Model
from extproc.vocabulary import Api

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    Api.OPENAI_CHAT,
    Api.OPENAI_COMPLETIONS,
    Api.OPENAI_RESPONSES,
    Api.ANTHROPIC_MESSAGES,
)
BEARER = KeyHeader("authorization", "Bearer ")


@pytest.mark.parametrize(
    ("base_url", "address", "path"),
    [
        ("http://10.0.0.1", "10.0.0.1:80", "/v1"),
        ("http://10.0.0.1:8000/", "10.0.0.1:8000", "/v1"),
        ("https://api.example.com", "api.example.com:443", "/v1"),
        ("https://API.example.com:8443/v1/", "api.example.com:8443", "/v1"),
        ("https://api.example.com/openai/v1", "api.example.com:443", "/openai/v1"),
        ("https://api.example.com/openai/v1/", "api.example.com:443", "/openai/v1"),
        ("http://[::1]", "[::1]:80", "/v1"),
        ("https://[2001:DB8::1]:8443/x", "[2001:db8::1]:8443", "/x"),
    ],
)
def test_a_base_url_says_where_to_connect_and_what_stands_for_v1(
    base_url: str, address: str, path: str
) -> None:
    model = Model(base_url=base_url)
    assert dict(model.addresses) == {address: 1}
    assert model.path == path


def test_endpoints_stand_in_place_of_the_base_urls_host() -> None:
    endpoints = [Endpoint(address="10.0.0.1:8000", weight=3), Endpoint(address="pool.test:8001")]
    model = Model(base_url="https://api.example.com/x", endpoints=endpoints)
    assert dict(model.addresses) == {"10.0.0.1:8000": 3, "pool.test:8001": 1}
    assert model.url.netloc == "api.example.com"
    assert model.path == "/x"


@pytest.mark.parametrize(
    ("provider", "speaks", "key"),
    [
        ("openai", (CHAT, COMPLETIONS, RESPONSES), BEARER),
        ("anthropic", (MESSAGES,), KeyHeader("x-api-key")),
        ("azure.ai.openai", (CHAT, RESPONSES), KeyHeader("api-key")),
        ("vllm", (CHAT,), BEARER),
    ],
)
def test_a_provider_is_known_by_its_name(provider: str, speaks: tuple[Api, ...], key: KeyHeader) -> None:
    model = Model(base_url="http://127.0.0.1:1", provider=provider)
    assert model.speaks == speaks
    assert model.key_header == key


def test_what_the_registry_says_a_model_speaks_counts_and_its_key_stays_where_it_was() -> None:
    model = Model(base_url="http://127.0.0.1:1", provider="anthropic", apis=[CHAT, MESSAGES])
    assert model.speaks == (CHAT, MESSAGES)
    assert model.key_header == KeyHeader("x-api-key")
