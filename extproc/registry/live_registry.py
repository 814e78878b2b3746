"""Follows the registry's files, and keeps the last good version when a change is rejected."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from extproc.errors import HoldoutFailed, RouterError
from extproc.registry.registry_files import Files, FileWatch
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.releases import Release, Releases
from extproc.registry.schema import Registry
from extproc.vocabulary import Version

log = logging.getLogger(__name__)

Compile = Callable[[LoadedRegistry, Release | None], Release]
"""Compiles a version, given the one that serves now. Raises ``RouterError`` to reject it."""

_TIDY_S = 60.0  # seconds between two searches for versions that no Envoy needs


class Result(StrEnum):
    """The result of a reload. Labels a metric."""

    LOADED = "loaded"
    UNCHANGED = "unchanged"  # the files have the content that serves already
    REFUSED = "refused"  # a mistake in the files, or a holdout that is not routed well enough
    FAILED = "failed"  # a defect of the sidecar or of the encoder


class State(msgspec.Struct, frozen=True):
    """Which version serves, and why the files on disk do not, if they are newer."""

    version: Version  # the newest that serves
    problem: str = ""  # of the files on disk: FILE:LINE: what is wrong; empty: they serve
    restart_for: tuple[str, ...] = ()  # keys whose new values apply after a restart only
    refused: str = ""  # the version of the files on disk, if that failed its holdout

    def __str__(self) -> str:
        parts = [f"version {self.version}"]
        if self.problem:
            parts.append(f"the last reload failed: {self.problem}")
        if self.restart_for:
            parts.append(f"restart to apply {', '.join(self.restart_for)}")
        return "; ".join(parts)


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
    def version(self) -> Version:
        """The newest version that serves."""
        return self._state.version

    @property
    def refused(self) -> Mapping[str, str]:
        """The version of the files on disk with its reason, if it failed its holdout; else empty."""
        return {self._state.refused: self._state.problem} if self._state.refused else {}

    def reload(self) -> None:
        """Read the files again, changed or not; the signal handler for SIGHUP."""
        self._watch.wake()

    async def begin(self, compiled: Compile, newest_changed: Callable[[Release], None]) -> Releases:
        """The store of releases, with that of ``first``.

        ``compiled`` runs on a thread, one call at a time. ``newest_changed`` is called on the event loop
        with each version that has become the newest, the first one included; a version that is rejected
        never gets there. Raises what ``compiled`` raises, because no other version can serve.
        """
        self._compiled = compiled
        self._newest_changed = newest_changed
        first = await asyncio.to_thread(compiled, self.first, None)
        self._releases = Releases(first, self._clock)
        self._announce(first)
        return self._releases

    async def follow(self, changed: Callable[[State], None], count: Callable[[Result], None]) -> None:
        """Reload on every change, and drop versions that no Envoy needs.

        ``count`` gets the result of every reload. ``changed`` is called after each of them, and after
        versions were dropped.
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
            log.error("reload rejected; still serving %s: %s", self._state.version, error)
        except Exception as error:
            result = Result.FAILED
            self._keep(f"{type(error).__name__}: {error}")
            log.exception("reload failed; still serving %s", self._state.version)
        self._watch.watch(files.prints)
        return result

    async def _load(self, files: Files) -> Result:
        loaded = await asyncio.to_thread(load, self.first.path, files)
        newest = self._releases.newest
        unchanged = loaded.version == newest.version
        release = newest if unchanged else await asyncio.to_thread(self._compiled, loaded, newest)
        # From here on nothing can reject the version: it becomes the newest everywhere, without a pause.
        self._state = State(loaded.version, restart_for=_fixed_keys(self.first.registry, loaded.registry))
        if not unchanged:
            self._releases.add(release)
            self._announce(release)
        log.info("serving registry %s", loaded.version, extra={"state": str(self._state)})
        return Result.UNCHANGED if unchanged else Result.LOADED

    def _announce(self, release: Release) -> None:
        if release.holdout is not None:
            log.info("registry %s passed its holdout: %s", release.version, release.holdout)
        self._newest_changed(release)

    def _keep(self, problem: str, refused: str = "") -> None:
        self._state = msgspec.structs.replace(self._state, problem=problem, refused=refused)


def _fixed_keys(first: Registry, now: Registry) -> tuple[str, ...]:
    """The keys that a process reads only when it starts, and whose values have changed since."""
    taken = {
        "encoder": (first.encoder, now.encoder),
        "envoy.egress": (first.envoy.egress, now.envoy.egress),
        "envoy.max_body_bytes": (first.envoy.max_body_bytes, now.envoy.max_body_bytes),
        "envoy.max_bytes_in_flight": (first.envoy.max_bytes_in_flight, now.envoy.max_bytes_in_flight),
        "envoy.sidecar": (first.envoy.sidecar, now.envoy.sidecar),
    }
    return tuple(key for key, (then, later) in taken.items() if then != later)
