"""The snapshot: everything a decision needs, compiled from one version of the registry.

It is taken once per request and never changes, so that a reload in the middle of a request
cannot mix two versions.
"""

from collections.abc import Mapping

import msgspec

from extproc.routing.choice import Target
from extproc.routing.meaning import Meaning
from extproc.routing.rules import Rule


class RoutePolicy(msgspec.Struct, frozen=True):
    """How requests of one route are answered, and how sure a scorer must be to call them that."""

    candidates: tuple[Target, ...]  # in the registry's order; never empty
    margin_floor: float
    similarity_floor: float


class Snapshot(msgspec.Struct, frozen=True):
    """One version of the registry, ready to decide."""

    version: str
    targets: Mapping[str, Target]  # by public name
    routes: Mapping[str, RoutePolicy]  # by name
    default: str  # public name
    deny_rules: tuple[Rule, ...]
    route_rules: tuple[Rule, ...]
    meaning: Meaning | None  # None: the registry has no routes with examples
    budget_s: float  # for the whole decision
    unknown_models_rejected: bool = False
