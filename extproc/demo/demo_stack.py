"""A running Envoy, sidecar and writer made from one registry, for `make run` and the end-to-end tests.

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
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import aiohttp
import msgspec

from extproc.demo.child_processes import Process
from extproc.demo.loopback_ports import HOST, free
from extproc.envoyconf import envoy_process
from extproc.envoyconf.clusters import SIDECAR_CLUSTER
from extproc.envoyconf.xds_directory import STATUS
from extproc.envoyconf.xds_files import BOOTSTRAP
from extproc.envoyconf.xds_writer import Addresses, Writer
from extproc.errors import OperatorError
from extproc.registry.registry_loading import load

Report = Callable[[str], None]

# Loading the encoder from a cold disk is the slowest part of any start.
_SIDECAR_START_S = 60.0
_ENVOY_START_S = 30.0
_WRITER_START_S = 60.0
# Envoy looks for sidecars twice a second.
_SIDECARS_USED_S = 10.0
# How long answers in flight may continue after a stop is requested.
_DRAIN_S = 5.0
_POLL_S = 0.02
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
    more_sidecar_admins: tuple[int, ...] = ()  # one per sidecar beside the first

    @classmethod
    def free(cls, sidecars: int = 1) -> Self:
        """Ports that the system chose."""
        envoy, envoy_admin, first, *more = free(2 + sidecars)
        return cls(envoy, envoy_admin, first, tuple(more))

    @property
    def sidecar_admins(self) -> tuple[int, ...]:
        """Of every sidecar."""
        return (self.sidecar_admin, *self.more_sidecar_admins)


class Seat(msgspec.Struct, frozen=True):
    """The names, socket and port of one sidecar process."""

    name: str  # of the process and of its log
    suffix: str
    socket: str
    admin_port: int

    @classmethod
    def at(cls, number: int, admin_port: int) -> Self:
        """The seat of sidecar ``number``. The names of the first have no number."""
        suffix = f"-{number}" if number else ""
        return cls(f"sidecar{suffix}", suffix, f"sidecar{suffix}.sock", admin_port)


class Stack:
    """Sidecars, their Envoy, and the writer of its files. ``running_stack`` creates it."""

    def __init__(
        self,
        registry: Path,
        run_dir: Path,
        ports: Ports,
        environment: Mapping[str, str],
        upstreams: Mapping[str, str],
    ) -> None:
        self.registry = registry.absolute()  # not resolved, because it may be a link that changes
        self.run_dir = run_dir = run_dir.resolve()
        self.ports = ports
        self.xds = run_dir / "xds"
        self.envoy_log = run_dir / "envoy.log"
        self.writer_log = run_dir / "writer.log"
        self.seats = [Seat.at(number, port) for number, port in enumerate(ports.sidecar_admins)]
        self.sidecar_log = run_dir / "sidecar.log"
        self.records = run_dir / "records"
        self._environment = environment
        self._processes: dict[str, Process] = {}
        self.addresses = Addresses(
            f"{HOST}:{ports.envoy}",
            f"{HOST}:{ports.envoy_admin}",
            tuple(f"unix:{run_dir / seat.socket}" for seat in self.seats),
            upstreams,
        )

    @property
    def url(self) -> str:
        """Envoy's URL for clients, without ``/v1``."""
        return f"http://{HOST}:{self.ports.envoy}"

    @property
    def envoy_admin_url(self) -> str:
        """Envoy's admin interface: /ready, /stats, /config_dump."""
        return f"http://{HOST}:{self.ports.envoy_admin}"

    @property
    def sidecar_admin_url(self) -> str:
        """The sidecar's admin interface: /healthz, /readyz, /metrics."""
        return f"http://{HOST}:{self.ports.sidecar_admin}"

    @property
    def envoy(self) -> Process:
        """The Envoy process."""
        return self._processes["envoy"]

    @property
    def sidecar(self) -> Process:
        """The latest sidecar process. After ``stop_sidecar``, it has ended."""
        return self._processes["sidecar"]

    @property
    def writer(self) -> Process:
        """The latest process that keeps Envoy's files in line with the registry."""
        return self._processes["writer"]

    def records_of(self, seat: Seat) -> Path:
        """The directory of one sidecar's records."""
        return self.run_dir / f"records{seat.suffix}"

    async def start_sidecar(self, number: int = 0) -> None:
        """Start a sidecar in place of one that ended, and wait until it is ready. Raises ProcessFailed."""
        await self._launch_sidecar(self.seats[number])
        await self._sidecar_ready(self.seats[number])

    async def sidecars_used(self) -> None:
        """Wait until Envoy's health checks of every sidecar pass, so that the next request is decided.

        Raises ProcessFailed for Envoy.
        """
        url = f"{self.envoy_admin_url}/stats?filter=^cluster.{SIDECAR_CLUSTER}.membership_healthy$"
        try:
            async with asyncio.timeout(_SIDECARS_USED_S), aiohttp.ClientSession() as session:
                while sum((await _stats(session, url)).values()) < len(self.seats):  # noqa: ASYNC110 - it pushes no event
                    await asyncio.sleep(_POLL_S)
        except (aiohttp.ClientError, TimeoutError):
            raise self.envoy.failure() from None

    async def stop_sidecar(self, number: signal.Signals = signal.SIGTERM, sidecar: int = 0) -> int:
        """Send signal ``number`` to a sidecar and wait. Returns its status, or minus a signal's number."""
        return await self._processes[self.seats[sidecar].name].stop(number)

    async def start_writer(self) -> None:
        """Start a writer in place of one that ended, and wait until it has compared registry and files.

        Raises ProcessFailed.
        """
        command = [
            *(sys.executable, "-m", "extproc", "envoy-config", "--watch"),
            *("--registry", str(self.registry)),
            *("--xds", str(self.xds)),
            *("--listen", self.addresses.listen),
            *("--admin", self.addresses.admin),
            *(part for address in self.addresses.sidecars for part in ("--sidecar", address)),
            *(part for moved in self.addresses.upstreams.items() for part in ("--upstream", "=".join(moved))),
        ]
        self._processes["writer"] = await Process.start(
            "writer", command, log=self.writer_log, environment=self._environment
        )
        try:
            async with asyncio.timeout(_WRITER_START_S):
                while self.writer_status()["pid"] != self.writer.pid and self.writer.returncode is None:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise self.writer.failure() from None
        if self.writer.returncode is not None:
            raise self.writer.failure()

    def writer_status(self) -> Mapping[str, Any]:
        """The content of the writer's ``status.json``."""
        status: Mapping[str, Any] = msgspec.json.decode((self.xds / STATUS).read_bytes())
        return status

    async def stop_writer(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send signal ``number`` to the writer and wait. Envoy does not change."""
        return await self.writer.stop(number)

    async def failed(self) -> NoReturn:
        """Wait until one of the processes ends, and raise its ProcessFailed."""
        ends = {asyncio.create_task(process.wait()): process for process in self._processes.values()}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        raise ends[done.pop()].failure()

    async def _launch_sidecar(self, seat: Seat) -> None:
        command = [
            *(sys.executable, "-m", "extproc", "serve"),
            *("--registry", str(self.registry)),
            *("--listen", f"unix:{self.run_dir / seat.socket}"),
            *("--admin", f"{HOST}:{seat.admin_port}"),
            *("--records", str(self.records_of(seat))),
        ]
        self._processes[seat.name] = await Process.start(
            seat.name, command, log=self.run_dir / f"{seat.name}.log", environment=self._environment
        )

    async def _sidecar_ready(self, seat: Seat) -> None:
        url = f"http://{HOST}:{seat.admin_port}/readyz"
        await self._processes[seat.name].ready(url, timeout_s=_SIDECAR_START_S)

    async def _configure_envoy(self) -> None:
        """Write the files that Envoy starts with. Envoy checks them."""
        await Writer(self.registry, self.xds, self.addresses).once()

    async def _launch_envoy(self, envoy: Path) -> None:
        command = [
            *(str(envoy), "-c", str(self.xds / BOOTSTRAP)),
            # Otherwise Envoy ignores misspelt fields.
            "--reject-unknown-dynamic-fields",
            *envoy_process.QUIET,
            # With hot restart, Envoys on one machine would share memory.
            "--disable-hot-restart",
            # Otherwise Envoy writes access logs only every ten seconds.
            *("--file-flush-interval-msec", "200"),
        ]
        self._processes["envoy"] = await Process.start("envoy", command, log=self.envoy_log)

    async def _envoy_ready(self) -> None:
        await self.envoy.ready(f"{self.envoy_admin_url}/ready", timeout_s=_ENVOY_START_S)

    async def _drain_envoy(self) -> None:
        """Accept no more connections, and wait until open answers end and their records arrive."""
        try:
            async with asyncio.timeout(_DRAIN_S), aiohttp.ClientSession(timeout=_ADMIN_TIMEOUT) as session:
                for command in ("healthcheck/fail", "drain_listeners"):
                    async with session.post(f"{self.envoy_admin_url}/{command}"):
                        pass
                while await _requests_in_flight(session, self.envoy_admin_url):  # noqa: ASYNC110 - it pushes no event
                    await asyncio.sleep(_POLL_S)
                await asyncio.sleep(_ACCESS_LOG_FLUSH_S)
        except (aiohttp.ClientError, TimeoutError):
            return  # Envoy is dead, hangs, or has slow clients; it is stopped in any case


@asynccontextmanager
async def running_stack(
    registry: Path,
    run_dir: Path,
    ports: Ports | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    upstreams: Mapping[str, str] | None = None,
    report: Report = lambda line: None,
) -> AsyncIterator[Stack]:
    """A sidecar and Envoy that are ready, and follow the registry, while the ``async with`` block lasts.

    ``run_dir`` is created if absent. It gets Envoy's files in ``xds``, a log of each process, and the
    segments in ``records``. With several sidecars in ``ports``, all but the first have numbered names.
    ``ports`` (by default free ones) on loopback replace the registry's own addresses, such as
    ``envoy.listen``. ``environment`` is added to that of the sidecars. ``upstreams`` maps an address
    (HOST:PORT) of a model to the one to which Envoy connects. ``report`` gets one line of progress at a time.

    At the end, Envoy is drained, and stopped after the writer and before the sidecars. Raises RegistryError
    for an invalid registry, ProcessFailed with the log's last lines for a process that does not become ready,
    and OperatorError if Envoy rejects its configuration.
    """
    load(registry)  # fails before any process starts
    stack = Stack(registry, run_dir, ports or Ports.free(), environment or {}, upstreams or {})
    envoy = envoy_process.find()
    with _owned(stack):
        async with AsyncExitStack() as stopping:
            for number, seat in enumerate(stack.seats):
                await stack._launch_sidecar(seat)
                stopping.push_async_callback(stack.stop_sidecar, sidecar=number)
                process = stack._processes[seat.name]
                report(f"{seat.name:<16}pid {process.pid}, log {process.log}")

            # Created and checked while the sidecars load their encoder.
            await stack._configure_envoy()
            report(f"envoy config    {stack.xds}, accepted by Envoy")

            await stack._launch_envoy(envoy)
            stopping.push_async_callback(stack.envoy.stop)
            report(f"envoy           pid {stack.envoy.pid}, log {stack.envoy_log}")

            for seat in stack.seats:
                await stack._sidecar_ready(seat)
            await stack._envoy_ready()
            await stack.sidecars_used()
            await stack.start_writer()
            stopping.push_async_callback(stack.stop_writer)
            report(f"writer          pid {stack.writer.pid}, log {stack.writer_log}")
            stopping.push_async_callback(stack._drain_envoy)
            yield stack


@contextmanager
def _owned(stack: Stack) -> Iterator[None]:
    """Lock the run directory against a second stack, which would replace the socket, and remove old logs."""
    socket = stack.run_dir / stack.seats[-1].socket
    if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
        raise OperatorError(f"{socket} is too long for a unix socket: use a shorter run directory")
    stack.run_dir.mkdir(parents=True, exist_ok=True)
    stack.run_dir.chmod(0o700)  # the sidecar refuses a directory where others could replace its socket
    with (stack.run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(f"{stack.run_dir} is in use by another run: choose another one") from error
        for log in stack.run_dir.glob("*.log"):
            log.unlink()
        # Files of an earlier run would only keep its clusters.
        shutil.rmtree(stack.xds, ignore_errors=True)
        yield


async def _requests_in_flight(session: aiohttp.ClientSession, admin_url: str) -> int:
    stats = await _stats(session, f"{admin_url}/stats?filter=downstream_rq_active$")
    return sum(count for name, count in stats.items() if not name.startswith("http.admin."))


async def _stats(session: aiohttp.ClientSession, url: str) -> Mapping[str, int]:
    async with session.get(url) as answer:
        lines = (line.split(": ") for line in (await answer.text()).splitlines())
        return {name: int(count) for name, count in lines}
