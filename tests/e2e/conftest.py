"""The demo registry behind a real Envoy and a real sidecar; only the models are fake."""

import asyncio
import io
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import msgspec
import openai
import pytest
import pytest_asyncio
import yaml

from extproc.demo.demo_stack import Stack, running_stack
from extproc.demo.model_pool import Behaviour, FakeModel, Pool, Received
from extproc.registry.registry_loading import load
from extproc.telemetry.segments import segment_paths

DEMO = Path(__file__).parents[2] / "config" / "demo.yaml"
FEEDBACK_TOKEN = "given-by-the-operator"
DECISION_MS = 3_000  # a sidecar that is late on a busy machine is waited for all the same
NAMES = {
    "small": "demo-small-8b",
    "mid": "demo-mid-70b",
    "large": "demo-large-400b",
    "code": "demo-code-32b",
    "guarded": "demo-guarded-70b",
}


class World:
    """A running stack, the models behind it, and clients that know only its address."""

    def __init__(self, stack: Stack, pool: Pool, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.pool = pool
        self.http = http
        self.openai = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="clients-own", max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(base_url=stack.url, api_key="clients-own", max_retries=0)

    def forget(self) -> None:
        """Empty every journal."""
        for model in self.pool.values():
            model.journal.clear()

    def as_at_first(self) -> "World":
        """It, with empty journals and models that all behave."""
        self.forget()
        for model in self.pool.values():
            model.behaviour = Behaviour()
        return self

    def received(self) -> dict[str, list[Received]]:
        """What each model that was asked anything got, by public name."""
        return {name: list(model.journal) for name, model in self.pool.items() if model.journal}

    def only_request(self) -> tuple[str, Received]:
        """The public name of the one model that was asked, and the one request it got."""
        ((name, requests),) = self.received().items()
        (request,) = requests
        return name, request

    async def post(
        self, body: bytes | dict[str, Any], path: str = "/v1/chat/completions", **headers: str
    ) -> "Answer":
        """POST a body as it is; header names are given with _ for -."""
        data = io.BytesIO(body if isinstance(body, bytes) else msgspec.json.encode(body))
        named = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.http.post(f"{self.stack.url}{path}", data=data, headers=named) as answer:
            lower = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, lower, await answer.read())

    def record_text(self) -> str:
        """Every line of every segment, in order."""
        return "".join(path.read_text() for path in segment_paths(self.stack.records))

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind that are there whole, in order."""
        whole, _, _ = self.record_text().rpartition("\n")
        lines = filter(None, whole.split("\n"))  # splitlines() would split at U+2028 too
        return [row for row in map(msgspec.json.decode, lines) if row["kind"] == kind]

    async def records(self, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The records of these exchanges, in this order, once all have arrived."""
        async with asyncio.timeout(60):
            while True:
                rows = {row["request_id"]: row for row in self.rows("exchange")}
                if rows.keys() >= set(request_ids):
                    return [rows[request_id] for request_id in request_ids]
                await asyncio.sleep(0.02)


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON value."""
        return msgspec.json.decode(self.body)


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A chat completion request with one user message."""
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


def write_registry(folder: Path, pool: Pool) -> Path:
    """The demo registry with this pool's addresses and keys."""
    text = DEMO.read_text()
    models = load(DEMO).registry.models
    for name, model in pool.items():
        key_file = folder / f"{name}.key"
        key_file.write_text(model.key)
        key_file.chmod(0o600)
        text = text.replace(models[name].base_url, model.url).replace(
            f"../.run/keys/{name}}}", f"{key_file}}}"
        )
    token_file = folder / "feedback.key"
    token_file.write_text(f"{FEEDBACK_TOKEN}\n")
    token_file.chmod(0o600)
    text = text.replace("../.run/keys/feedback}", f"{token_file}}}")
    assert not re.search(r"1001\d|\.run", text)
    path = folder / "registry.yaml"
    path.write_text(f"decision_ms: {DECISION_MS}\n{text}")
    return path


def changed(registry: Path, change: Callable[[Any], None] | None) -> Path:
    """The registry with its tree changed."""
    if change is not None:
        tree = yaml.safe_load(registry.read_text())
        change(tree)
        registry.write_text(yaml.safe_dump(tree, sort_keys=False))
    return registry


async def world_in(
    folder: Path, environment: dict[str, str] | None = None, change: Callable[[Any], None] | None = None
) -> AsyncIterator[World]:
    """A world of its own, for tests that break it. ``change`` is done to the registry's tree."""
    models = {name: FakeModel(sent, key=f"key-{secrets.token_hex(8)}") for name, sent in NAMES.items()}
    async with (
        Pool(models) as pool,
        running_stack(
            changed(write_registry(folder, pool), change), folder / "run", environment=environment
        ) as stack,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
    ):
        world = World(stack, pool, http)
        async with world.openai, world.anthropic:
            yield world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("world")):
        yield world


@pytest.fixture
def world(shared_world: World) -> World:
    """The shared world with empty journals; for tests that leave it as it was."""
    shared_world.forget()
    return shared_world


@pytest_asyncio.fixture(loop_scope="session")
async def own_world(tmp_path: Path) -> AsyncIterator[World]:
    async for world in world_in(tmp_path):
        yield world
