"""Releases: all that each version of the registry means for serving, and how long a version is kept.

Envoy names the version that routes a request. Every part of the sidecar (the decision, the gates, the prices
of a record) takes that version from this one store. So no part can drop a version that another one uses.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from extproc.gate.judged_tier import JudgedTier
from extproc.registry.holdout_check import Passed
from extproc.registry.model_settings import PriceSettings
from extproc.registry.registry_loading import LoadedRegistry
from extproc.registry.schema import FeedbackSettings, Registry, Telemetry
from extproc.registry.tier_compiling import Bands, bands_of, judged_tiers
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import ModelName, Terms, Version


class Release(msgspec.Struct, frozen=True):
    """All that one version of the registry means for serving."""

    registry: Registry  # as the file says it
    directory: Path  # of that file; the file names others relative to it
    snapshot: Snapshot
    tiers: Mapping[str, JudgedTier] = {}  # by ``tier_name``; those that have a gate
    bands: Bands = {}  # the share of answers that each gate should refuse
    prices: Mapping[ModelName, PriceSettings] = {}  # of the models that have one
    holdout: Passed | None = None  # how it did on its holdout; None: it has none

    @property
    def version(self) -> Version:
        """The registry's version."""
        return self.snapshot.version

    @property
    def reference(self) -> ModelName:
        """The model that savings refer to; empty: there is none."""
        return ModelName(self.registry.reference)

    @property
    def telemetry(self) -> Telemetry:
        """Which traces are kept."""
        return self.registry.telemetry

    @property
    def feedback(self) -> FeedbackSettings | None:
        """How feedback is accepted; None: it is not."""
        return self.registry.feedback


def release_of(loaded: LoadedRegistry, snapshot: Snapshot, holdout: Passed | None = None) -> Release:
    """The release of a version whose ``snapshot`` is compiled and passed its holdout."""
    return Release(
        registry=loaded.registry,
        directory=loaded.path.parent,
        snapshot=snapshot,
        tiers=judged_tiers(loaded.registry, loaded.gates),
        bands=bands_of(loaded.registry, loaded.gates),
        prices=prices_of(loaded.registry),
        holdout=holdout,
    )


def prices_of(registry: Registry) -> Mapping[ModelName, PriceSettings]:
    """What the models of ``registry`` cost, by public name; without those that have no price."""
    return {
        ModelName(name): model.price for name, model in registry.models.items() if model.price is not None
    }


# Seconds. Longer than a request may upload its body, which is decided by the version that its head reached.
_KEPT_S = 600.0
_LEAST = 2  # versions that are kept in any case


class Releases:
    """The versions that can serve: the newest, and older ones for as long as an Envoy names them.

    Changed on the event loop's thread; ``newest`` and ``versions`` may be read from any.
    """

    def __init__(self, first: Release, clock: Callable[[], float]) -> None:
        """``clock`` counts seconds from anywhere."""
        self._clock = clock
        self._newest = first
        self._held: Mapping[Version, Release] = {first.version: first}
        self._used = {first.version: clock()}  # when each was last the newest, or requested

    @property
    def newest(self) -> Release:
        """The version that was added last."""
        return self._newest

    @property
    def versions(self) -> tuple[Version, ...]:
        """Every version that can serve, the newest last."""
        return tuple(self._held)

    def of(self, version: Version) -> Release | None:
        """The release for an Envoy that holds ``version``; None if that is not here.

        An empty version gives the newest: Envoy did not say which one it holds.
        """
        if not version:
            return self._newest
        found = self._held.get(version)
        if found is not None:
            self._used[version] = self._clock()
        return found

    def recorded(self, version: Version) -> Release:
        """The release for recording what ``version`` decided; the newest if that is not here.

        A sidecar that was restarted gets outcomes that an older version decided.
        """
        return self.of(version) or self._newest

    def snapshot(self, version: Version) -> Snapshot | None:
        """The snapshot for an Envoy that holds ``version``; see ``of``."""
        found = self.of(version)
        return None if found is None else found.snapshot

    def tiers(self, version: Version) -> Mapping[str, JudgedTier]:
        """The tiers whose answers are judged; empty for a version that is not here."""
        found = self.of(version)
        return {} if found is None else found.tiers

    def terms(self, version: Version) -> Terms:
        """The settings of ``version`` that apply to every request before it is decided.

        For a version that is not here, the newest gives the mode and whether there are deny rules. In mode
        observe no request must be refused because Envoy is a version ahead.
        """
        found, newest = self._held.get(version), self._newest.snapshot.terms
        if found is not None:
            return found.snapshot.terms
        return Terms(mode=newest.mode, checks=newest.checks, unrecorded=newest.unrecorded)

    def add(self, release: Release) -> None:
        """Make ``release`` the newest. It replaces a release of the same version."""
        now = self._clock()
        self._used |= {self._newest.version: now, release.version: now}
        others = {version: held for version, held in self._held.items() if version != release.version}
        self._newest, self._held = release, {**others, release.version: release}

    def drop_unused(self) -> tuple[Version, ...]:
        """Drop versions that were superseded and last used over ten minutes ago. Returns them."""
        oldest = self._clock() - _KEPT_S
        dropped = tuple(v for v in self.versions[:-_LEAST] if self._used[v] < oldest)
        if dropped:
            self._held = {version: held for version, held in self._held.items() if version not in dropped}
            for version in dropped:
                del self._used[version]
        return dropped
