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
# How long answers in flight may go on once a stop was asked for.
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
    """What one sidecar process has for itself."""

    name: str  # of the process and of its log
    suffix: str
    socket: str
    admin_port: int

    @classmethod
    def at(cls, number: int, admin_port: int) -> Self:
        """The first one's names have no number."""
        suffix = f"-{number}" if number else ""
        return cls(f"sidecar{suffix}", suffix, f"sidecar{suffix}.sock", admin_port)


class Stack:
    """Sidecars, the Envoy that asks them, and what tells it of the registry; made by ``running_stack``."""

    def __init__(
        self,
        registry: Path,
        run_dir: Path,
        ports: Ports,
        environment: Mapping[str, str],
        upstreams: Mapping[str, str],
    ) -> None:
        self.registry = registry.absolute()  # not resolved: it may be a link that is to be followed
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

    @property
    def writer(self) -> Process:
        """The latest process that keeps Envoy's files at what the registry says."""
        return self._processes["writer"]

    def records_of(self, seat: Seat) -> Path:
        """Where one sidecar writes what Envoy tells it."""
        return self.run_dir / f"records{seat.suffix}"

    async def start_sidecar(self, number: int = 0) -> None:
        """Starts a sidecar in place of one that ended, until it is ready. Raises ProcessFailed."""
        await self._launch_sidecar(self.seats[number])
        await self._sidecar_ready(self.seats[number])

    async def sidecars_used(self) -> None:
        """Until Envoy has found every sidecar well, so that the next request is decided.

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
        """Ends a sidecar by ``number``; returns its exit status (minus the signal that ended it)."""
        return await self._processes[self.seats[sidecar].name].stop(number)

    async def start_writer(self) -> None:
        """Starts a writer in place of one that ended, until it has compared registry and files.

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
        """How things stand between the registry and Envoy's files, by whoever wrote them last."""
        status: Mapping[str, Any] = msgspec.json.decode((self.xds / STATUS).read_bytes())
        return status

    async def stop_writer(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the writer by ``number``; Envoy stays as it is."""
        return await self.writer.stop(number)

    async def failed(self) -> NoReturn:
        """Waits until one of the processes ends, and raises its ProcessFailed."""
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
        """Writes the files that Envoy starts with, checked by Envoy itself."""
        await Writer(self.registry, self.xds, self.addresses).once()

    async def _launch_envoy(self, envoy: Path) -> None:
        command = [
            *(str(envoy), "-c", str(self.xds / BOOTSTRAP)),
            # A misspelt field would otherwise be taken for one that is not there.
            "--reject-unknown-dynamic-fields",
            *envoy_process.QUIET,
            # Hot restart would tie Envoys on one machine together by shared memory.
            "--disable-hot-restart",
            # Access logs in files would otherwise be ten seconds behind.
            *("--file-flush-interval-msec", "200"),
        ]
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
                    await asyncio.sleep(_POLL_S)
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
    upstreams: Mapping[str, str] | None = None,
    report: Report = lambda line: None,
) -> AsyncIterator[Stack]:
    """A sidecar and Envoy, ready, for as long as the ``async with`` block lasts.

    ``run_dir`` is made when absent; it gets Envoy's files in ``xds``, a log of each process and
    the segments in ``records``. With several sidecars in ``ports``, all but the first have numbered names.
    The registry's own addresses (``envoy.listen`` and so on) are replaced by loopback and
    ``ports``, free ones by default. ``environment`` is added to the sidecars'. ``upstreams`` says where
    Envoy connects to in place of an address (HOST:PORT) of a model. ``report`` gets a
    line of progress at a time. Changes of the registry are followed.

    At the end Envoy is drained, and stopped after the writer and before the sidecars. Raises
    RegistryError for a registry that cannot be used, ProcessFailed with the log's last lines for
    a process that does not become ready, and OperatorError when Envoy refuses its configuration.
    """
    load(registry)  # before anything is started for it
    stack = Stack(registry, run_dir, ports or Ports.free(), environment or {}, upstreams or {})
    envoy = envoy_process.find()
    with _owned(stack):
        async with AsyncExitStack() as stopping:
            for number, seat in enumerate(stack.seats):
                await stack._launch_sidecar(seat)
                stopping.push_async_callback(stack.stop_sidecar, sidecar=number)
                process = stack._processes[seat.name]
                report(f"{seat.name:<16}pid {process.pid}, log {process.log}")

            # Made and checked while the sidecars load their encoder.
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
    """A run directory with no old logs, that no second stack takes over (and with it, the socket)."""
    socket = stack.run_dir / stack.seats[-1].socket
    if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
        raise OperatorError(f"{socket} is too long for a unix socket: use a run directory higher up")
    stack.run_dir.mkdir(parents=True, exist_ok=True)
    stack.run_dir.chmod(0o700)  # the sidecar refuses a directory where others could replace its socket
    with (stack.run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(f"{stack.run_dir} is in use by another run: give this one its own") from error
        for log in stack.run_dir.glob("*.log"):
            log.unlink()
        # Made anew: what an earlier run left would only keep its clusters.
        shutil.rmtree(stack.xds, ignore_errors=True)
        yield


async def _requests_in_flight(session: aiohttp.ClientSession, admin_url: str) -> int:
    stats = await _stats(session, f"{admin_url}/stats?filter=downstream_rq_active$")
    return sum(count for name, count in stats.items() if not name.startswith("http.admin."))


async def _stats(session: aiohttp.ClientSession, url: str) -> Mapping[str, int]:
    async with session.get(url) as answer:
        lines = (line.split(": ") for line in (await answer.text()).splitlines())
        return {name: int(count) for name, count in lines}
