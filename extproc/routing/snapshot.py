"""The snapshot: everything a decision needs, compiled from one version of the registry.

It is taken once per request and never changes, so that a reload in the middle of a request
cannot mix two versions.
"""

from collections.abc import Mapping

import msgspec

from extproc.routing.meaning import Meaning
from extproc.routing.rules import Rule


class Target(msgspec.Struct, frozen=True):
    """A model as a decision names it."""

    model: str  # the registry's public name
    upstream_model: str  # what its provider calls it
    cluster: str  # the Envoy cluster that serves it
    pinnable: bool = True


class Snapshot(msgspec.Struct, frozen=True):
    """One version of the registry, ready to decide."""

    version: str
    targets: Mapping[str, Target]  # by public name
    route_models: Mapping[str, str]  # route -> public name
    default: str  # public name
    deny_rules: tuple[Rule, ...]
    route_rules: tuple[Rule, ...]
    meaning: Meaning | None  # None: the registry has no routes with examples
    margin_floor: float
    similarity_floor: float
    budget_s: float  # for the whole decision
    unknown_models_rejected: bool = False
