"""`extproc envoy-config --xds`: keeps Envoy's files in line with the registry."""

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from extproc.envoyconf import envoy_process, xds_files
from extproc.envoyconf.envoy_process import Admin, Unreachable
from extproc.envoyconf.listeners import REQUEST_IN
from extproc.envoyconf.typed_config import Site
from extproc.envoyconf.version_switching import Switch, Switched
from extproc.envoyconf.xds_directory import Directory
from extproc.envoyconf.xds_files import Generation
from extproc.errors import EnvoyMissing, NotYet, OperatorError, RouterError
from extproc.registry.checks.shared_checks import plaintext_problem
from extproc.registry.key_files import missing_keys
from extproc.registry.model_settings import Endpoint, Upstream
from extproc.registry.registry_files import Files, FileWatch
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.registry.tier_compiling import consulted_models
from extproc.wire.grpc_health import ProbeResult, can_decide
from extproc.wire.socket_files import access_of, own_directory

log = logging.getLogger(__name__)

_Upstream = TypeVar("_Upstream", bound=Upstream)

# A request may take this long to arrive completely, and uses the routes that its head matched.
KEPT_S = REQUEST_IN.total_seconds() + 30.0
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 10.0  # each wait is twice the one before
_CANDIDATE = ".candidate.json"
_DEFECT = "an internal error; see the log"


class Addresses(msgspec.Struct, frozen=True):
    """Addresses that replace those of the registry's ``envoy`` section. Empty: the registry's."""

    listen: str = ""
    admin: str = ""
    sidecars: tuple[str, ...] = ()
    upstreams: Mapping[str, str] = {}  # an address of a model or of passthrough, and its replacement

    def put_into(self, registry: Registry) -> Registry:
        """The registry with these addresses. Raises ``OperatorError``."""
        for address in self.sidecars:
            if problem := plaintext_problem(address, registry.envoy.sidecar_plaintext):
                raise OperatorError(f"--sidecar: {problem}")
        envoy = msgspec.structs.replace(
            registry.envoy,
            listen=self.listen or registry.envoy.listen,
            admin=self.admin or registry.envoy.admin,
            sidecar=list(self.sidecars) or registry.envoy.sidecar,
        )
        passthrough = registry.passthrough
        return msgspec.structs.replace(
            registry,
            envoy=envoy,
            models={name: self._moved(model) for name, model in registry.models.items()},
            passthrough=None if passthrough is None else self._moved(passthrough),
        )

    def _moved(self, upstream: _Upstream) -> _Upstream:
        """The upstream with its addresses replaced. Its ``base_url``, with host and path, does not change."""
        if self.upstreams.keys().isdisjoint(upstream.addresses):
            return upstream
        endpoints = [
            Endpoint(address=self.upstreams.get(address, address), weight=weight)
            for address, weight in upstream.addresses.items()
        ]
        return msgspec.structs.replace(upstream, endpoints=endpoints)


_FROM_REGISTRY = Addresses()


class Status(msgspec.Struct, frozen=True):
    """The content of ``status.json``. The counts begin when the writer starts."""

    pid: int  # of the writer that wrote this
    version: str = ""  # of Envoy's files
    problem: str = ""  # why Envoy's files are not those of the registry; empty: they are
    envoy_running: bool = False  # whether a running Envoy accepted them
    restart_envoy: bool = False  # whether bootstrap.yaml has changed since that Envoy started
    sidecars_skipped: tuple[str, ...] = ()  # the addresses that did not answer at the last switch
    old: int = 0  # clusters and hops kept for requests of older versions
    switched: int = 0
    refused: int = 0  # mistakes in the registry, and versions that Envoy or a sidecar rejected
    postponed: int = 0  # changes that were not ready in time or could not be written, and are retried


class Writer:
    """Writes one registry's files into one directory."""

    def __init__(
        self,
        registry: Path,
        directory: Path,
        addresses: Addresses = _FROM_REGISTRY,
        *,
        clock: Callable[[], float] = time.monotonic,
        ask: Callable[[str, str], Awaitable[ProbeResult]] = can_decide,
        kept_s: float = KEPT_S,
    ) -> None:
        """Keep old clusters for ``kept_s`` seconds. Raises ``OperatorError``."""
        self._path = registry.absolute()
        self._directory = Directory(directory.absolute())
        self._addresses = addresses
        self._clock = clock
        self._ask = ask
        self._kept_s = kept_s
        self._watch = FileWatch({self._path: None})
        self._switch: Switch | None = None  # the latest
        self._superseded: dict[str, float] = {}  # old clusters and hops, and since when they are old
        self._retry_at: float | None = None  # None: no failure that a retry may mend
        self._retry_s = _FIRST_RETRY_S
        self._counts: Counter[str] = Counter()
        self._status = Status(os.getpid())
        self._reported = True  # whether the status file is up to date

    @property
    def status(self) -> Status:
        """The state of the files."""
        return self._status

    def reload(self) -> None:
        """Read the registry again, changed or not. This is the signal handler of SIGHUP."""
        self._watch.wake()

    async def once(self) -> Status:
        """Write the files of the present registry. Raises ``OperatorError``; Envoy then keeps its version."""
        try:
            switched = await self._bring()
        except RouterError as error:
            postponed = isinstance(error, NotYet | Unreachable)
            self._counts["postponed" if postponed else "refused"] += 1
            self._report(problem=str(error))
            raise error if isinstance(error, OperatorError) else NotYet(str(error)) from error
        self._counts["switched"] += 1
        self._report(
            problem="",
            envoy_running=switched.running,
            # Kept until this process ends, because it cannot see whether Envoy was restarted.
            restart_envoy=switched.running and (switched.restart or self._status.restart_envoy),
            sidecars_skipped=switched.skipped,
        )
        return self._status

    async def follow(self) -> None:
        """Keep the files in line with the registry, until cancelled.

        No error ends it. Temporary problems are retried with increasing waits.
        """
        due = True
        while True:
            succeeded = (await self._try_switch() if due else True) and self._try_drop()
            self._plan_retry(succeeded and self._reported)
            due = await self._watch.changed(self._within_s()) or self._is_past(self._retry_at)

    async def _try_switch(self) -> bool:
        """Returns False if a retry may help, although the registry does not change."""
        try:
            status = await self.once()
        except NotYet as error:
            log.error("not applied yet; Envoy keeps version %s; retrying: %s", self._kept(), error)
            return False
        except OperatorError as error:
            log.error("rejected; Envoy keeps version %s: %s", self._kept(), error)
        except Exception:
            self._counts["refused"] += 1
            self._report(problem=_DEFECT)
            log.exception("internal error; Envoy keeps version %s", self._kept())
        else:
            log.info("Envoy's files have version %s", status.version, extra=msgspec.to_builtins(status))
        return True

    def _try_drop(self) -> bool:
        """Drop old clusters and hops that are due. Returns False if that must be retried."""
        if not self._is_past(self._drop_at()):
            return True
        try:
            self._drop()
        except NotYet as error:
            self._counts["postponed"] += 1
            self._report(problem=str(error))
            log.error("clusters of older versions are not dropped yet; retrying: %s", error)
            return False
        except Exception:
            self._report(problem=_DEFECT)
            log.exception("internal error; clusters of older versions are not dropped yet; retrying")
            return False
        return True

    def _plan_retry(self, succeeded: bool) -> None:
        if succeeded:
            self._retry_at, self._retry_s = None, _FIRST_RETRY_S
            return
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    def _within_s(self) -> float | None:
        """How long to wait for a change: until the retry or, without one, until a drop is due."""
        due = self._drop_at() if self._retry_at is None else self._retry_at
        return None if due is None else max(0.0, due - self._clock())

    def _kept(self) -> str:
        return self._status.version or "(none)"

    async def _bring(self) -> Switched:
        files = Files()
        try:
            loaded = await asyncio.to_thread(load, self._path, files)
        finally:
            self._watch.watch(files.prints)
        for problem in missing_keys(loaded.registry, self._path.parent):
            raise NotYet(problem)
        registry = self._addresses.put_into(loaded.registry)
        new = await asyncio.to_thread(self._generated, registry, loaded)
        if consulted_models(registry):
            own_directory(registry.envoy.egress, access_of(registry.envoy.socket_group))
        switch = Switch(self._directory, Admin(registry.envoy.admin), self._ask, clock=self._clock)
        switched = await switch.to(new, many(registry.envoy.sidecar), examined=loaded.holdout is not None)
        self._switch = switch
        held, now = switch.held(), self._clock()
        old = {*held.clusters, *held.listeners} - {*new.clusters, *new.listeners}
        self._superseded = {name: self._superseded.get(name, now) for name in old}
        return switched

    def _generated(self, registry: Registry, loaded: LoadedRegistry) -> Generation:
        """The content of the files, checked by Envoy if it is installed. Blocks."""
        site = Site(self._path.parent, self._directory.path)
        new = xds_files.generation(registry, loaded.version, site)
        try:
            envoy = envoy_process.find()
        except EnvoyMissing:
            log.warning("Envoy not found, so the configuration is not checked before it is written")
            return new
        self._directory.write(_CANDIDATE, json.dumps(new.whole))
        envoy_process.validate(envoy, self._directory.path / _CANDIDATE)
        self._directory.remove(_CANDIDATE)
        return new

    def _drop(self) -> None:
        assert self._switch is not None  # there is nothing to drop before a switch
        dropped = [name for name, at in self._superseded.items() if self._is_past(at + self._kept_s)]
        self._switch.drop(dropped)
        for name in dropped:
            del self._superseded[name]
        log.info("clusters of older versions are dropped", extra={"names": ", ".join(dropped)})
        self._report()

    def _drop_at(self) -> float | None:
        return min(self._superseded.values()) + self._kept_s if self._superseded else None

    def _is_past(self, at: float | None) -> bool:
        return at is not None and self._clock() >= at

    def _report(self, **changes: object) -> None:
        """Update the status, and its file if that can be written."""
        self._status = msgspec.structs.replace(
            self._status, old=len(self._superseded), **{**self._counts, **changes}
        )
        try:
            version = xds_files.held(self._directory.texts()).version
            self._status = msgspec.structs.replace(self._status, version=version)
            self._directory.report(msgspec.json.format(msgspec.json.encode(self._status)).decode() + "\n")
        except NotYet as error:
            log.error("the status is not written: %s", error, extra={"problem": self._status.problem})
            self._reported = False
        else:
            self._reported = True
