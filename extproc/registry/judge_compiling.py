"""Compiling a gate of the registry into what judges answers."""

from collections.abc import Iterator, Mapping

from extproc.gate.checks import confidence, finish, form, language, length, refusal, repetition
from extproc.gate.judge import Check, Judge
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


# Why each check rejects an answer.
_REASONS: Mapping[str, tuple[str, ...]] = {
    "finish": ("failed", "content_filter", "truncated"),
    "length": ("too_long", "too_short", "empty"),
    "refusal": ("refusal", "refusal_text"),
    "format": (
        *("unknown_tool", "tool_arguments", "fenced_json", "not_json", "not_schema"),
        *("open_fence", "no_fence"),
    ),
    "repetition": ("repetition",),
    "language": ("language",),
    "logprob": ("logprob",),
    "self_report": ("self_report",),
}


def reasons_of(gate: Gate) -> Iterator[str]:
    """The reasons for which ``gate`` may reject an answer, as they label metrics."""
    for name, _ in _checks(gate):
        yield from (f"{name}/{reason}" for reason in _REASONS[name])
    if gate.artefact:
        yield "score/low_score"
    if gate.second is not None:
        yield "agreement/disagrees"


def _checks(gate: Gate) -> Iterator[tuple[str, Check]]:
    if gate.finish:
        yield "finish", finish.check
    if gate.length is not None:
        yield "length", length.between(gate.length.min_chars, gate.length.max_chars)
    if gate.refusal:
        yield "refusal", refusal.check
    if gate.format:
        yield "format", form.check
    if gate.repetition is not None:
        yield "repetition", repetition.at_most(gate.repetition.max_share)
    if gate.language:
        yield "language", language.check
    if gate.logprob is not None:
        yield "logprob", confidence.mean_logprob(gate.logprob.min_mean)
    if gate.self_report is not None:
        yield "self_report", confidence.self_report(gate.self_report.pattern)
