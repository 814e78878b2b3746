"""The registry that serves: followed while it changes, the last good version kept whatever comes."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from extproc.errors import HoldoutFailed, RouterError
from extproc.registry.file_watching import FileWatch
from extproc.registry.registry_files import Files
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.releases import Release, Releases
from extproc.registry.schema import Registry

log = logging.getLogger(__name__)

Compile = Callable[[LoadedRegistry, Release | None], Release]
"""Makes a version ready to decide, given the one that does now. Raises ``RouterError`` to refuse it."""

_TIDY_S = 60.0  # how often versions that nobody needs are looked for


class Result(StrEnum):
    """What became of a reload. Labels a metric."""

    LOADED = "loaded"
    UNCHANGED = "unchanged"  # what was written says what decides already
    REFUSED = "refused"  # a mistake in the files, or a holdout that is not routed well enough
    FAILED = "failed"  # a defect of ours, or of the encoder


class State(msgspec.Struct, frozen=True):
    """What decides, and what stands in the way of what is on the disk."""

    version: str  # the newest that can decide
    problem: str = ""  # of the files as they are now: FILE:LINE: what is wrong
    restart_for: tuple[str, ...] = ()  # keys whose new values count from the next start only
    refused: str = ""  # the version of the files as they are now, where that failed its holdout

    def __str__(self) -> str:
        told = [f"version {self.version}"]
        if self.problem:
            told.append(f"the files are newer, but cannot be used: {self.problem}")
        if self.restart_for:
            told.append(f"restart to apply {', '.join(self.restart_for)}")
        return "; ".join(told)


class LiveRegistry:
    """One registry for the life of a process: ``begin``, then ``follow`` until cancelled."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Reads the registry as it is now. ``clock`` counts seconds from anywhere.

        Raises ``RegistryError``.
        """
        files = Files()
        self.first = load(path, files)
        self._clock = clock
        self._watch = FileWatch(files.prints)
        self._state = State(self.first.version)

    @property
    def version(self) -> str:
        """The newest version that is good."""
        return self._state.version

    @property
    def refused(self) -> Mapping[str, str]:
        """Versions that failed their holdout, and why: that of the files as they are now, or none."""
        return {self._state.refused: self._state.problem} if self._state.refused else {}

    def reload(self) -> None:
        """Read the files again, changed or not; the signal handler for SIGHUP."""
        self._watch.wake()

    async def begin(self, compiled: Compile) -> Releases:
        """What decides, from ``first`` on. ``compiled`` runs on a thread, one call at a time.

        Raises what ``compiled`` does: there is no other version that could go on.
        """
        self._compiled = compiled
        self._releases = Releases(await asyncio.to_thread(compiled, self.first, None), self._clock)
        return self._releases

    async def follow(self, changed: Callable[[State], None], count: Callable[[Result], None]) -> None:
        """Reload on every change, and forget versions that nobody needs.

        ``count`` is told of every reload; ``changed`` of those, and of versions that were dropped.
        """
        while True:
            if await self._watch.changed(within_s=_TIDY_S):
                count(await self._reload())
                changed(self._state)
            if dropped := self._releases.drop_unused():
                log.info("registry versions dropped", extra={"versions": ", ".join(dropped)})
                changed(self._state)

    async def _reload(self) -> Result:
        files = Files()
        try:
            result = await self._load(files)
        except RouterError as error:
            result = Result.REFUSED
            self._keep(str(error), refused=files.version if isinstance(error, HoldoutFailed) else "")
            log.error("the registry is not reloaded, %s goes on: %s", self._state.version, error)
        except Exception as error:
            result = Result.FAILED
            self._keep(f"{type(error).__name__}: {error}")
            log.exception("the registry could not be reloaded, %s goes on", self._state.version)
        self._watch.watch(files.prints)
        return result

    async def _load(self, files: Files) -> Result:
        loaded = await asyncio.to_thread(load, self.first.path, files)
        unchanged = loaded.version == self._releases.newest.version
        if not unchanged:
            newest = self._releases.newest
            self._releases.add(await asyncio.to_thread(self._compiled, loaded, newest))
        self._state = State(loaded.version, restart_for=_fixed_keys(self.first.registry, loaded.registry))
        log.info("registry %s decides", loaded.version, extra={"state": str(self._state)})
        return Result.UNCHANGED if unchanged else Result.LOADED

    def _keep(self, problem: str, refused: str = "") -> None:
        self._state = msgspec.structs.replace(self._state, problem=problem, refused=refused)


def _fixed_keys(first: Registry, now: Registry) -> tuple[str, ...]:
    """What a process takes from the registry once, when it starts, and is different by now."""
    taken = {
        "encoder": (first.encoder, now.encoder),
        "envoy.egress": (first.envoy.egress, now.envoy.egress),
        "envoy.max_body_bytes": (first.envoy.max_body_bytes, now.envoy.max_body_bytes),
        "envoy.max_bytes_in_flight": (first.envoy.max_bytes_in_flight, now.envoy.max_bytes_in_flight),
        "envoy.sidecar": (first.envoy.sidecar, now.envoy.sidecar),
    }
    return tuple(key for key, (then, later) in taken.items() if then != later)
