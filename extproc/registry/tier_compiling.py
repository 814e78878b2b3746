"""Compiling the cascades of a registry into what judges the answers of their tiers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from extproc.gate.judge import Judge
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.gate_settings import SecondSettings, VerifierSettings
from extproc.registry.judge_compiling import compile_judge
from extproc.registry.schema import Registry
from extproc.vocabulary import Api


class Consulted(msgspec.Struct, frozen=True):
    """Who is asked for a second opinion, and on which terms."""

    model: str  # by its public name
    sent: str  # what its provider calls it
    speaks: tuple[Api, ...]
    terms: SecondSettings | VerifierSettings


class JudgedTier(msgspec.Struct, frozen=True):
    """What is asked of the answers of one tier."""

    gate: str  # the registry's name of it
    judge: Judge
    stream: Literal["hold", "prefix", "off"]
    prefix_chars: int  # of a stream that is judged by its beginning: so much of it
    prefix_events: int
    timeout_s: float | None = None  # of the tier
    deadline_s: float | None = None  # of the whole request
    second: Consulted | None = None


def tier_name(cascade: str, tier: int) -> str:
    """How a hop and its gate call a tier."""
    return f"{cascade}/{tier}"


def judged_tiers(
    registry: Registry, calibrated: Mapping[str, CalibratedGate] = MappingProxyType({})
) -> Mapping[str, JudgedTier]:
    """Every tier that has a gate, by its name; ``calibrated`` are the gates that score, by theirs."""
    judges = {name: compile_judge(gate, calibrated.get(name)) for name, gate in registry.gates.items()}
    return {
        tier_name(name, number): JudgedTier(
            gate=tier.gate,
            judge=judges[tier.gate],
            stream=tier.stream,
            prefix_chars=registry.gates[tier.gate].prefix_chars,
            prefix_events=registry.gates[tier.gate].prefix_events,
            timeout_s=tier.timeout_s,
            deadline_s=cascade.deadline_s,
            second=_consulted(registry, registry.gates[tier.gate].consulting),
        )
        for name, cascade in registry.cascades.items()
        for number, tier in enumerate(cascade.tiers)
        if tier.gate
    }


def consulted_models(registry: Registry) -> list[str]:
    """The models that gates of cascades which some route uses ask for second opinions, each once."""
    used = {route.cascade for route in registry.routes.values() if route.cascade}
    gates = [
        registry.gates[tier.gate]
        for name, cascade in registry.cascades.items()
        for tier in cascade.tiers
        if name in used and tier.gate in registry.gates
    ]
    return list(dict.fromkeys(gate.consulting.model for gate in gates if gate.consulting))


def _consulted(registry: Registry, terms: SecondSettings | VerifierSettings | None) -> Consulted | None:
    if terms is None:
        return None
    model = registry.models[terms.model]
    return Consulted(terms.model, model.name or terms.model, model.speaks, terms)
