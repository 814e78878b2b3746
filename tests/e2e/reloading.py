"""A stack whose registry changes under load, for the tests of reloads.

Everything is asked for by rules, so that what each version must answer is known exactly.
"""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from extproc.demo.demo_stack import Ports, Stack, running_stack
from extproc.demo.model_pool import Behaviour, FakeModel, Pool
from extproc.registry.registry_loading import load
from tests.e2e.conftest import Answer, chat

CLIENTS = 16
# Between two requests of a client: two hundred requests a second meet every change, and do not fill both cores.
THINK_S = 0.08
DEADLINE_S = 60
ASKED = ("want-code", "want-poem", "auto")


class Config(msgspec.Struct, frozen=True):
    """What a registry of these tests says: which fake model serves whom, and whether there are poems."""

    small: str = "small"  # names of the pool; the keys of registry models are the fields' own
    code: str = "code"
    poet: str = ""  # empty: no such model and no such route
    fallback: str = ""  # of requests for code, to another registry model
    decision_ms: int = 5000

    def text(self, folder: Path, pool: Pool) -> str:
        serving = {name: server for name in ("small", "code", "poet") if (server := getattr(self, name))}
        lines = ["models:"]
        lines += [
            f"  {name}: {{base_url: '{pool[server].url}', name: {pool[server].name}, "
            f"auth: {{file: {folder / server}.key}}}}"
            for name, server in serving.items()
        ]
        fallback = f", fallback: {self.fallback}" if self.fallback else ""
        lines += ["default: small", f"decision_ms: {self.decision_ms}", "rules:"]
        lines += ["  - {name: coding, when: {model: want-code}, route: code}"]
        if self.poet:
            lines += ["  - {name: poems, when: {model: want-poem}, route: poetry}"]
        lines += ["routes:", f"  code: {{candidates: code, examples: [Fix this bug]{fallback}}}"]
        if self.poet:
            lines += ["  poetry: {candidates: poet, examples: [Write a sonnet about the sea]}"]
        return "\n".join(lines) + "\n"

    def answers(self) -> Mapping[str, str]:
        """The registry model that must answer, by what is asked for."""
        return {"want-code": "code", "want-poem": "poet" if self.poet else "small", "auto": "small"}


BASE = Config()


class Reloading:
    """A running stack whose registry changes, and what its versions are."""

    def __init__(self, folder: Path, pool: Pool, http: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.pool = pool
        self.http = http
        self.registry = folder / "registry.yaml"
        self.versions: dict[str, Config] = {}
        self.stack: Stack  # set once it runs
        self.answered: Counter[str] = Counter()  # by version
        self.undecided = 0
        self.problems: list[str] = []

    @property
    def nearly_all_decided(self) -> bool:
        """All but what the default answered while a busy machine kept the sidecar from answering Envoy.

        That is the failure contract at work and no loss; a reload that costs decisions costs far more.
        """
        return self.undecided <= max(CLIENTS, self.answered.total() // 20)

    def prepare(self, config: Config) -> tuple[str, str]:
        """The text of a registry and its version, which answers may bear from now on."""
        text = config.text(self.folder, self.pool)
        aside = self.folder / "aside.yaml"
        aside.write_text(text)
        version = load(aside).version
        self.versions[version] = config
        return text, version

    def put(self, config: Config) -> str:
        """Replace the registry; returns its version."""
        text, version = self.prepare(config)
        self.put_text(text)
        return version

    def put_text(self, text: str) -> None:
        aside = self.folder / "aside.yaml"
        aside.write_text(text)
        aside.replace(self.registry)

    def status(self) -> Mapping[str, Any]:
        return self.stack.writer_status()

    async def ask(self, asked: str) -> Answer:
        body = io.BytesIO(msgspec.json.encode(chat("hello", model=asked)))
        url = f"{self.stack.url}/v1/chat/completions"
        async with self.http.post(url, data=body, headers={"content-type": "application/json"}) as answer:
            lower = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, lower, await answer.read())

    async def client(self, over: asyncio.Event, number: int) -> None:
        """Ask again and again on a connection that is kept alive, and judge every answer."""
        while not over.is_set():
            number += 1
            await self.judge(ASKED[number % len(ASKED)])
            await asyncio.sleep(THINK_S)

    async def judge(self, asked: str) -> None:
        answer = await self.ask(asked)
        model, version = answer.headers.get("x-router-model"), answer.headers.get("x-router-version")
        if answer.status != 200:
            self.problems.append(f"{asked}: {answer.status} {answer.body!r}")
        elif model is None or version is None:
            self.undecided += 1
        else:
            self.answered[version] += 1
            config = self.versions[version]
            asked_in_turn = [model, config.fallback] if model == "code" and config.fallback else [model]
            names = {self.pool[getattr(config, name)].name for name in asked_in_turn}
            if model != config.answers()[asked] or answer.json()["model"] not in names:
                self.problems.append(f"{asked}: {version} {model} {answer.body!r}")

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients at work; the requests that any of them lost fail the test."""
        over = asyncio.Event()
        clients = [asyncio.create_task(self.client(over, number)) for number in range(CLIENTS)]
        try:
            await self.until(lambda: self.answered.total() > CLIENTS)
            yield
            await asyncio.sleep(0.3)
        finally:
            over.set()
            ended = await asyncio.gather(*clients, return_exceptions=True)
        assert [problem for problem in ended if problem is not None] == []
        assert self.problems == [], self.problems[:3]

    async def reached(self, version: str) -> None:
        """Until requests are answered by ``version``, and no longer by any other."""
        before = self.answered[version]
        await self.until(lambda: self.answered[version] > before + CLIENTS)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await asyncio.sleep(0.02)

    async def page(self, path: str, sidecar: int = 0) -> str:
        port = self.stack.ports.sidecar_admins[sidecar]
        async with self.http.get(f"http://127.0.0.1:{port}{path}") as answer:
            return await answer.text()

    async def counted(self, series: str, sidecar: int = 0) -> float:
        """The sum of a sidecar's series whose name and labels begin with ``series``."""
        lines = (await self.page("/metrics", sidecar)).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    async def counts(self, series: str, count: float) -> None:
        """Until a series has at least this value: the test before may have left a reload to be counted."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.counted(series) < count:
                await asyncio.sleep(0.05)

    async def newest(self, version: str, sidecar: int) -> None:
        """Until the files of a sidecar are those of this version."""
        async with asyncio.timeout(DEADLINE_S):
            while f'"{version}"' not in await self.page("/readyz", sidecar):
                await asyncio.sleep(0.02)

    async def as_at_first(self) -> "Reloading":
        """It, with ``BASE`` in force everywhere, models that behave, and nothing counted."""
        if self.stack.writer.returncode is not None:
            await self.stack.start_writer()
        for model in self.pool.values():
            model.behaviour = Behaviour()
            model.journal.clear()
        self.versions.clear()
        text, version = self.prepare(BASE)
        if self.registry.read_text() != text:
            self.put_text(text)
        await self.until(lambda: (self.status()["version"], self.status()["problem"]) == (version, ""))
        async with asyncio.timeout(DEADLINE_S):
            while (await self.ask("auto")).headers.get("x-router-version") != version:
                await asyncio.sleep(0.02)
        # Envoy may ask for a version that the sidecar kept, long before the sidecar reloads it.
        for sidecar in range(len(self.stack.ports.sidecar_admins)):
            await self.newest(version, sidecar)
        self.answered.clear()
        self.undecided = 0
        self.problems.clear()
        return self


@asynccontextmanager
async def unstarted(folder: Path) -> AsyncIterator[Reloading]:
    """The models with their keys, and no stack yet."""
    names = ("small", "code", "code-next", "poet")
    models = {name: FakeModel(f"fake-{name}", key=f"key-{name}", keep=10_000) for name in names}
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        Pool(models) as pool,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http,
    ):
        for name, model in pool.items():
            (folder / f"{name}.key").write_text(model.key)
            (folder / f"{name}.key").chmod(0o600)
        yield Reloading(folder, pool, http)


@asynccontextmanager
async def reloading(folder: Path, sidecars: int = 1) -> AsyncIterator[Reloading]:
    async with unstarted(folder) as world:
        world.put(BASE)
        async with running_stack(world.registry, folder / "run", Ports.free(sidecars)) as world.stack:
            yield world
