"""A real Envoy on the generated configuration, between scripted models and a scripted decision.

The wire is the project's own; what is scripted stands behind its narrow seams.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import msgspec
import pytest
from aiohttp import web
from msgspec.structs import replace
from yarl import URL

from extproc._pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.envoyconf import bootstrap, envoy_process
from extproc.envoyconf.clusters import SIDECAR_CLUSTER
from extproc.errors import ClientError
from extproc.exchanges import Attempt, Exchange
from extproc.gate.consultation import Consultation, ConsultationResult, ModelClient
from extproc.health import Components
from extproc.registry.model_settings import Auth, Model, Passthrough
from extproc.registry.schema import EnvoySettings, Registry, cluster_name
from extproc.vocabulary import Api, BodyPolicy, Decision, Question, Reason, RequestHead, Stage, Terms
from extproc.wire.access_log_service import AccessLog
from extproc.wire.body_admission import Admission, AdmissionLimits
from extproc.wire.decide_stream import DecideConversation
from extproc.wire.ext_proc_service import EXT_PROC_SERVICE, ExternalProcessor
from extproc.wire.gate_exchange import Gatekeeper, Watched
from extproc.wire.gate_stream import GateConversation
from extproc.wire.grpc_health import GrpcHealth
from tests.releases import one_release, release

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
ASK = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
DEADLINE_S = 60.0  # only ever reached by what hangs
DECISION_MS = 5_000  # so that a sidecar that is late on a busy machine is waited for all the same

Build = Callable[[Registry, Path], dict[str, Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Received(msgspec.Struct, frozen=True):
    """One request as a provider got it; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Provider:
    """A model's server: it keeps what it got, and answers with its own name or by ``handler``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.received: list[Received] = []
        self.handler: Handler | None = None
        self._runner: web.AppRunner | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Provider"]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def start(self) -> None:
        """Listens, again on the same port if it did before."""
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """From now on connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.method, request.raw_path, headers, await request.read()))
        if self.handler is not None:
            return await self.handler(request)
        return web.json_response({"by": self.name})


class Sidecar:
    """The project's gRPC services; what they decide is ``decision``, or raised as ``refusal``.

    While ``open`` is not set, decisions hang.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.decision = decided("small")
        self.refusal: ClientError | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.asked: asyncio.Queue[Question] = asyncio.Queue()
        self.exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self.attempts: list[Attempt] = []
        self.gatekeeper: Gatekeeper | None = None
        self.second_answers: ModelClient | None = None
        self._releases = one_release()
        self.failures: list[str] = []
        self.admission = Admission(AdmissionLimits())
        self._server: grpc.aio.Server | None = None

    async def start(self, *handlers: grpc.GenericRpcHandler) -> None:
        """Listens; ``handlers`` replace ext_proc."""
        processor = ExternalProcessor(
            self.decide_conversation(),
            GateConversation(self, self.failures.append, second_answers=self),
            count_failure=self.failures.append,
        )
        access_log = AccessLog(self, count_failure=self.failures.append)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**26)])
        self._server.add_generic_rpc_handlers((*(handlers or (processor.handler(),)), access_log.handler()))
        health = GrpcHealth(Components(), versions=lambda: ["v1"], refused=dict)
        health.register(self._server)
        await health.publish()
        self._server.add_insecure_port(self.address)
        await self._server.start()

    def decide_conversation(self) -> DecideConversation:
        """How requests are decided."""
        return DecideConversation(self, self._releases, self.admission, self.failures.append)

    def use(self, terms: Terms) -> None:
        """Serve these terms of the registry from now on."""
        self._releases.add(release("v1", terms))

    async def stop(self) -> None:
        """As a process that was killed: connections are cut, nothing is finished."""
        if self._server is not None:
            await self._server.stop(None)

    async def decide(self, question: Question, more_time: object = None) -> Decision:
        """The seam of ext_proc."""
        self.asked.put_nowait(question)
        await self.open.wait()
        if self.refusal is not None:
            raise self.refusal
        return self.decision

    def watch(self, tier: str, head: RequestHead, body: bytes) -> Watched | None:
        """The seam of gates."""
        return self.gatekeeper.watch(tier, head, body) if self.gatekeeper else None

    async def ask(self, consultation: Consultation, within_s: float | None) -> ConsultationResult:
        """The seam of gates that ask other models."""
        assert self.second_answers is not None
        return await self.second_answers.ask(consultation, within_s)

    def accept(self, exchange: Exchange) -> None:
        """The seam of the access log."""
        self.exchanges.put_nowait(exchange)

    def attempted(self, attempt: Attempt) -> None:
        """The same for attempts of hops."""
        self.attempts.append(attempt)


def decided(model: str, **fields: Any) -> Decision:
    """A decision for ``model`` that leaves its name in the body as it is."""
    known: dict[str, Any] = {
        "route": "greeting",
        "model": model,
        "policy": BodyPolicy(model="auto"),
        "cluster": cluster_name(model),
        "stage": Stage.EMBEDDING,
        "reason": Reason.MATCHED,
        "version": "v1",
    }
    return Decision(**{**known, **fields})


def ext_proc(answer: Callable[[ProcessingRequest], ProcessingResponse]) -> grpc.GenericRpcHandler:
    """An ext_proc service for ``Sidecar.start`` that says what the project's own never would."""

    async def process(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for data in requests:
            yield answer(ProcessingRequest.FromString(data)).SerializeToString()

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(process)
    return grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": method})


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def by(self) -> str:
        """The name of the provider that answered."""
        name: str = msgspec.json.decode(self.body)["by"]
        return name

    def json(self) -> Any:
        """The body's JSON value."""
        return msgspec.json.decode(self.body)


class World:
    """Envoy with all around it."""

    def __init__(
        self, sidecar: Sidecar, providers: Mapping[str, Provider], http: aiohttp.ClientSession
    ) -> None:
        self.sidecar = sidecar
        self.providers = providers
        self.http = http
        self.port = 0
        self.admin_port = 0
        self.pid = 0
        self.log = Path()

    async def ask(
        self,
        body: bytes | AsyncIterator[bytes] | None = ASK,
        *,
        path: str = CHAT,
        method: str = "POST",
        headers: Mapping[str, str] = JSON,
    ) -> Answer:
        """One request to Envoy, with the path as written and no headers added that matter."""
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        data = io.BytesIO(body) if isinstance(body, bytes) else body
        skip = {"content-type"} - headers.keys()
        async with self.http.request(
            method, url, data=data, headers=headers, skip_auto_headers=skip
        ) as answer:
            names = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, names, await answer.read())

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A plain connection to Envoy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()

    async def logged(self, request_id: str = "") -> Exchange:
        """The next entry of the access log, or that of one request; what comes before is dropped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                entry = await self.sidecar.exchanges.get()
                if request_id in ("", entry.request_id):
                    return entry

    def cpu_seconds(self) -> float:
        """CPU time that Envoy has taken so far."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    async def admin(self, path: str) -> str:
        """A page of Envoy's admin interface."""
        async with self.http.get(f"http://127.0.0.1:{self.admin_port}{path}") as page:
            return await page.text()

    async def sidecar_used(self) -> None:
        """Until Envoy has found a sidecar well that came after it."""
        async with asyncio.timeout(DEADLINE_S):
            while not (await self.admin("/stats?filter=ext-proc.membership_healthy")).endswith(" 1\n"):
                await asyncio.sleep(0.02)

    def forget(self) -> None:
        """Empties what the providers got."""
        for provider in self.providers.values():
            provider.received.clear()

    def only_request(self) -> tuple[str, Received]:
        """The one provider that was asked, and the one request it got."""
        ((name, request),) = [(p.name, request) for p in self.providers.values() for request in p.received]
        return name, request


Launch = Callable[..., Awaitable[World]]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """See ``launcher``."""
    async with launcher(tmp_path) as launch:
        yield launch


@asynccontextmanager
async def launcher(directory: Path) -> AsyncIterator[Launch]:
    """Starts a world; keyword arguments change ``EnvoySettings`` or ``Registry`` settings of its registry.

    ``name`` is what the default model's provider calls it; ``speaks`` are the APIs of models that
    do not speak OpenAI's, ``paths`` those of base URLs; ``workers`` is how many threads Envoy has.

    Models: ``small`` and ``large`` (the default) have keys, ``local`` has none and is reached by name.
    """
    async with AsyncExitStack() as stack:

        async def start(
            *,
            sidecar: str = "",
            running: bool = True,
            name: str = "large-400b",
            speaks: Mapping[str, list[Api]] = {},
            paths: Mapping[str, str] = {},
            workers: int = 1,
            **settings: Any,
        ) -> World:
            providers = {name: Provider(name) for name in ("small", "large", "local", "rest")}
            for provider in providers.values():
                await stack.enter_async_context(provider.running())
            fake = Sidecar(sidecar or f"unix:{directory}/s")
            if running:
                await fake.start()
            stack.push_async_callback(fake.stop)
            session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE_S))
            http = await stack.enter_async_context(session)
            world = World(fake, providers, http)
            settings["sidecar"] = fake.address
            registry = registry_for(directory, providers, name, settings, speaks, paths)
            await stack.enter_async_context(envoy_on(world, registry, directory, workers))
            return world

        yield start


@pytest.fixture
async def world(launch: Launch) -> World:
    """The world as most tests want it."""
    return await launch()


def registry_for(
    directory: Path,
    providers: Mapping[str, Provider],
    default_name: str,
    settings: Mapping[str, Any],
    speaks: Mapping[str, list[Api]],
    paths: Mapping[str, str],
) -> Registry:
    """The world's registry, its key files written beside it."""
    for name in ("small", "large", "rest"):
        # Written by an editor or by echo, a file ends with a newline.
        (directory / f"{name}.key").write_text(f"sk-{name}\n")
    models = {
        "small": Model(base_url=f"http://127.0.0.1:{providers['small'].port}", auth=Auth(file="small.key")),
        "large": Model(
            base_url=f"http://127.0.0.1:{providers['large'].port}",
            name=default_name,
            auth=Auth(file="large.key"),
        ),
        "local": Model(base_url=f"http://localhost:{providers['local'].port}"),
    }
    models |= {name: replace(models[name], apis=apis) for name, apis in speaks.items()}
    for name, path in paths.items():
        models[name] = replace(models[name], base_url=models[name].base_url + path)
    fields = set(EnvoySettings.__struct_fields__)
    ours = {key: value for key, value in settings.items() if key in fields}
    rest = {key: value for key, value in settings.items() if key not in fields}
    envoy = EnvoySettings(listen="127.0.0.1:0", admin="127.0.0.1:0", **ours)
    passthrough = Passthrough(
        base_url=f"http://127.0.0.1:{providers['rest'].port}", auth=Auth(file="rest.key")
    )
    known = {"default": "large", "decision_ms": DECISION_MS, "passthrough": passthrough}
    return Registry(models=models, envoy=envoy, **{**known, **rest})


@asynccontextmanager
async def envoy_on(
    world: World, registry: Registry, directory: Path, workers: int = 1, build: Build = bootstrap.build
) -> AsyncIterator[None]:
    """Runs Envoy on the configuration that ``build`` makes of the registry, its ports in ``world``."""
    config, admin, world.log = (directory / name for name in ("envoy.yaml", "admin", "envoy.log"))
    config.write_text(bootstrap.render(patient(build(registry, directory))))
    options = ["--disable-hot-restart", "--concurrency", str(workers), "--log-level", "warning"]
    options += ["--file-flush-interval-msec", "20"]  # of access logs; ten seconds are a long test
    with world.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            envoy_process.find(),
            "-c",
            config,
            "--admin-address-path",
            admin,
            *options,
            stdout=log,
            stderr=log,
        )
    world.pid = process.pid
    try:
        async with asyncio.timeout(DEADLINE_S):
            await _ready(world, admin, process)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def patient(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration with time for a sidecar that shares its thread with the test and a busy machine."""
    for cluster in tree["static_resources"]["clusters"]:
        if cluster["name"] == SIDECAR_CLUSTER:
            cluster["connect_timeout"] = "10s"
            for check in cluster["health_checks"]:
                check["timeout"] = "10s"
    return tree


async def _ready(world: World, admin: Path, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        if address := _written(admin):
            world.admin_port = int(address.rpartition(":")[2])
            if await world.admin("/ready") == "LIVE\n":
                listening = dict(line.split("::") for line in (await world.admin("/listeners")).splitlines())
                world.port = int(listening["llm"].rpartition(":")[2])
                return
        await asyncio.sleep(0.005)
    pytest.fail(f"Envoy ended: {world.log.read_text(errors='replace')}")


def _written(path: Path) -> str:
    return path.read_text() if path.exists() else ""
