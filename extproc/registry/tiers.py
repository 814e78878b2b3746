"""Compiling the cascades of a registry into what judges the answers of their tiers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from extproc.cascade.judging import Judge
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.judges import compile_judge
from extproc.registry.schema import Registry


class JudgedTier(msgspec.Struct, frozen=True):
    """What is asked of the answers of one tier."""

    gate: str  # the registry's name of it
    judge: Judge
    stream: Literal["hold", "prefix", "off"]
    prefix_chars: int  # of a stream that is judged by its beginning: so much of it
    prefix_events: int
    timeout_s: float | None = None  # of the tier
    deadline_s: float | None = None  # of the whole request


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
        )
        for name, cascade in registry.cascades.items()
        for number, tier in enumerate(cascade.tiers)
        if tier.gate
    }
