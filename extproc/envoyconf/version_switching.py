"""Brings a running Envoy from one version of the registry to the next without losing a request.

The order matters. First, every sidecar must have the new version. Then Envoy gets the new clusters and hops
beside the old ones. Then the routes are replaced in one step: from there on, each request asks for a decision
of the new version and uses its clusters. The old clusters and hops stay while a request that began on the old
routes may still upload its body.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from extproc.envoyconf import xds_files
from extproc.envoyconf.bootstrap import render
from extproc.envoyconf.envoy_process import Unreachable, Updates
from extproc.envoyconf.routes import NAME
from extproc.envoyconf.xds_directory import Directory
from extproc.envoyconf.xds_files import BOOTSTRAP, CLUSTERS, LISTENERS, ROUTES, Generation, HeldFiles
from extproc.errors import EnvoyRefused, NotYet
from extproc.wire.grpc_health import ProbeResult

log = logging.getLogger(__name__)

_SECRETS_VERSION = "1"  # of every secret's file: a secret that changes gets a new file
# The name of each file's updates in Envoy's statistics.
_UPDATES = {
    CLUSTERS: "cluster_manager.cds",
    LISTENERS: "listener_manager.lds",
    ROUTES: f"http.{NAME}.rds.{NAME}",
}


class Envoy(Protocol):
    """What a switch reads of a running Envoy."""

    async def updates(self) -> Mapping[str, Updates]:
        """The updates of each kind of resource. Raises ``Unreachable``."""
        ...

    async def active_clusters(self) -> frozenset[str]:
        """The dynamic clusters that requests can be sent to. Raises ``Unreachable``."""
        ...


class Waits(msgspec.Struct, frozen=True):
    """How long to wait for each condition, in seconds."""

    sidecars: float = 30.0  # until a sidecar that answers has the version: it may have to embed examples
    absent: float = 2.0  # until a sidecar that does not answer is skipped
    accepted: float = 5.0  # until Envoy accepts or rejects a file, which usually takes milliseconds
    active: float = 15.0  # until clusters are active: they resolve names and check health first
    poll: float = 0.05  # between two queries of Envoy
    ask: float = 0.2  # between two queries of a sidecar


_WAITS = Waits()


class Switched(msgspec.Struct, frozen=True):
    """The result of a switch."""

    running: bool  # whether an Envoy runs and has switched
    skipped: tuple[str, ...] = ()  # the addresses of sidecars that did not answer
    restart: bool = False  # whether the bootstrap changed, which Envoy reads only when it starts


class Switch:
    """Writes generations into a directory in the order that loses no request."""

    def __init__(
        self,
        directory: Directory,
        envoy: Envoy,
        ask: Callable[[str, str], Awaitable[ProbeResult]],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waits: Waits = _WAITS,
    ) -> None:
        """``ask`` asks the sidecar at an address for a version. ``clock`` counts seconds from any origin."""
        self._directory = directory
        self._envoy = envoy
        self._ask = ask
        self._clock = clock
        self._sleep = sleep
        self._waits = waits

    def held(self) -> HeldFiles:
        """What the files contain now."""
        return xds_files.held(self._directory.texts())

    async def to(self, new: Generation, sidecars: Sequence[str], *, examined: bool = False) -> Switched:
        """Make Envoy use ``new`` and keep the old clusters. If Envoy rejects it, restore the files.

        Without a running Envoy, only write the files. If the version must be ``examined`` by a sidecar, it
        replaces another version only after a sidecar has accepted it, also without a running Envoy. Raises
        ``EnvoyRefused`` and ``VersionRefused``. Raises ``NotYet`` if a sidecar does not have the version or a
        cluster is not active in time, or if a file cannot be written.
        """
        before = self._directory.texts()
        old = xds_files.held(before)
        running = await self._is_running()
        unseen = examined and old.version not in ("", new.version)
        skipped = await self._until_decided(new.version, sidecars) if running or unseen else ()
        if unseen and len(skipped) == len(sidecars):
            raise NotYet(
                f"no sidecar answers to examine version {new.version} by its holdout: start `extproc serve`"
            )
        self._directory.write_all(
            {name: xds_files.response(_SECRETS_VERSION, [secret]) for name, secret in new.secrets.items()}
        )
        steps = {
            CLUSTERS: xds_files.response(new.version, {**old.clusters, **new.clusters}.values()),
            LISTENERS: xds_files.response(new.version, {**old.listeners, **new.listeners}.values()),
            ROUTES: xds_files.response(new.version, [new.routes]),
        }
        # Routes come after the hops that they use, but before a first listener: without routes, Envoy would
        # reject it permanently.
        order = (CLUSTERS, LISTENERS, ROUTES) if ROUTES in before else (CLUSTERS, ROUTES, LISTENERS)
        try:
            for name in order:
                await self._apply(name, steps[name], new, running)
        except (EnvoyRefused, NotYet, Unreachable):
            self._restore(reversed(order), before)
            raise
        bootstrap = render(new.bootstrap)
        restart = running and before.get(BOOTSTRAP, bootstrap) != bootstrap
        self._directory.write_all({BOOTSTRAP: bootstrap})
        return Switched(running, skipped, restart)

    def drop(self, names: Collection[str]) -> None:
        """Remove the hops and then the clusters of these names, and keys that no cluster uses.

        Raises ``NotYet`` if a file cannot be written, or if the files are gone.
        """
        held = self.held()
        if not held.version:
            raise NotYet(f"{self._directory.path}: Envoy's files are gone; they will be written again")
        for name, resources in ((LISTENERS, held.listeners), (CLUSTERS, held.clusters)):
            kept = [resource for ours, resource in resources.items() if ours not in names]
            self._directory.write(name, xds_files.response(held.version, kept))
        texts = self._directory.texts()
        for name in texts:
            if name.startswith("sds-") and f"/{name}" not in texts[CLUSTERS]:
                self._directory.remove(name)

    async def _is_running(self) -> bool:
        try:
            await self._envoy.updates()
        except Unreachable as unreachable:
            log.info("no Envoy runs, so only the files are written: %s", unreachable)
            return False
        return True

    async def _until_decided(self, version: str, sidecars: Sequence[str]) -> tuple[str, ...]:
        """Wait until every sidecar has ``version``. Return the addresses of sidecars that do not answer.

        Raises ``VersionRefused`` as soon as a sidecar rejects it.
        """
        asking = [asyncio.create_task(self._decides(address, version)) for address in sidecars]
        try:
            decides = await asyncio.gather(*asking)
        finally:
            for each in asking:  # those that still wait when another has rejected the version
                each.cancel()
        skipped = tuple(address for address, ready in zip(sidecars, decides, strict=True) if not ready)
        for address in skipped:
            log.warning("the sidecar at %s does not answer; the switch does not wait for it", address)
        return skipped

    async def _decides(self, address: str, version: str) -> bool:
        started = seen = self._clock()
        while (answer := await self._ask(address, version)) is not ProbeResult.YES:
            now = self._clock()
            if answer is ProbeResult.NO:
                seen = now
            elif now - seen >= self._waits.absent:
                return False
            if now - started >= self._waits.sidecars:
                raise NotYet(
                    f"the sidecar at {address} does not have version {version} after "
                    f"{self._waits.sidecars:g} s: see its /readyz"
                )
            await self._sleep(self._waits.ask)
        return True

    async def _apply(self, name: str, text: str, new: Generation, running: bool) -> None:
        """Write a file, and wait until a running Envoy has accepted it."""
        if not running:
            self._directory.write(name, text)
            return
        rejected = (await self._updates(name)).rejected
        self._directory.write(name, text)
        await self._until(
            lambda: self._is_accepted(name, new.version, rejected),
            self._waits.accepted,
            f"Envoy did not accept {name} within {self._waits.accepted:g} s",
        )
        if name == CLUSTERS:
            await self._until(
                lambda: self._all_active(new),
                self._waits.active,
                f"not every cluster of version {new.version} is active after {self._waits.active:g} s",
            )

    async def _updates(self, name: str) -> Updates:
        return (await self._envoy.updates()).get(_UPDATES[name], Updates())

    async def _is_accepted(self, name: str, version: str, rejected_before: int) -> bool:
        updates = await self._updates(name)
        if updates.rejected > rejected_before:
            raise EnvoyRefused(f"{name} of version {version} is rejected: see Envoy's log")
        return updates.version == version

    async def _all_active(self, new: Generation) -> bool:
        return await self._envoy.active_clusters() >= new.clusters.keys()

    async def _until(self, holds: Callable[[], Awaitable[bool]], within_s: float, problem: str) -> None:
        started = self._clock()
        while not await holds():
            if self._clock() - started >= within_s:
                raise NotYet(problem)
            await self._sleep(self._waits.poll)

    def _restore(self, names: Iterable[str], before: Mapping[str, str]) -> None:
        """Restore the files as far as the disk allows. The next try begins with the files as they are."""
        for name in names:
            if name in before:
                try:
                    self._directory.write(name, before[name])
                except NotYet as error:
                    log.warning("a file of Envoy's could not be restored: %s", error)
