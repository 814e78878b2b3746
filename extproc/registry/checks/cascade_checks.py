"""Checks of ``cascades`` and ``gates``, and of the routes that name one."""

import re
from collections.abc import Mapping

import re2

from extproc.registry.cascade_settings import CASCADE_NAME, GATE_NAME, Cascade, Gate
from extproc.registry.checks.shared_checks import check_asked, is_address, is_loopback, known_model, unknown
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.registry.tier_compiling import compile_judge
from extproc.registry.yaml_source import Source

# Keys of a route that each tier of its cascade sets instead.
_TIERS_OWN = ("fallback", "retry", "timeout_s")


def check_cascades(registry: Registry, source: Source) -> None:
    """Check names, tiers, limits and the routes that use a cascade. Raises ``RegistryError``."""
    with source.collecting():
        _check_egress(registry, source)
    for name, gate in registry.gates.items():
        for each in (_check_gate_name, _check_not_idle, _check_self_report):
            with source.collecting():
                each(name, gate, source)
        with source.collecting():
            _check_consultings(registry, name, gate, source)
    for name, cascade in registry.cascades.items():
        with source.collecting():
            _check_cascade(registry, name, cascade, source)
    for name, route in registry.routes.items():
        with source.collecting():
            if route.cascade:
                _check_use(registry, name, source)


def _check_consultings(registry: Registry, name: str, gate: Gate, source: Source) -> None:
    for key, asked in (("second", gate.second), ("verifier", gate.verifier)):
        with source.collecting():
            if asked is not None:
                check_asked(registry, f"the gate `{name}`", asked.model, source, "gates", name, key, "model")
    if gate.second is not None and gate.verifier is not None:
        raise source.error(
            f"the gate `{name}` has both `second` and `verifier` (expected one of them)",
            "gates", name, "verifier",
        )  # fmt: skip


def _check_cascade(registry: Registry, name: str, cascade: Cascade, source: Source) -> None:
    with source.collecting():
        if re.fullmatch(CASCADE_NAME, name) is None:
            raise source.error(
                f"{name!r} is not a valid cascade name (expected letters, digits and ._-, at most 64)",
                "cascades",
                name,
            )
    for i in range(len(cascade.tiers)):
        for each in (_check_tiers_model, _check_tiers_gate, _check_expected, _check_deadline):
            with source.collecting():
                each(registry, name, cascade, i, source)


def _check_gate_name(name: str, _: Gate, source: Source) -> None:
    if re.fullmatch(GATE_NAME, name) is None:
        raise source.error(
            f"{name!r} is not a valid gate name (expected letters, digits and ._-, at most 64)", "gates", name
        )


def _check_not_idle(name: str, gate: Gate, source: Source) -> None:
    nothing = Gate(prefix_chars=gate.prefix_chars, prefix_events=gate.prefix_events)
    if gate == nothing and not source.is_unread("gates", name):
        raise source.error(f"the gate `{name}` checks nothing (expected at least one check)", "gates", name)


def _check_self_report(name: str, gate: Gate, source: Source) -> None:
    try:
        compile_judge(gate)
    except re2.error as error:
        raise source.error(
            f"self_report: {error} (expected RE2 syntax)", "gates", name, "self_report", "pattern"
        ) from error


def _check_egress(registry: Registry, source: Source) -> None:
    """Raises ``RegistryError`` if others can reach the egress listener, which has the providers' keys."""
    address = registry.envoy.egress
    if address.startswith("unix:/") or (is_address(address) and is_loopback(address)):
        return
    raise source.error(
        f"envoy.egress: {address!r} is open to other machines, which could spend your keys (expected "
        "unix:/PATH or 127.0.0.1:PORT)",
        "envoy", "egress",
    )  # fmt: skip


def _check_tiers_model(registry: Registry, name: str, cascade: Cascade, i: int, source: Source) -> None:
    model, at = cascade.tiers[i].model, ("cascades", name, "tiers", i, "model")
    known_model(registry, model, source, *at)
    if model in [earlier.model for earlier in cascade.tiers[:i]]:
        raise source.error(f"the model `{model}` is in two tiers of `{name}`", *at)


def _check_tiers_gate(registry: Registry, name: str, cascade: Cascade, i: int, source: Source) -> None:
    gate = cascade.tiers[i].gate
    if gate and gate not in registry.gates:
        raise source.error(unknown("gate", gate, registry.gates), "cascades", name, "tiers", i, "gate")


def _check_expected(_: Registry, name: str, cascade: Cascade, i: int, source: Source) -> None:
    tier, at = cascade.tiers[i], ("cascades", name, "tiers", i)
    if tier.expected is None:
        return
    if not tier.gate and not source.is_unread(*at, "gate"):
        raise source.error("`expected` needs a `gate` in the same tier", *at, "expected")
    if tier.expected.least > tier.expected.most:
        raise source.error("expected.least is greater than expected.most", *at, "expected")


def _check_deadline(_: Registry, name: str, cascade: Cascade, i: int, source: Source) -> None:
    tier = cascade.tiers[i]
    if cascade.deadline_s is not None and (tier.timeout_s or 0.0) > cascade.deadline_s:
        raise source.error(
            f"the tier's timeout_s {tier.timeout_s:g} is greater than the cascade's deadline_s "
            f"{cascade.deadline_s:g} (expected at most the deadline)",
            "cascades", name, "tiers", i, "timeout_s",
        )  # fmt: skip


def check_calibrations(registry: Registry, calibrated: Mapping[str, CalibratedGate], source: Source) -> None:
    """A calibrated gate is used only for the models it was fitted on. Raises ``RegistryError``."""
    for name, cascade in registry.cascades.items():
        for i, tier in enumerate(cascade.tiers):
            known = calibrated.get(tier.gate)
            second = registry.gates[tier.gate].second if known is not None else None
            if known is not None and second is not None and known.manifest.second not in ("", second.model):
                raise source.error(
                    f"the gate `{tier.gate}` was fitted on second answers of `{known.manifest.second}`, "
                    f"not of `{second.model}` (expected the model that the gate was fitted on)",
                    "gates", tier.gate, "second", "model",
                )  # fmt: skip
            if known is not None and known.manifest.small != tier.model:
                raise source.error(
                    f"the gate `{tier.gate}` was fitted on answers of `{known.manifest.small}`, not of "
                    f"`{tier.model}` (expected a gate that was fitted on answers of this model)",
                    "cascades", name, "tiers", i, "gate",
                )  # fmt: skip


def _check_use(registry: Registry, name: str, source: Source) -> None:
    route = registry.routes[name]
    if route.cascade not in registry.cascades:
        raise source.error(unknown("cascade", route.cascade, registry.cascades), "routes", name, "cascade")
    for key in _TIERS_OWN:
        with source.collecting():
            if getattr(route, key):
                raise source.error(
                    f"`{key}` of the route `{name}` cannot be combined with `cascade` (expected it in the "
                    f"tiers of `{route.cascade}`)",
                    "routes", name, key,
                )  # fmt: skip
    if source.is_unread("cascades", route.cascade, "tiers"):
        return
    models = [tier.model for tier in registry.cascades[route.cascade].tiers]
    for i, model in enumerate(many(route.candidates)):
        with source.collecting():
            if model not in models:
                raise source.error(
                    f"`{model}` is not in a tier of `{route.cascade}` (expected one of: {', '.join(models)})",
                    "routes", name, "candidates", i,
                )  # fmt: skip
