"""A running Envoy and sidecar made from one registry, for `make run` and the end-to-end tests.

async with Pool({"small": FakeModel("demo-small", key="k")}) as pool:
    registry = write_registry(tmp_path, pool)              # its models' base URLs are pool[...].url
    async with running_stack(registry, tmp_path / "run") as stack:
        client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="any")
        ...
        await stack.stop_sidecar(signal.SIGKILL)           # dead: the default model answers
        await stack.start_sidecar()                        # routing is back
        stack.sidecar.send_signal(signal.SIGSTOP)          # hung: the same, after the deadline
    assert pool["small"].journal[-1].model == "demo-small"
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NoReturn, Self

import aiohttp
import msgspec

from extproc.demo.ports import HOST, free
from extproc.demo.processes import Process
from extproc.envoyconf import binary, bootstrap
from extproc.errors import OperatorError
from extproc.registry.loading import Loaded, load

Report = Callable[[str], None]

# Loading the encoder from a cold disk is the slowest part of any start.
_SIDECAR_START_S = 60.0
_ENVOY_START_S = 30.0
# How long answers in flight may go on once a stop was asked for.
_DRAIN_S = 5.0
_DRAIN_POLL_S = 0.02
# Envoy sends its access log in batches five times a second, and drops the last one when it stops.
_ACCESS_LOG_FLUSH_S = 0.3
_ADMIN_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
# The shortest sockaddr_un.sun_path among the systems we run on, less the terminating zero.
_SOCKET_PATH_BYTES = 103


class Ports(msgspec.Struct, frozen=True):
    """The TCP ports of one stack, all on loopback. (Envoy reaches the sidecar by a unix socket.)"""

    envoy: int
    envoy_admin: int
    sidecar_admin: int

    @classmethod
    def free(cls) -> Self:
        """Ports that the system chose."""
        return cls(*free(3))


class Stack:
    """A sidecar and the Envoy that asks it; made by ``running_stack``."""

    def __init__(self, registry: Path, run_dir: Path, ports: Ports, environment: Mapping[str, str]) -> None:
        self.registry = registry.resolve()
        self.run_dir = run_dir = run_dir.resolve()
        self.ports = ports
        self.envoy_config = run_dir / "envoy.yaml"
        self.envoy_log = run_dir / "envoy.log"
        self.sidecar_log = run_dir / "sidecar.log"
        self.records = run_dir / "records"
        self.socket = run_dir / "sidecar.sock"
        self._environment = environment
        self._processes: dict[str, Process] = {}

    @property
    def url(self) -> str:
        """Where clients speak to Envoy, without ``/v1``."""
        return f"http://{HOST}:{self.ports.envoy}"

    @property
    def envoy_admin_url(self) -> str:
        """Envoy's admin interface: /ready, /stats, /config_dump."""
        return f"http://{HOST}:{self.ports.envoy_admin}"

    @property
    def sidecar_admin_url(self) -> str:
        """The sidecar's own: /healthz, /readyz, /metrics."""
        return f"http://{HOST}:{self.ports.sidecar_admin}"

    @property
    def envoy(self) -> Process:
        """The Envoy process."""
        return self._processes["envoy"]

    @property
    def sidecar(self) -> Process:
        """The latest sidecar process; after ``stop_sidecar``, the one that ended."""
        return self._processes["sidecar"]

    async def start_sidecar(self) -> None:
        """Starts a sidecar in place of one that ended, until it is ready. Raises ProcessFailed."""
        await self._launch_sidecar()
        await self._sidecar_ready()

    async def stop_sidecar(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the sidecar by ``number``; returns its exit status (minus the signal that ended it)."""
        return await self.sidecar.stop(number)

    async def failed(self) -> NoReturn:
        """Waits until one of the processes ends, and raises its ProcessFailed."""
        ends = {asyncio.create_task(process.wait()): process for process in self._processes.values()}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        raise ends[done.pop()].failure()

    async def _launch_sidecar(self) -> None:
        command = [
            *(sys.executable, "-m", "extproc", "serve"),
            *("--registry", str(self.registry)),
            *("--listen", f"unix:{self.socket}"),
            *("--admin", f"{HOST}:{self.ports.sidecar_admin}"),
            *("--records", str(self.records)),
        ]
        self._processes["sidecar"] = await Process.start(
            "sidecar", command, log=self.sidecar_log, environment=self._environment
        )

    async def _sidecar_ready(self) -> None:
        await self.sidecar.ready(f"{self.sidecar_admin_url}/readyz", timeout_s=_SIDECAR_START_S)

    def _configure_envoy(self, loaded: Loaded, envoy: Path) -> None:
        """Writes Envoy's configuration and has Envoy itself check it. Blocking."""
        addresses = msgspec.structs.replace(
            loaded.registry.envoy,
            listen=f"{HOST}:{self.ports.envoy}",
            admin=f"{HOST}:{self.ports.envoy_admin}",
            sidecar=f"unix:{self.socket}",
        )
        registry = msgspec.structs.replace(loaded.registry, envoy=addresses)
        tree = bootstrap.build(registry, self.registry.parent)
        self.envoy_config.write_text(bootstrap.render(tree))
        binary.validate(envoy, self.envoy_config)

    async def _launch_envoy(self, envoy: Path) -> None:
        # Hot restart would tie Envoys on one machine together by shared memory.
        command = [str(envoy), "-c", str(self.envoy_config), "--disable-hot-restart"]
        self._processes["envoy"] = await Process.start("envoy", command, log=self.envoy_log)

    async def _envoy_ready(self) -> None:
        await self.envoy.ready(f"{self.envoy_admin_url}/ready", timeout_s=_ENVOY_START_S)

    async def _drain_envoy(self) -> None:
        """Takes no more connections, and lets answers in flight end and their records arrive."""
        try:
            async with asyncio.timeout(_DRAIN_S), aiohttp.ClientSession(timeout=_ADMIN_TIMEOUT) as session:
                for command in ("healthcheck/fail", "drain_listeners"):
                    async with session.post(f"{self.envoy_admin_url}/{command}"):
                        pass
                while await _requests_in_flight(session, self.envoy_admin_url):  # noqa: ASYNC110 - it pushes no event
                    await asyncio.sleep(_DRAIN_POLL_S)
                await asyncio.sleep(_ACCESS_LOG_FLUSH_S)
        except (aiohttp.ClientError, TimeoutError):
            return  # Envoy is dead, hangs, or its clients are slow: it is stopped all the same


@asynccontextmanager
async def running_stack(
    registry: Path,
    run_dir: Path,
    ports: Ports | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    report: Report = lambda line: None,
) -> AsyncIterator[Stack]:
    """A sidecar and Envoy, ready, for as long as the ``async with`` block lasts.

    ``run_dir`` is made when absent; it gets the generated ``envoy.yaml``, ``envoy.log``,
    ``sidecar.log`` and the segments in ``records``. The registry's own addresses (``envoy.listen`` and so
    on) are replaced by loopback and ``ports``, free ones by default. ``environment`` is added to
    the sidecar's. ``report`` gets a line of progress at a time.

    At the end Envoy is drained and stopped, then the sidecar. Raises RegistryError for a registry
    that cannot be used, ProcessFailed with the log's last lines for a process that does not
    become ready, and OperatorError when Envoy refuses its configuration.
    """
    loaded = load(registry)  # before anything is started for it
    stack = Stack(registry, run_dir, ports or Ports.free(), environment or {})
    envoy = binary.find()
    with _owned(stack):
        async with AsyncExitStack() as stopping:
            await stack._launch_sidecar()
            stopping.push_async_callback(stack.stop_sidecar)
            report(f"sidecar         pid {stack.sidecar.pid}, log {stack.sidecar_log}")

            # Made and checked while the sidecar loads its encoder.
            await asyncio.to_thread(stack._configure_envoy, loaded, envoy)
            report(f"envoy config    {stack.envoy_config}, accepted by Envoy")

            await stack._launch_envoy(envoy)
            stopping.push_async_callback(stack.envoy.stop)
            report(f"envoy           pid {stack.envoy.pid}, log {stack.envoy_log}")

            await stack._sidecar_ready()
            await stack._envoy_ready()
            stopping.push_async_callback(stack._drain_envoy)
            yield stack


@contextmanager
def _owned(stack: Stack) -> Iterator[None]:
    """A run directory with no old logs, that no second stack takes over (and with it, the socket)."""
    if len(os.fsencode(stack.socket)) > _SOCKET_PATH_BYTES:
        raise OperatorError(f"{stack.socket} is too long for a unix socket: use a run directory higher up")
    stack.run_dir.mkdir(parents=True, exist_ok=True)
    with (stack.run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(f"{stack.run_dir} is in use by another run: give this one its own") from error
        for log in (stack.envoy_log, stack.sidecar_log):
            log.unlink(missing_ok=True)
        yield


async def _requests_in_flight(session: aiohttp.ClientSession, admin_url: str) -> int:
    async with session.get(f"{admin_url}/stats?filter=downstream_rq_active$") as answer:
        stats = dict(line.split(": ") for line in (await answer.text()).splitlines())
    return sum(int(count) for name, count in stats.items() if not name.startswith("http.admin."))
