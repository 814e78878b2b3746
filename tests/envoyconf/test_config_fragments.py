"""An Envoy that already runs routes LLM calls once the fragments are added, and keeps its own paths."""

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from extproc.envoyconf.bootstrap import fragments
from extproc.registry.model_settings import Auth, Model
from extproc.registry.schema import Cors, EnvoySettings, Registry
from tests.envoyconf.conftest import CHAT, JSON, World
from tests.envoyconf.serving import running, serving

MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def existing(own: int) -> dict[str, Any]:
    """A small configuration: a legacy path, one that is locked, one whose cluster is down, a web site."""
    routes = [
        {"match": {"prefix": "/legacy/"}, "route": {"cluster": "own"}},
        {
            "match": {"path": "/locked"},
            "direct_response": {"status": 401, "body": {"inline_string": "log in"}},
        },
        {"match": {"path": "/down"}, "route": {"cluster": "down"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "own"}},
    ]
    manager = {
        "@type": MANAGER,
        "stat_prefix": "own",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "own", "domains": ["*"], "routes": routes}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "admin": {"address": address(0)},
        "static_resources": {
            "listeners": [{"name": "llm", "address": address(0), "filter_chains": [chain]}],
            "clusters": [cluster("own", own), {"name": "down"}],
        },
    }


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int) -> dict[str, Any]:
    host = {"endpoint": {"address": address(port)}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]}}


def attached(tree: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """What docs/attach.md says: each part at its place, lists before one's own, all else set."""
    tree = copy.deepcopy(tree)
    (listener,) = tree["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    for part, place in (
        ("bootstrap", tree),
        ("static_resources", tree["static_resources"]),
        ("http_connection_manager", manager),
        ("route_config", manager["route_config"]),
        ("virtual_host", host),
    ):
        for key, value in parts[part].items():
            place[key] = value + place.get(key, []) if isinstance(value, list) else value
    return tree


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("attached")
    (directory / "key").write_text("sk-model")
    async with running("model", "own") as providers:
        model, own = (provider.port for provider in providers.values())
        registry = Registry(
            models={"model": Model(base_url=f"http://127.0.0.1:{model}", auth=Auth(file="key"))},
            default="model",
            envoy=EnvoySettings(max_body_bytes=1024, cors=Cors(origins=["https://app.example.com"])),
        )

        def tree(registry: Registry, directory: Path) -> dict[str, Any]:
            return attached(existing(own), fragments(registry, directory))

        async with serving(directory, registry, providers, build=tree) as world:
            yield world


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_chat_is_decided_and_its_answer_says_so(world: World) -> None:
    world.forget()
    answer = await world.ask(headers=JSON | {"x-router-cluster": "own", "x-request-id": "forged"})
    assert answer.by == "model"
    assert answer.headers["x-router-model"] == "model"
    assert world.only_request()[1].headers["authorization"] == "Bearer sk-model"
    # Feedback names an answer by this, and the record has it.
    entry = await world.logged(answer.headers["x-request-id"])
    assert entry.envelope is not None
    assert entry.request_id != "forged"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/legacy/a"),
        ("POST", "/legacy/a"),
        ("GET", "/"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/embeddings"),
    ],
)
async def test_the_paths_that_were_there_stay_as_they_were(world: World, method: str, path: str) -> None:
    answer = await world.ask(path=path, method=method)
    assert (answer.status, answer.by) == (200, "own")
    assert not [name for name in answer.headers if name.startswith("x-router")]


async def test_errors_that_were_there_stay_as_they_were(world: World) -> None:
    locked = await world.ask(path="/locked")
    assert (locked.status, locked.body) == (401, b"log in")
    down = await world.ask(path="/down")
    assert (down.status, down.headers["content-type"]) == (503, "text/plain")


async def test_no_spelling_of_the_chat_path_reaches_the_routes_that_were_there(world: World) -> None:
    for path in (f"{CHAT}/", "/V1/Chat/Completions", f"{CHAT};a=b", "/v1%252fchat/completions"):
        assert (await world.ask(path=path)).status == 404
    assert (await world.ask(path="/v1%2Fchat//completions")).by == "model"


async def test_a_large_body_is_refused_in_the_apis_shape(world: World) -> None:
    answer = await world.ask(b" " * 100_000)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_models_are_listed_and_pages_may_call(world: World) -> None:
    assert [m["id"] for m in (await world.ask(None, path="/v1/models", method="GET")).json()["data"]] == [
        "auto",
        "model",
    ]
    headers = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    answer = await world.ask(None, path=CHAT, method="OPTIONS", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"


async def test_without_the_sidecar_the_default_answers(world: World) -> None:
    await world.sidecar.stop()
    answer = await world.ask()
    assert answer.by == "model"
    assert not [name for name in answer.headers if name.startswith("x-router")]
