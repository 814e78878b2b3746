"""The snapshot: everything a decision needs, compiled from one version of the registry.

It is taken once per request and never changes, so that a reload in the middle of a request
cannot mix two versions. Several are kept, because it is the Envoy that asks whose version counts:
a decision must name what that Envoy holds.
"""

from collections.abc import Callable, Mapping

import msgspec

from extproc.routing.choice import Target
from extproc.routing.fastpath import FastPath
from extproc.routing.meaning import Meaning
from extproc.routing.quality import Quality
from extproc.routing.rollout import Rollout
from extproc.routing.rules import Rule
from extproc.vocabulary import Api, Effort, Terms


class RoutePolicy(msgspec.Struct, frozen=True):
    """How requests of one route are answered, and how sure a scorer must be to call them that."""

    candidates: tuple[Target, ...]  # in the registry's order; never empty
    margin_floor: float
    similarity_floor: float
    quality_bar: float | None = None  # what an answer's predicted quality must reach; None: any will do
    max_tokens: int | None = None  # the client's limit for the answer is lowered to this
    reasoning: Effort | None = None
    fallback: bool = False  # whether Envoy may ask other models should the chosen one fail
    rollout: Rollout = Rollout()


class Snapshot(msgspec.Struct, frozen=True):
    """One version of the registry, ready to decide."""

    version: str
    targets: Mapping[str, Target]  # by public name
    routes: Mapping[str, RoutePolicy]  # by name
    defaults: Mapping[Api, str]  # public names
    deny_rules: tuple[Rule, ...]
    route_rules: tuple[Rule, ...]
    meaning: Meaning | None  # None: the registry has no routes with examples
    budget_s: float  # for the whole decision
    fast_path: FastPath | None = None  # only where ``meaning`` is
    quality: Quality | None = None  # knows every candidate of a route with a quality bar
    unknown_models_rejected: bool = False
    ask_usage: bool = False  # of streams that tell it only when asked
    rollout: Rollout = Rollout()  # of decisions for no route
    rollout_key: str = ""  # the trusted header, in lower case, by which requests are in or out
    terms: Terms = Terms()

    @property
    def fast_path_open(self) -> bool | None:
        """Whether the lexical fast path decides; None where there is none."""
        return None if self.fast_path is None else not self.fast_path.watch.ended


# Longer than a request may take to upload its body, by the version that its head met.
_KEPT_S = 600.0
_LEAST = 2  # versions that are kept in any case


class Snapshots:
    """The versions that can decide: the newest, and older ones for as long as an Envoy may hold them.

    Changed on the event loop's thread; ``newest`` and ``versions`` may be read from any.
    """

    def __init__(self, first: Snapshot, clock: Callable[[], float]) -> None:
        """``clock`` counts seconds from anywhere."""
        self._clock = clock
        self._newest = first
        self._held: Mapping[str, Snapshot] = {first.version: first}
        self._used = {first.version: clock()}  # when each was last the newest, or asked for

    @property
    def newest(self) -> Snapshot:
        """The version that was added last."""
        return self._newest

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that can decide, the newest last."""
        return tuple(self._held)

    def of(self, version: str) -> Snapshot | None:
        """What decides for an Envoy that holds ``version``; None when that is not here.

        An Envoy that does not say which it holds gets the newest.
        """
        if not version:
            return self._newest
        found = self._held.get(version)
        if found is not None:
            self._used[version] = self._clock()
        return found

    def terms(self, version: str) -> Terms:
        """What ``version`` says of every request.

        Of one that is not here only the mode of the newest is believed: whoever observes must not
        have requests refused because Envoy is a version ahead.
        """
        found = self._held.get(version)
        return Terms(mode=self._newest.terms.mode) if found is None else found.terms

    def add(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the newest. One of a version that is held already takes its place."""
        now = self._clock()
        self._used |= {self._newest.version: now, snapshot.version: now}
        others = {version: held for version, held in self._held.items() if version != snapshot.version}
        self._newest, self._held = snapshot, {**others, snapshot.version: snapshot}

    def drop_unused(self) -> tuple[str, ...]:
        """Forget what was superseded, and not asked for, ten minutes ago. Returns those versions."""
        oldest = self._clock() - _KEPT_S
        dropped = tuple(v for v in self.versions[:-_LEAST] if self._used[v] < oldest)
        if dropped:
            self._held = {version: held for version, held in self._held.items() if version not in dropped}
            for version in dropped:
                del self._used[version]
        return dropped
