"""What clients may name is listed in the shape that their own client reads; what is not there is a 404."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from extproc.registry.model_settings import Model, Passthrough
from extproc.registry.schema import Registry, RouteSettings
from extproc.vocabulary import Api
from tests.envoyconf.conftest import CHAT, JSON, World, decided
from tests.envoyconf.serving import EVERY, running, serving

ODD = "org/model-1.5:free@eu_west"
VERSION = {"anthropic-version": "2023-06-01"}


@asynccontextmanager
async def mixed(directory: Path, *, more: int = 0, passthrough: bool = True) -> AsyncIterator[World]:
    """Models of both kinds, one of which may not be named."""
    async with running("any") as providers:
        url = f"http://127.0.0.1:{providers['any'].port}"
        models = {
            "gpt": Model(base_url=url),
            "claude": Model(base_url=url, provider="anthropic"),
            ODD: Model(base_url=url, apis=list(Api), provider="vllm"),
            "hidden": Model(base_url=url, pin=False),
            **{f"more-{number}": Model(base_url=url) for number in range(more)},
        }
        rest = Passthrough(base_url=url, paths=["DELETE /v1/models/*"]) if passthrough else None
        registry = Registry(models=models, default=dict.fromkeys(Api, ODD), passthrough=rest)
        async with serving(directory, registry, providers) as world:
            yield world


def of_openai(world: World) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{world.port}/v1", api_key="any", max_retries=0)


def of_anthropic(world: World) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{world.port}", api_key="any", max_retries=0)


async def test_openais_client_lists_and_retrieves_what_it_may_name(tmp_path: Path) -> None:
    async with mixed(tmp_path) as world, of_openai(world) as client:
        listed = [model async for model in client.models.list()]
        assert [(model.id, model.owned_by) for model in listed] == [
            ("auto", "router"),
            ("gpt", "openai"),
            (ODD, "vllm"),
        ]
        for model in listed:
            assert await client.models.retrieve(model.id) == model
        for absent in ("hidden", "claude", "nothing"):
            with pytest.raises(openai.NotFoundError) as refused:
                await client.models.retrieve(absent)
            assert refused.value.code == "model_not_found"
        assert not world.providers["any"].received
        assert world.sidecar.asked.empty()


async def test_anthropics_client_lists_and_retrieves_what_it_may_name(tmp_path: Path) -> None:
    async with mixed(tmp_path) as world, of_anthropic(world) as client:
        listed = [model async for model in client.models.list(limit=1)]
        assert [model.id for model in listed] == ["auto", "claude", ODD]
        assert {model.type for model in listed} == {"model"}
        for model in listed:
            assert await client.models.retrieve(model.id) == model
        for absent in ("hidden", "gpt"):
            with pytest.raises(anthropic.NotFoundError) as refused:
                await client.models.retrieve(absent)
            assert refused.value.body == {
                "type": "error",
                "error": {"type": "not_found_error", "message": "There is no such model."},
            }


async def test_a_long_list_is_given_whole(tmp_path: Path) -> None:
    """Envoy refuses direct answers beyond 4 KiB unless it is told."""
    async with mixed(tmp_path, more=60) as world, of_openai(world) as client:
        assert len([model async for model in client.models.list()]) == 63


@pytest.mark.parametrize("query", ["", "?limit=20", "?after_id=claude&limit=1"])
async def test_a_query_does_not_matter(tmp_path: Path, query: str) -> None:
    async with mixed(tmp_path) as world:
        answer = await world.ask(None, path=f"/v1/models{query}", method="GET", headers=VERSION)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["has_more"] is False


async def test_only_reading_is_answered(tmp_path: Path) -> None:
    async with mixed(tmp_path) as world:
        assert (await world.ask(path="/v1/models/gpt", method="DELETE")).by == "any"


@pytest.mark.parametrize("sidecar_alive", [True, False])
@pytest.mark.parametrize(
    ("speaks", "spoken", "silent"),
    [
        ([Api.OPENAI_CHAT], CHAT, "/v1/messages"),
        ([Api.OPENAI_CHAT], CHAT, "/v1/responses"),
        ([Api.ANTHROPIC_MESSAGES], "/v1/messages", CHAT),
        ([Api.ANTHROPIC_MESSAGES], "/v1/messages", "/v1/completions"),
    ],
)
async def test_an_api_that_no_model_speaks_is_a_404_in_its_own_shape(
    tmp_path: Path, speaks: list[Api], spoken: str, silent: str, sidecar_alive: bool
) -> None:
    async with running("only", "rest") as providers:
        only, rest = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={"only": Model(base_url=only, apis=speaks)},
            default="only",
            passthrough=Passthrough(base_url=rest),
        )
        async with serving(tmp_path, registry, providers, sidecar_alive=sidecar_alive) as world:
            refused = await world.ask(EVERY, path=silent)
            assert refused.status == 404
            error = refused.json()["error"]
            if silent == "/v1/messages":
                assert (refused.json()["type"], error["type"]) == ("error", "not_found_error")
            else:
                assert (error["type"], error["param"]) == ("invalid_request_error", None)
            assert not [request for p in providers.values() for request in p.received]
            assert (await world.ask(EVERY, path=spoken)).by == "only"


@pytest.mark.parametrize("sidecar_alive", [True, False])
async def test_each_api_has_its_own_default_which_speaks_it(tmp_path: Path, sidecar_alive: bool) -> None:
    async with running("gpt", "claude") as providers:
        gpt, claude = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={"gpt": Model(base_url=gpt), "claude": Model(base_url=claude, provider="anthropic")},
            default={
                "openai.chat": "gpt",
                "openai.completions": "gpt",
                "openai.responses": "gpt",
                "anthropic.messages": "claude",
            },
        )
        async with serving(tmp_path, registry, providers, sidecar_alive=sidecar_alive) as world:
            # A decision for a cluster that this Envoy does not hold is as good as none.
            world.sidecar.decision = decided("of-yesterday")
            asked = {CHAT: "gpt", "/v1/messages": "claude", "/v1/responses": "gpt", "/v1/completions": "gpt"}
            for path, expected in asked.items():
                assert (await world.ask(EVERY, path=path)).by == expected


@pytest.mark.parametrize(
    "policy", [{}, {"timeout_s": 9.0}, {"fallback": "gpt"}], ids=["plain", "policy", "fallback"]
)
async def test_not_even_a_wrong_decision_sends_messages_to_a_model_that_does_not_speak_them(
    tmp_path: Path, policy: dict[str, Any]
) -> None:
    async with running("gpt", "claude") as providers:
        gpt, claude = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={
                "gpt": Model(base_url=gpt, apis=[Api.OPENAI_CHAT]),
                "claude": Model(base_url=claude, provider="anthropic", name="claude-1"),
            },
            default={"openai.chat": "gpt", "anthropic.messages": "claude"},
            routes={"greeting": RouteSettings(candidates=["gpt"], examples=["hi"], **policy)},
        )
        async with serving(tmp_path, registry, providers) as world:
            world.sidecar.decision = decided("gpt", fallback="fallback" in policy)
            assert (await world.ask(EVERY, path="/v1/messages?beta=true")).by == "claude"
            assert b'"claude-1"' in world.only_request()[1].body
            world.forget()
            assert (await world.ask(EVERY)).by == "gpt"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/", "/v1/messages/count_tokens"])
async def test_without_a_passthrough_upstream_all_else_is_a_404(tmp_path: Path, path: str) -> None:
    async with mixed(tmp_path, passthrough=False) as world:
        assert (await world.ask(path=path)).json()["error"]["type"] == "invalid_request_error"
        of_anthropics = await world.ask(path=path, headers=JSON | VERSION)
        assert (of_anthropics.status, of_anthropics.json()["type"]) == (404, "error")
        assert not world.providers["any"].received
