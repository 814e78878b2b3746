"""A page in a browser may call the API where the registry names its origin, and read errors as well."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from extproc.errors import Denied
from extproc.registry.model_settings import Model, Passthrough
from extproc.registry.schema import Cors, EnvoySettings, Registry
from tests.envoyconf.conftest import ASK, CHAT, JSON, Answer, World
from tests.envoyconf.serving import running, serving
from tests.registry.test_registry_loading import mistake

PAGE, OTHER = "https://app.example.com", "https://elsewhere.example.com"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running("only", "rest") as providers:
        only, rest = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={"only": Model(base_url=only)},
            default="only",
            passthrough=Passthrough(base_url=rest, paths=["POST /v1/embeddings"]),
            envoy=EnvoySettings(
                max_body_bytes=1024, cors=Cors(origins=[PAGE, "http://localhost:3000"], max_age_s=60)
            ),
        )
        async with serving(tmp_path_factory.mktemp("cors"), registry, providers) as world:
            yield world


async def preflight(world: World, path: str, origin: str = PAGE) -> Answer:
    """What a browser sends before a page may send a request with a key, as the fetch standard has it."""
    world.forget()
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    return await world.ask(None, path=path, method="OPTIONS", headers=headers)


def allows(answer: Answer, origin: str = PAGE) -> bool:
    """Whether a browser lets a page of ``origin`` read ``answer``."""
    return answer.headers.get("access-control-allow-origin") == origin


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
@pytest.mark.parametrize(
    "path", [CHAT, "/v1/messages", "/v1/models", "/v1/embeddings", "/v1/router/feedback", "/nowhere"]
)
async def test_envoy_answers_a_preflight_request_itself(world: World, path: str, origin: str) -> None:
    answer = await preflight(world, path, origin)
    assert answer.status == 200
    assert allows(answer, origin)
    assert "POST" in answer.headers["access-control-allow-methods"].split(", ")
    # A star is every header but authorization.
    assert set(answer.headers["access-control-allow-headers"].split(", ")) == {"authorization", "*"}
    assert answer.headers["access-control-max-age"] == "60"
    assert not [request for provider in world.providers.values() for request in provider.received]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("origin", [OTHER, f"{PAGE}.evil.example", "null", PAGE.upper()])
async def test_another_origin_is_not_allowed(world: World, origin: str) -> None:
    for answer in (
        await preflight(world, CHAT, origin),
        await preflight(world, "/v1/embeddings", origin),
        await world.ask(headers=JSON | {"origin": origin}),
    ):
        assert "access-control-allow-origin" not in answer.headers
    assert len(world.providers["rest"].received) == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_reads_answers_and_their_headers(world: World) -> None:
    answer = await world.ask(headers=JSON | {"origin": PAGE})
    assert (answer.status, answer.by) == (200, "only")
    assert allows(answer)
    assert answer.headers["access-control-expose-headers"] == "*"
    assert answer.headers["x-router-model"] == "only"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_reads_the_list_of_models(world: World) -> None:
    asked = {"path": "/v1/models", "method": "GET"}
    assert allows(await world.ask(None, headers={"origin": PAGE}, **asked))
    for headers in ({"origin": OTHER}, {}):
        answer = await world.ask(None, headers=headers, **asked)
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_reads_errors_too(world: World) -> None:
    here: Mapping[str, str] = JSON | {"origin": PAGE}
    seen = {"too large": await world.ask(b" " * 100_000, headers=here)}
    seen["no such path"] = await world.ask(path="/nowhere", headers=here)
    seen["no such model"] = await world.ask(None, path="/v1/models/nobody", method="GET", headers=here)
    seen["misspelt"] = await world.ask(path=f"{CHAT}/", headers=here)
    seen["no JSON"] = await world.ask(b"{", headers=here)
    world.sidecar.refusal = Denied("No.", rule="r")
    seen["denied"] = await world.ask(headers=here)
    world.sidecar.refusal = None
    await world.providers["only"].stop()
    seen["no provider"] = await world.ask(headers=here)
    await world.providers["only"].start()
    assert {name: answer.status // 100 for name, answer in seen.items()} == {
        "too large": 4,
        "no such path": 4,
        "no such model": 4,
        "misspelt": 4,
        "no JSON": 4,
        "denied": 4,
        "no provider": 5,
    }
    assert {name for name, answer in seen.items() if not allows(answer)} == set()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_a_provider_sees_no_origin_and_does_not_decide_who_reads(world: World, path: str) -> None:
    async def open_to_all(_: web.Request) -> web.StreamResponse:
        return web.json_response({"by": "x"}, headers={"access-control-allow-origin": "*"})

    for provider in world.providers.values():
        provider.handler = open_to_all
    try:
        for origin, allowed in ((PAGE, PAGE), (OTHER, None), ("", None)):
            world.forget()
            headers = JSON | ({"origin": origin} if origin else {})
            answer = await world.ask(path=path, headers=headers)
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert "origin" not in world.only_request()[1].headers
    finally:
        for provider in world.providers.values():
            provider.handler = None


async def test_a_star_is_any_origin(tmp_path: Path) -> None:
    async with running("only") as providers:
        registry = Registry(
            models={"only": Model(base_url=f"http://127.0.0.1:{providers['only'].port}")},
            default="only",
            envoy=EnvoySettings(cors=Cors(origins=["*"])),
        )
        async with serving(tmp_path, registry, providers) as world:
            for origin in (PAGE, OTHER, "null"):
                assert allows(await preflight(world, CHAT, origin), origin)
                assert allows(await world.ask(ASK, headers=JSON | {"origin": origin}), origin)


async def test_without_origins_a_preflight_is_a_request_like_any_other(tmp_path: Path) -> None:
    async with running("only") as providers:
        registry = Registry(
            models={"only": Model(base_url=f"http://127.0.0.1:{providers['only'].port}")}, default="only"
        )
        async with serving(tmp_path, registry, providers) as world:
            assert (await preflight(world, CHAT)).status == 404
            answer = await world.ask(headers=JSON | {"origin": PAGE})
            assert "access-control-allow-origin" not in answer.headers
            assert world.only_request()[1].headers["origin"] == PAGE


REGISTRY = """\
models: {a: {base_url: "http://h:1"}}
default: a
envoy:
  cors:
    origins: [ORIGIN]
"""


@pytest.mark.parametrize(
    "origin",
    ["app.example.com", "https://app.example.com/", "https://App.example.com", "ftp://h", "'https://*.example.com'", "null"],
)  # fmt: skip
def test_what_is_no_origin_is_told_with_its_line(tmp_path: Path, origin: str) -> None:
    line, problem = mistake(tmp_path, REGISTRY.replace("ORIGIN", origin))
    assert line == 5
    if origin != "null":
        assert "is not a valid origin (expected http(s)://HOST[:PORT] without a path, or *)" in problem


def test_no_origin_at_all_is_a_mistake(tmp_path: Path) -> None:
    assert mistake(tmp_path, REGISTRY.replace("ORIGIN", ""))[0] == 5
