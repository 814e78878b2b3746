"""No spelling of an API's path passes unread, and beside deny rules only paths that the registry names do."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import pytest_asyncio
from msgspec.structs import replace

from extproc.registry.model_settings import Model, Passthrough
from extproc.registry.schema import Registry, RuleSettings, When
from tests.apis.path_spellings import CHAT, ELSEWHERE, INVALID, LEFT, NORMALISED
from tests.envoyconf.conftest import ASK, World
from tests.envoyconf.serving import running, serving

DENY = RuleSettings(name="no-cards", when=When(regex=r"\d{16}"), deny="No card numbers.")
PASSED, DECIDED, REFUSED = "passed", "decided", "refused"


@asynccontextmanager
async def between(
    directory: Path, paths: list[str] | None = None, *, base: str = "", **settings: Any
) -> AsyncIterator[World]:
    """A model, and a passthrough upstream with these paths."""
    async with running("only", "rest") as providers:
        only, rest = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={"only": Model(base_url=only)},
            default="only",
            passthrough=Passthrough(base_url=f"{rest}{base}", paths=paths),
        )
        async with serving(directory, replace(registry, **settings), providers) as world:
            yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unrestricted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with between(tmp_path_factory.mktemp("unrestricted")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def denying(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with between(tmp_path_factory.mktemp("denying"), rules=[DENY]) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    paths = ["POST /v1/embeddings", "/v1/files", "/v1/files/*", "GET /v1/chat/completions/*"]
    async with between(tmp_path_factory.mktemp("listing"), paths, rules=[DENY]) as world:
        yield world


async def outcome(world: World, method: str, path: str) -> tuple[int, str]:
    """The status of a request whose target is exactly ``path``, and which upstream got it."""
    world.forget()
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    async with world.connection() as (reader, writer):
        writer.write(f"{head}content-length: {len(ASK)}\r\n\r\n".encode() + ASK)
        answer = await reader.readuntil(b"\r\n\r\n")
    return int(answer.split()[1]), reached(world)


def reached(world: World) -> str:
    """What became of the last request; a model gets it only when the sidecar has read it."""
    asked = not world.sidecar.asked.empty()
    while not world.sidecar.asked.empty():
        world.sidecar.asked.get_nowait()
    got = {name for name, provider in world.providers.items() if provider.received}
    assert len(got) <= 1
    assert ("only" in got) == asked
    return {"": REFUSED, "only": DECIDED, "rest": PASSED}["".join(got)]


async def outcomes(world: World, method: str, *paths: str) -> Mapping[str, tuple[int, str]]:
    return {path: await outcome(world, method, path) for path in paths}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["unrestricted", "denying", "listing"])
class TestSpellings:
    """Whatever the registry says of paths."""

    @pytest.fixture
    def world(self, name: str, request: pytest.FixtureRequest) -> World:
        world: World = request.getfixturevalue(name)
        return world

    async def test_a_path_that_envoy_normalises_is_decided(self, world: World) -> None:
        seen = await outcomes(world, "POST", CHAT, f"http://x{CHAT}", *NORMALISED)
        assert seen == dict.fromkeys(seen, (200, DECIDED))

    @pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
    async def test_any_other_spelling_is_a_404(self, world: World, method: str) -> None:
        seen = await outcomes(world, method, *LEFT)
        assert seen == dict.fromkeys(LEFT, (404, REFUSED))

    async def test_a_path_that_is_no_path_is_a_400(self, world: World) -> None:
        seen = await outcomes(world, "POST", *INVALID)
        assert seen == dict.fromkeys(INVALID, (400, REFUSED))

    @pytest.mark.parametrize("api", ["completions", "responses", "messages"])
    async def test_the_same_holds_for_every_api(self, world: World, api: str) -> None:
        path = f"/v1/{api}"
        seen = await outcomes(world, "POST", f"{path}/", f"{path}%20", path.upper(), f"/v1%252f{api}")
        assert seen == dict.fromkeys(seen, (404, REFUSED))

    @pytest.mark.parametrize("method", [b"post", b"Post"])
    async def test_a_method_in_another_case_is_refused(self, world: World, method: bytes) -> None:
        assert await outcome(world, method.decode(), CHAT) == (400, REFUSED)
        assert await over_http2(world, method, CHAT.encode()) in ((400, REFUSED), (404, REFUSED))

    @pytest.mark.parametrize("path", ["/v1/chat/completionſ", f"{CHAT}\u200b", "/v1／chat／completions"])
    async def test_over_http2_no_look_alike_passes(self, world: World, path: str) -> None:
        assert await over_http2(world, b"POST", path.encode()) == (404, REFUSED)

    async def test_the_404_says_where_the_api_is(self, world: World) -> None:
        answer = await world.ask(path=f"{CHAT}/")
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"]["message"] == (
            f"There is nothing at this path. openai.chat is at POST {CHAT}."
        )
        answer = await world.ask(path="/V1/Messages")
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", "not_found_error")


async def over_http2(world: World, method: bytes, path: bytes) -> tuple[int, str]:
    """The status of a request by HTTP/2, or 0 when its stream is reset; and which upstream got it."""
    world.forget()
    config = h2.config.H2Configuration(validate_outbound_headers=False, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    headers = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    connection.send_headers(1, [*headers, (b"content-type", b"application/json")])
    connection.send_data(1, ASK, end_stream=True)
    status = 0
    async with world.connection() as (reader, writer):
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    return status, reached(world)
            writer.write(connection.data_to_send())
    return status, reached(world)


@pytest.mark.asyncio(loop_scope="module")
async def test_without_restrictions_all_other_paths_and_methods_pass(unrestricted: World) -> None:
    seen = await outcomes(unrestricted, "POST", *ELSEWHERE, "/v1/files/caf%C3%A9%20menu.txt", "/v2/any;a=b")
    assert seen == dict.fromkeys(seen, (200, PASSED))
    for method in ("GET", "PUT", "DELETE"):
        assert await outcome(unrestricted, method, CHAT) == (200, PASSED)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["denying", "listing"])
async def test_beside_deny_rules_no_other_place_for_prompts_passes(
    request: pytest.FixtureRequest, name: str
) -> None:
    world: World = request.getfixturevalue(name)
    seen = await outcomes(world, "POST", *ELSEWHERE, "/anything")
    assert seen == dict.fromkeys(seen, (404, REFUSED))
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert await outcome(world, method, CHAT) == (404, REFUSED)


@pytest.mark.asyncio(loop_scope="module")
async def test_beside_deny_rules_counting_tokens_and_stored_responses_pass(denying: World) -> None:
    assert await outcome(denying, "POST", "/v1/messages/count_tokens?beta=true") == (200, PASSED)
    assert await outcome(denying, "GET", "/v1/responses/resp_1?include=x") == (200, PASSED)
    assert await outcome(denying, "DELETE", "/v1/responses/resp_1") == (200, PASSED)
    assert await outcome(denying, "GET", "/v1/responses/resp_1/input_items") == (200, PASSED)
    for method, path in (
        ("PUT", "/v1/messages/count_tokens"),
        ("POST", "/v1/responses/resp_1"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/responses/"),
    ):
        assert await outcome(denying, method, path) == (404, REFUSED)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_registry_lists_passes_and_nothing_else(listing: World) -> None:
    for method, path in (
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/files?purpose=%zz"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1/content"),
        ("GET", f"{CHAT}/chatcmpl-1"),
    ):
        assert await outcome(listing, method, path) == (200, PASSED)
    for method, path in (
        ("GET", "/v1/embeddings"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", f"{CHAT}/chatcmpl-1"),
        ("GET", "/v1/files/"),
        ("GET", "/v1/files/a%20b"),
        ("GET", "/v1/files/a;b"),
        ("GET", "/v1/FILES/file-1"),
    ):
        assert await outcome(listing, method, path) == (404, REFUSED)


async def test_a_providers_own_path_stands_in_place_of_v1(tmp_path: Path) -> None:
    paths = ["POST /v1/embeddings", "GET /v1/files/*", "/v1beta/models"]
    async with between(tmp_path, paths, base="/inference/v1", rules=[DENY]) as world:
        seen = []
        for method, path in (
            ("POST", "/v1/embeddings?a=b"),
            ("GET", "/v1/files/file-1"),
            ("GET", "/v1beta/models"),
        ):
            assert await outcome(world, method, path) == (200, PASSED)
            seen.append(world.only_request()[1].path)
    assert seen == ["/inference/v1/embeddings?a=b", "/inference/v1/files/file-1", "/v1beta/models"]
