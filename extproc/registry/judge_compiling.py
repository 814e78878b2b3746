"""Compiling a gate of the registry into what judges answers."""

from collections.abc import Iterator

from extproc.gate import answer_checks
from extproc.gate.answer_checks import Check
from extproc.gate.judge import Judge
from extproc.registry.gate_artefact import CalibratedGate
from extproc.registry.gate_settings import Gate


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
