"""Compiles the gates and cascades of a registry into the judges of their tiers' answers."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from extproc.gate import answer_checks
from extproc.gate.answer_checks import Check
from extproc.gate.judge import Judge
from extproc.gate.judged_tier import Consulted, JudgedTier, SecondTerms, VerifierTerms
from extproc.registry.cascade_settings import Band, Gate, SecondSettings, VerifierSettings
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.vocabulary import ModelName, UpstreamName


def compile_judge(gate: Gate, calibrated: CalibratedGate | None = None) -> Judge:
    """The checks that ``gate`` names, in its order, and then the score of its artefact, if it has one.

    Raises ``re2.error`` on a bad ``self_report``.
    """
    checks = tuple(_checks(gate))
    agreement = gate.second.min_agreement if gate.second else None
    if calibrated is None:
        return Judge(checks, min_agreement=agreement)
    manifest = calibrated.manifest
    paired = calibrated.goodness.paired is not None
    threshold_paired = manifest.threshold_paired if gate.threshold is None else gate.threshold
    return Judge(
        checks,
        calibrated.goodness,
        manifest.threshold if gate.threshold is None else gate.threshold,
        threshold_paired if paired else None,
        min_agreement=None if paired else agreement,
    )


def reasons_of(gate: Gate) -> Iterator[str]:
    """The reasons for which ``gate`` may reject an answer, as they label metrics."""
    for name, _ in _checks(gate):
        yield from (f"{name}/{reason}" for reason in answer_checks.REASONS[name])
    if gate.artefact:
        yield "score/low_score"
    if gate.second is not None:
        yield "agreement/disagrees"


def _checks(gate: Gate) -> Iterator[tuple[str, Check]]:
    if gate.finish:
        yield "finish", answer_checks.check_finish
    if gate.length is not None:
        yield "length", answer_checks.length_between(gate.length.min_chars, gate.length.max_chars)
    if gate.refusal:
        yield "refusal", answer_checks.check_refusal
    if gate.format:
        yield "format", answer_checks.check_format
    if gate.repetition is not None:
        yield "repetition", answer_checks.repetition_at_most(gate.repetition.max_share)
    if gate.language:
        yield "language", answer_checks.check_language
    if gate.logprob is not None:
        yield "logprob", answer_checks.mean_logprob_at_least(gate.logprob.min_mean)
    if gate.self_report is not None:
        yield "self_report", answer_checks.no_self_report(gate.self_report.pattern)


TierPlace = tuple[str, int]  # a cascade and a tier of it
Bands = Mapping[TierPlace, Band]

_SPREAD: Final = 0.05  # around the share that a gate was fitted to refuse


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
            consulted=_consulted(registry, registry.gates[tier.gate].consulting),
        )
        for name, cascade in registry.cascades.items()
        for number, tier in enumerate(cascade.tiers)
        if tier.gate
    }


def bands_of(registry: Registry, calibrated: Mapping[str, CalibratedGate] = MappingProxyType({})) -> Bands:
    """The expected band of each judged tier: the registry's, else around the share the gate was fitted to."""
    found: dict[TierPlace, Band] = {}
    for name, cascade in registry.cascades.items():
        for number, tier in enumerate(cascade.tiers):
            known = calibrated.get(tier.gate)
            if tier.expected is not None:
                found[name, number] = tier.expected
            elif known is not None:
                share = _fitted_share(registry, tier.gate, known)
                found[name, number] = Band(least=max(0.0, share - _SPREAD), most=min(1.0, share + _SPREAD))
    return found


def _fitted_share(registry: Registry, gate: str, known: CalibratedGate) -> float:
    """The share that a calibrated gate should refuse, with or without second answers."""
    paired = known.manifest.escalation_paired
    return known.manifest.escalation if paired is None or not registry.gates[gate].second else paired


def consulted_models(registry: Registry) -> list[str]:
    """The models that the sidecar itself asks, each once: in doubt, and for gates that some route uses."""
    used = {route.cascade for route in registry.routes.values() if route.cascade}
    gates = [
        registry.gates[tier.gate]
        for name, cascade in registry.cascades.items()
        for tier in cascade.tiers
        if name in used and tier.gate in registry.gates
    ]
    in_doubt = [registry.llm.model] if registry.llm else []
    asked_by_gates = [gate.consulting.model for gate in gates if gate.consulting]
    return list(dict.fromkeys([*in_doubt, *asked_by_gates]))


def _consulted(registry: Registry, settings: SecondSettings | VerifierSettings | None) -> Consulted | None:
    if settings is None:
        return None
    model = registry.models[settings.model]
    return Consulted(
        model=ModelName(settings.model),
        upstream_model=UpstreamName(model.name or settings.model),
        apis=model.speaks,
        deadline_s=settings.deadline_s,
        calls_per_s=settings.budget,
        on_error=settings.on_error,
        cleared_for=frozenset(many(model.cleared_for)),
        terms=_terms(settings),
    )


def _terms(settings: SecondSettings | VerifierSettings) -> SecondTerms | VerifierTerms:
    if isinstance(settings, VerifierSettings):
        return VerifierTerms(settings.min_score, settings.prompt)
    return SecondTerms(settings.temperature)
