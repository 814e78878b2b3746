"""Builds the envelope of a decision: what Envoy, its access log and the record contain of it."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from extproc.errors import ClientError, Denied, NotCleared, Unsafe
from extproc.exchanges import Envelope
from extproc.routing.clearance import LONGEST_LABEL
from extproc.vocabulary import Decision, LlmOpinion, SafetyAction, Served, Stage

_LISTED = 5  # candidates and offers at most, so that the envelope stays small
_LISTED_LABELS = 16


def with_decision(known: Envelope, decision: Decision) -> Envelope:
    """``known`` with what ``decision`` adds."""
    return replace(
        known,
        route=decision.route,
        model=decision.model,
        upstream_model=decision.upstream_model,
        provider=decision.provider,
        stage=decision.stage,
        reason=decision.reason,
        rule=decision.rule,
        probability=_rounded(decision.probability),
        margin=_rounded(decision.margin),
        similarity=_rounded(decision.similarity),
        in_scope=_rounded(decision.in_scope),
        read_part=decision.reading.part if decision.reading else "",
        misspelt=decision.reading.misspelt if decision.reading else None,
        candidates=tuple(f"{best.route}:{best.probability:.4g}" for best in decision.candidates[:_LISTED]),
        predicted_quality=_rounded(decision.predicted_quality),
        offers=tuple(
            f"{offer.model}:{offer.quality:.4g}"
            for offer in decision.offers[:_LISTED]
            if offer.quality is not None
        ),
        training_similarity=_rounded(decision.training_similarity),
        labels=_listed(decision.labels),
        safety=decision.safety,
        found=decision.found,
        safety_scores=decision.safety_scores,
        redacted=bool(decision.redacted) if decision.safety else None,
        version=decision.version,
        lexical=decision.comparison.result if decision.comparison else "",
        weight=decision.comparison.weight if decision.comparison else None,
        tokens=decision.tokens,
        **_llm(decision.opinion, with_text=bool(known.prompt)),
        rules_us=decision.times.rules,
        queue_us=decision.times.queue,
        embed_us=decision.times.embed,
        llm_us=decision.times.llm,
        total_us=decision.times.total,
        mode=decision.mode,
    )


def with_refusal(known: Envelope, error: ClientError) -> Envelope:
    """``known`` with why the request is refused. The reason repeats the error, as operators see it there."""
    known = replace(known, reason=error.label)
    match error:
        case Denied():
            return replace(known, stage=Stage.DENY, rule=error.rule)
        case Unsafe():
            action = SafetyAction.REFUSE
            return replace(known, stage=Stage.SAFETY, rule=error.rule, safety=action, found=error.found)
        case NotCleared():
            return replace(known, labels=_listed(error.labels))
    return known


def _listed(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels as the record has them: sorted, and within bounds, because a header may contain any."""
    return tuple(label[:LONGEST_LABEL] for label in sorted(labels)[:_LISTED_LABELS])


def _llm(opinion: LlmOpinion | None, *, with_text: bool) -> dict[str, Any]:
    """The fields about the LLM. Its words repeat the prompt, so they need the same opt-in."""
    if opinion is None:
        return {}
    return {
        "llm_result": opinion.result,
        "llm_doubt": opinion.doubt,
        "llm_model": opinion.model,
        "llm_cached": opinion.cached,
        "llm_input_tokens": opinion.input_tokens,
        "llm_output_tokens": opinion.output_tokens,
        "llm_why": opinion.why or None if with_text else None,
    }


def as_observed(decided: Envelope, served: Served) -> Envelope:
    """``decided`` as the envelope of a request that is only observed; ``served`` answers it."""
    return replace(
        decided,
        route="",
        would_route=decided.route,
        would_model=decided.model,
        model=served.model,
        upstream_model=served.upstream_model,
        provider=served.provider,
    )


def _rounded(score: float | None) -> float | None:
    # Four digits distinguish two decisions; more would only make headers and records longer.
    return None if score is None else round(score, 4)
