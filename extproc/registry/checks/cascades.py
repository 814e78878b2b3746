"""Checks of ``cascades``, and of the routes that name one."""

import re

from extproc.registry.cascades import CASCADE_NAME, Cascade
from extproc.registry.checks.words import known_model, unknown
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.registry.source import Source

# Of a route: what its cascade says instead, for each tier.
_TIERS_OWN = ("fallback", "retry", "timeout_s")


def check_cascades(registry: Registry, source: Source) -> None:
    """Names, tiers, limits, and who uses them. Raises ``RegistryError``."""
    for name, cascade in registry.cascades.items():
        if re.fullmatch(CASCADE_NAME, name) is None:
            raise source.error(
                f"{name!r} is no cascade name (expected letters, digits and ._-, at most 64)",
                "cascades",
                name,
            )
        _check_tiers(registry, name, cascade, source)
    for name in registry.routes:
        if registry.routes[name].cascade:
            _check_use(registry, name, source)


def _check_tiers(registry: Registry, name: str, cascade: Cascade, source: Source) -> None:
    models = [tier.model for tier in cascade.tiers]
    for i, tier in enumerate(cascade.tiers):
        at = ("cascades", name, "tiers", i)
        known_model(registry, tier.model, source, *at, "model")
        if tier.model in models[:i]:
            raise source.error(f"the model `{tier.model}` is in two tiers of `{name}`", *at, "model")
        if cascade.deadline_s is not None and (tier.timeout_s or 0.0) > cascade.deadline_s:
            raise source.error(
                f"the tier's timeout_s {tier.timeout_s:g} is more than the cascade's deadline_s "
                f"{cascade.deadline_s:g} (expected at most that)",
                *at, "timeout_s",
            )  # fmt: skip


def _check_use(registry: Registry, name: str, source: Source) -> None:
    route = registry.routes[name]
    if route.cascade not in registry.cascades:
        raise source.error(unknown("cascade", route.cascade, registry.cascades), "routes", name, "cascade")
    for key in _TIERS_OWN:
        if getattr(route, key):
            raise source.error(
                f"`{key}` of `{name}` does not go with its cascade (expected it in the tiers of "
                f"`{route.cascade}`)",
                "routes", name, key,
            )  # fmt: skip
    models = [tier.model for tier in registry.cascades[route.cascade].tiers]
    for i, model in enumerate(many(route.candidates)):
        if model not in models:
            raise source.error(
                f"`{model}` is in no tier of `{route.cascade}` (expected of: {', '.join(models)})",
                "routes", name, "candidates", i,
            )  # fmt: skip
