"""`extproc envoy-config --xds`: keeps Envoy's files at what the registry says."""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from extproc.envoyconf import binary, xds
from extproc.envoyconf.admin import Admin, Unreachable
from extproc.envoyconf.bootstrap import render
from extproc.envoyconf.directory import Directory
from extproc.envoyconf.listener import REQUEST_IN
from extproc.envoyconf.site import Site
from extproc.envoyconf.switching import Switch, Switched
from extproc.envoyconf.xds import Generation
from extproc.errors import EnvoyMissing, NotYet, OperatorError, RouterError
from extproc.registry.files import Files
from extproc.registry.keys import missing_keys
from extproc.registry.loading import Loaded, load
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.registry.watching import Watch
from extproc.wire.asking import Answer, can_decide

log = logging.getLogger(__name__)

# A request may take this long to arrive whole, and goes by the routes that its head met.
KEPT_S = REQUEST_IN.total_seconds() + 30.0
_RETRY_S = 10.0
_CANDIDATE = ".candidate.yaml"


class Addresses(msgspec.Struct, frozen=True):
    """What stands in place of the registry's own ``envoy`` section; empty: nothing does."""

    listen: str = ""
    admin: str = ""
    sidecars: tuple[str, ...] = ()

    def put_into(self, registry: Registry) -> Registry:
        """The registry with these addresses."""
        envoy = msgspec.structs.replace(
            registry.envoy,
            listen=self.listen or registry.envoy.listen,
            admin=self.admin or registry.envoy.admin,
            sidecar=list(self.sidecars) or registry.envoy.sidecar,
        )
        return msgspec.structs.replace(registry, envoy=envoy)


_FROM_REGISTRY = Addresses()


class Status(msgspec.Struct, frozen=True):
    """What ``status.json`` says. The counts are since the writer started."""

    pid: int  # of the writer that wrote this
    version: str = ""  # that Envoy's files are of
    problem: str = ""  # why they are not of what the registry's files are now; empty: they are
    envoy_running: bool = False  # did an Envoy take them?
    restart_envoy: bool = False  # bootstrap.yaml has changed since that Envoy started
    sidecars_skipped: tuple[str, ...] = ()  # nobody answered there at the last switch
    old: int = 0  # clusters and hops kept for requests that are still on their way
    switched: int = 0
    refused: int = 0  # mistakes in the registry, and what Envoy or a sidecar does not accept
    postponed: int = 0  # what was not ready in time, and is tried again


class Writer:
    """Writes one registry's files into one directory."""

    def __init__(
        self,
        registry: Path,
        directory: Path,
        addresses: Addresses = _FROM_REGISTRY,
        *,
        clock: Callable[[], float] = time.monotonic,
        ask: Callable[[str, str], Awaitable[Answer]] = can_decide,
        kept_s: float = KEPT_S,
    ) -> None:
        """Old clusters are kept for ``kept_s`` seconds. Raises ``OperatorError``."""
        self._path = registry.absolute()
        self._directory = Directory(directory.absolute())
        self._addresses = addresses
        self._clock = clock
        self._ask = ask
        self._kept_s = kept_s
        self._watch = Watch({self._path: None})
        self._switch: Switch | None = None  # the latest
        self._superseded: dict[str, float] = {}  # when each old cluster and hop became one
        self._retry_at: float | None = None
        self._counts: Counter[str] = Counter()
        self._status = Status(os.getpid())

    @property
    def status(self) -> Status:
        """What was done so far."""
        return self._status

    def reload(self) -> None:
        """Read the registry again, changed or not; the signal handler for SIGHUP."""
        self._watch.tell()

    async def once(self) -> Status:
        """Write what the registry says now. Raises ``OperatorError``, and then nothing has changed."""
        self._retry_at = None
        try:
            switched = await self._bring()
        except RouterError as error:
            postponed = isinstance(error, NotYet | Unreachable)
            self._retry_at = self._clock() + _RETRY_S if postponed else None
            self._counts["postponed" if postponed else "refused"] += 1
            self._tell(problem=str(error))
            raise error if isinstance(error, OperatorError) else NotYet(str(error)) from error
        self._counts["switched"] += 1
        self._tell(
            problem="",
            envoy_running=switched.running,
            # To be on the safe side said for as long as this process runs: Envoy may be restarted unseen.
            restart_envoy=switched.running and (switched.restart or self._status.restart_envoy),
            sidecars_skipped=switched.skipped,
        )
        return self._status

    async def follow(self) -> None:
        """Keep the files at what the registry says, until cancelled. What goes wrong is told, not raised."""
        await self._try()
        while True:
            due = min((at for at in (self._retry_at, self._drop_at()) if at is not None), default=None)
            within_s = None if due is None else max(0.0, due - self._clock())
            if await self._watch.changed(within_s) or self._is_past(self._retry_at):
                await self._try()
            elif self._is_past(self._drop_at()):
                self._drop()

    async def _try(self) -> None:
        try:
            status = await self.once()
        except OperatorError as error:
            log.error("Envoy keeps version %s: %s", self._status.version or "(none)", error)
        except Exception:
            self._counts["refused"] += 1
            self._tell(problem="a defect of ours; the log has it")
            log.exception("Envoy keeps version %s", self._status.version)
        else:
            log.info("Envoy's files are of version %s", status.version, extra=msgspec.to_builtins(status))

    async def _bring(self) -> Switched:
        files = Files()
        try:
            loaded = await asyncio.to_thread(load, self._path, files)
        finally:
            self._watch.see(files.prints)
        for problem in missing_keys(loaded.registry, self._path.parent):
            raise NotYet(problem)
        registry = self._addresses.put_into(loaded.registry)
        new = await asyncio.to_thread(self._generated, registry, loaded)
        switch = Switch(self._directory, Admin(registry.envoy.admin), self._ask, clock=self._clock)
        switched = await switch.to(new, many(registry.envoy.sidecar), examined=loaded.holdout is not None)
        self._switch = switch
        held, now = switch.held(), self._clock()
        old = {*held.clusters, *held.listeners} - {*new.clusters, *new.listeners}
        self._superseded = {name: self._superseded.get(name, now) for name in old}
        return switched

    def _generated(self, registry: Registry, loaded: Loaded) -> Generation:
        """What is to be written, checked by Envoy itself where there is one. Blocks."""
        site = Site(self._path.parent, self._directory.path)
        new = xds.generation(registry, loaded.version, site)
        try:
            envoy = binary.find()
        except EnvoyMissing:
            log.warning("no Envoy here to check the configuration before it is written")
            return new
        self._directory.write(_CANDIDATE, render(new.whole))
        binary.validate(envoy, self._directory.path / _CANDIDATE)
        self._directory.remove(_CANDIDATE)
        return new

    def _drop(self) -> None:
        assert self._switch is not None  # there is nothing to drop before a switch
        dropped = [name for name, at in self._superseded.items() if self._is_past(at + self._kept_s)]
        self._switch.drop(dropped)
        for name in dropped:
            del self._superseded[name]
        log.info("what only older versions had is dropped", extra={"names": ", ".join(dropped)})
        self._tell()

    def _drop_at(self) -> float | None:
        return min(self._superseded.values()) + self._kept_s if self._superseded else None

    def _is_past(self, at: float | None) -> bool:
        return at is not None and self._clock() >= at

    def _tell(self, **changes: object) -> None:
        self._status = msgspec.structs.replace(
            self._status,
            version=xds.held(self._directory.texts()).version,
            old=len(self._superseded),
            **{**self._counts, **changes},
        )
        self._directory.tell(msgspec.json.format(msgspec.json.encode(self._status)).decode() + "\n")
