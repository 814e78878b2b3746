"""Bringing a running Envoy from one version of the registry to the next without losing a request.

The order is everything. First every sidecar has the version, then Envoy has its clusters and hops
beside the old ones, then the routes are replaced: one step, from which on each request asks for
decisions of the new version and meets its clusters. The old ones stay for as long as a request
that began under the old routes may still upload its body.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from extproc.envoyconf import xds_files
from extproc.envoyconf.bootstrap import render
from extproc.envoyconf.envoy_admin import Taken, Unreachable
from extproc.envoyconf.routes import NAME
from extproc.envoyconf.xds_directory import Directory
from extproc.envoyconf.xds_files import BOOTSTRAP, CLUSTERS, LISTENERS, ROUTES, Generation, HeldFiles
from extproc.errors import EnvoyRefused, NotYet
from extproc.wire.grpc_health import ProbeResult

log = logging.getLogger(__name__)

_SECRETS = "1"  # the version of every secret's file: a secret that changes is another file
# Under which name Envoy counts what it does with each file.
_COUNTED = {
    CLUSTERS: "cluster_manager.cds",
    LISTENERS: "listener_manager.lds",
    ROUTES: f"http.{NAME}.rds.{NAME}",
}


class Envoy(Protocol):
    """A running Envoy, as far as it is asked."""

    async def taken(self) -> Mapping[str, Taken]:
        """What became of each kind of resource. Raises ``Unreachable``."""
        ...

    async def active_clusters(self) -> frozenset[str]:
        """The dynamic clusters that requests can be sent to. Raises ``Unreachable``."""
        ...


class Waits(msgspec.Struct, frozen=True):
    """How long each thing is waited for, in seconds."""

    sidecars: float = 30.0  # that are there, to have the version: they may have examples to embed
    gone: float = 2.0  # nobody answers at a sidecar's address: it is not waited for
    taken: float = 5.0  # Envoy takes or refuses a file; milliseconds as a rule
    active: float = 15.0  # clusters resolve names and check health first
    poll: float = 0.05  # between two looks at Envoy
    ask: float = 0.2  # between two questions to a sidecar


_WAITS = Waits()


class Switched(msgspec.Struct, frozen=True):
    """What a switch found."""

    running: bool  # was there an Envoy to follow it?
    skipped: tuple[str, ...] = ()  # sidecars at whose address nobody answered
    restart: bool = False  # the bootstrap changed, which Envoy reads only when it starts


class Switch:
    """Writes generations into a directory in the order that loses nothing."""

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
        """``ask`` asks the sidecar at an address for a version; ``clock`` counts seconds from anywhere."""
        self._directory = directory
        self._envoy = envoy
        self._ask = ask
        self._clock = clock
        self._sleep = sleep
        self._waits = waits

    def held(self) -> HeldFiles:
        """What the files tell Envoy now."""
        return xds_files.held(self._directory.texts())

    async def to(self, new: Generation, sidecars: Sequence[str], *, examined: bool = False) -> Switched:
        """Make Envoy hold ``new``, beside what it holds; the files are as before when Envoy refuses it.

        Without a running Envoy only the files are written. A version that is to be ``examined`` is
        written in place of another only once a sidecar has taken it, whether an Envoy runs or not.
        Raises ``EnvoyRefused``, ``VersionRefused``, and ``NotYet`` when a sidecar does not have the
        version or a cluster is not active in time, or when a file cannot be written.
        """
        before = self._directory.texts()
        old = xds_files.held(before)
        running = await self._is_running()
        unseen = examined and old.version not in ("", new.version)
        skipped = await self._until_decided(new.version, sidecars) if running or unseen else ()
        if unseen and len(skipped) == len(sidecars):
            raise NotYet(
                f"no sidecar is there to examine version {new.version} by its holdout: start `extproc serve`"
            )
        self._directory.write_all(
            {name: xds_files.response(_SECRETS, [secret]) for name, secret in new.secrets.items()}
        )
        steps = {
            CLUSTERS: xds_files.response(new.version, {**old.clusters, **new.clusters}.values()),
            LISTENERS: xds_files.response(new.version, {**old.listeners, **new.listeners}.values()),
            ROUTES: xds_files.response(new.version, [new.routes]),
        }
        # Routes go before a first listener, which Envoy would refuse for good without them; and
        # after the hops that they lead to.
        order = (CLUSTERS, LISTENERS, ROUTES) if ROUTES in before else (CLUSTERS, ROUTES, LISTENERS)
        try:
            for name in order:
                await self._tell(name, steps[name], new, running)
        except (EnvoyRefused, NotYet, Unreachable):
            self._put_back(reversed(order), before)
            raise
        bootstrap = render(new.bootstrap)
        restart = running and before.get(BOOTSTRAP, bootstrap) != bootstrap
        self._directory.write_all({BOOTSTRAP: bootstrap})
        return Switched(running, skipped, restart)

    def drop(self, names: Collection[str]) -> None:
        """Take away clusters and hops of these names, the hops first, and keys that no cluster names.

        Raises ``NotYet`` when a file cannot be written, or when the files are gone.
        """
        held = self.held()
        if not held.version:
            raise NotYet(f"{self._directory.path}: Envoy's files are gone; they are written again")
        for name, resources in ((LISTENERS, held.listeners), (CLUSTERS, held.clusters)):
            kept = [resource for ours, resource in resources.items() if ours not in names]
            self._directory.write(name, xds_files.response(held.version, kept))
        texts = self._directory.texts()
        for name in texts:
            if name.startswith("sds-") and f"/{name}" not in texts[CLUSTERS]:
                self._directory.remove(name)

    async def _is_running(self) -> bool:
        try:
            await self._envoy.taken()
        except Unreachable as unreachable:
            log.info("the files are written for an Envoy that will start: %s", unreachable)
            return False
        return True

    async def _until_decided(self, version: str, sidecars: Sequence[str]) -> tuple[str, ...]:
        """Return once every sidecar has ``version``: those at whose address nobody is.

        Raises ``VersionRefused`` as soon as one refuses it.
        """
        asking = [asyncio.create_task(self._decides(address, version)) for address in sidecars]
        try:
            there = await asyncio.gather(*asking)
        finally:
            for each in asking:  # those that still wait when another has refused
                each.cancel()
        skipped = tuple(address for address, is_there in zip(sidecars, there, strict=True) if not is_there)
        for address in skipped:
            log.warning("nobody answers at %s: that sidecar is not waited for", address)
        return skipped

    async def _decides(self, address: str, version: str) -> bool:
        started = seen = self._clock()
        while (answer := await self._ask(address, version)) is not ProbeResult.YES:
            now = self._clock()
            if answer is ProbeResult.NO:
                seen = now
            elif now - seen >= self._waits.gone:
                return False
            if now - started >= self._waits.sidecars:
                raise NotYet(
                    f"the sidecar at {address} does not have version {version} after "
                    f"{self._waits.sidecars:g} s: its /readyz says why"
                )
            await self._sleep(self._waits.ask)
        return True

    async def _tell(self, name: str, text: str, new: Generation, running: bool) -> None:
        if not running:
            self._directory.write(name, text)
            return
        counted = _COUNTED[name]
        refusals = (await self._envoy.taken()).get(counted, Taken()).refusals
        self._directory.write(name, text)
        await self._until(
            lambda: self._took(name, new.version, refusals),
            self._waits.taken,
            f"Envoy did not take {name} within {self._waits.taken:g} s",
        )
        if name == CLUSTERS:
            await self._until(
                lambda: self._all_active(new),
                self._waits.active,
                f"not every cluster of version {new.version} is active after {self._waits.active:g} s",
            )

    async def _took(self, name: str, version: str, refusals: int) -> bool:
        taken = (await self._envoy.taken()).get(_COUNTED[name], Taken())
        if taken.refusals > refusals:
            raise EnvoyRefused(f"{name} of version {version}: Envoy's log says why")
        return taken.version == version

    async def _all_active(self, new: Generation) -> bool:
        return await self._envoy.active_clusters() >= new.clusters.keys()

    async def _until(self, holds: Callable[[], Awaitable[bool]], within_s: float, problem: str) -> None:
        started = self._clock()
        while not await holds():
            if self._clock() - started >= within_s:
                raise NotYet(problem)
            await self._sleep(self._waits.poll)

    def _put_back(self, names: Iterable[str], before: Mapping[str, str]) -> None:
        """Restore the files as far as the disk lets us; the next try begins from what there is."""
        for name in names:
            if name in before:
                try:
                    self._directory.write(name, before[name])
                except NotYet as error:
                    log.warning("a file of Envoy's could not be put back: %s", error)
