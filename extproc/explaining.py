"""`extproc explain`: one decision by the pipeline that serves, as text or JSON."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from extproc.apis.conversation import conversation_id
from extproc.embedding.batching import BatchingEmbedder
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_session import open_encoder
from extproc.errors import Denied, NotCleared, Unsafe
from extproc.registry.cascade_settings import Tier
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.schema import cleared_for
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.languages import unread
from extproc.routing.pipeline import Pipeline
from extproc.routing.rollout import Rollout, key_of
from extproc.routing.safety_head import PIECES
from extproc.routing.snapshot import RoutePolicy, Snapshot
from extproc.vocabulary import (
    Candidate,
    Decision,
    Mode,
    ModelName,
    Offer,
    Question,
    Reason,
    RouteName,
    Stage,
    TurnReading,
)


class ExplainedTier(msgspec.Struct, frozen=True):
    """One model that a cascade may ask, and the checks that its answer must pass."""

    model: str
    gate: str = ""  # empty: every answer is kept
    checks: tuple[str, ...] = ()  # of the gate
    threshold: float | None = None  # the least P(good), of a gate with an artefact
    stream: str = ""  # how the gate judges streams
    timeout_s: float | None = None

    def __str__(self) -> str:
        limit = "" if self.timeout_s is None else f", within {self.timeout_s:g} s"
        if not self.gate:
            return f"{self.model}{limit}: its answer is kept"
        least = "" if self.threshold is None else f", P(good) at least {self.threshold:g}"
        return (
            f"{self.model}{limit}: gate {self.gate} ({', '.join(self.checks)}{least}; streams: {self.stream})"
        )


class ExplainedCascade(msgspec.Struct, frozen=True):
    """The models that Envoy may ask in turn, beginning with the chosen one."""

    name: str
    tiers: tuple[ExplainedTier, ...]
    deadline_s: float | None = None


class Explanation(msgspec.Struct, frozen=True):
    """A decision or a refusal, with what explains it."""

    outcome: Decision | Denied | NotCleared | Unsafe
    snapshot: Snapshot
    question: Question
    cascade: ExplainedCascade | None = None

    def as_object(self) -> Mapping[str, Any]:
        """Plain JSON values. Scores that were not computed are null. A refusal has no route and no model."""
        if not isinstance(self.outcome, Decision):
            denied = isinstance(self.outcome, Denied)
            stages = {Denied: Stage.DENY, Unsafe: Stage.SAFETY}
            return {
                "mode": self.snapshot.terms.mode,
                "route": "",
                "model": "",
                "stage": stages.get(type(self.outcome), ""),
                "reason": self.outcome.label,
                "rule": "" if isinstance(self.outcome, NotCleared) else self.outcome.rule,
                "denied" if denied else "refused": self.outcome.message,
                "probability": None,
                "margin": None,
                "similarity": None,
                "in_scope": None,
                "candidates": [],
                "version": self.snapshot.version,
            }
        plain: dict[str, Any] = msgspec.to_builtins(self.outcome)
        source = key_of(self.question, self.snapshot.rollout_key).source
        return plain | {
            "rollout": round(self._rollout.share * 100, 9),
            "rollout_key": source,
            "cascade": msgspec.to_builtins(self.cascade),
        }

    def as_text(self) -> str:
        """Text for operators: route, model, the stage that decided, and every score beside its floor."""
        if not isinstance(self.outcome, Decision):
            lines = [self._refusal(self.outcome)]
        else:
            lines = [
                *_lines(self.outcome, self.snapshot, self.question),
                *_cascade_lines(self.cascade),
                ("mode", self._mode(self.outcome)),
            ]
        return "\n".join(f"{name:<12}{value}" for name, value in [*lines, ("version", self.snapshot.version)])

    def _refusal(self, error: Denied | NotCleared | Unsafe) -> tuple[str, str]:
        observed = "; only recorded: the mode is observe"
        suffix = observed if self.snapshot.terms.mode is Mode.OBSERVE else ""
        if isinstance(error, Denied):
            return "denied", f"{error.message} (rule {error.rule}{suffix})"
        return "refused", f"{error.message} ({error.label}{suffix})"

    @property
    def _rollout(self) -> Rollout:
        """The rollout of the decision's route."""
        route = self.outcome.route if isinstance(self.outcome, Decision) else RouteName("")
        return self.snapshot.routes[route].rollout if route else self.snapshot.rollout

    def _mode(self, decision: Decision) -> str:
        rollout = self._rollout
        if decision.labels and decision.mode is Mode.ACTIVE:
            return "active, because the request carries labels"
        if rollout.mode is Mode.OBSERVE:
            return "observe: recorded, and the API's default answers"
        if rollout.share >= 1.0:
            return "active"
        source = key_of(self.question, self.snapshot.rollout_key).source
        share = f"active for {rollout.share * 100:g} % of the keys"
        if not source:
            return f"{share}; without a key, this request is only observed"
        side = "in" if decision.mode is Mode.ACTIVE else "out"
        return f"{share}; the key of this request ({source}) is {side}"


async def explain(registry: Path, encoder_dir: Path | None, question: Question) -> Explanation:
    """Decide ``question`` as `extproc serve` would, but without its deadline.

    Raises ``OperatorError`` if `serve` would not start, and ``UnknownModel`` if it would reject the model.
    """
    loaded = load(registry)
    encoder = open_encoder(locate(encoder_dir, loaded.registry.encoder.model), loaded.registry.encoder)
    snapshot = msgspec.structs.replace(compile_snapshot(loaded, encoder, encoder.static), budget_s=60.0)
    named = conversation_id(question.request, question.head, snapshot.terms.conversation_header)
    question = msgspec.structs.replace(question, conversation_id=named)
    embedder = BatchingEmbedder(encoder, queue=PIECES + 2)  # what one request may need at once
    serving = asyncio.create_task(embedder.run())
    await asyncio.sleep(0)  # from here on, it accepts texts
    try:
        outcome = await Pipeline(embedder, lambda _: snapshot, time.perf_counter).decide(question)
    except (Denied, NotCleared, Unsafe) as refusal:
        return Explanation(refusal, snapshot, question)
    finally:
        await embedder.close()
        await serving
    return Explanation(outcome, snapshot, question, _cascade(outcome, loaded))


def _cascade(decision: Decision, loaded: LoadedRegistry) -> ExplainedCascade | None:
    """The calls that Envoy may make for the decision. None: its route has no cascade."""
    registry = loaded.registry
    name = registry.routes[decision.route].cascade if decision.route else ""
    if not name:
        return None
    cascade = registry.cascades[name]
    first = next(i for i, tier in enumerate(cascade.tiers) if tier.model == decision.model)
    cleared, labels = cleared_for(registry), frozenset(decision.labels)
    asked = [tier for tier in cascade.tiers[first:] if labels <= cleared[ModelName(tier.model)]]
    tiers = tuple(_tier(tier, loaded, last=tier is asked[-1]) for tier in asked)
    return ExplainedCascade(name, tiers, cascade.deadline_s)


def _tier(tier: Tier, loaded: LoadedRegistry, *, last: bool) -> ExplainedTier:
    if not tier.gate or last:  # the last answer is never judged
        return ExplainedTier(tier.model, timeout_s=tier.timeout_s)
    gate, calibrated = loaded.registry.gates[tier.gate], loaded.gates.get(tier.gate)
    threshold = gate.threshold
    if threshold is None and calibrated is not None:
        threshold = calibrated.manifest.threshold
    return ExplainedTier(
        tier.model, tier.gate, gate.checks, threshold, stream=tier.stream, timeout_s=tier.timeout_s
    )


def _cascade_lines(cascade: ExplainedCascade | None) -> list[tuple[str, str]]:
    if cascade is None:
        return []
    limit = "" if cascade.deadline_s is None else f", all within {cascade.deadline_s:g} s"
    return [
        ("cascade", f"{cascade.name}: asked in turn until an answer passes{limit}"),
        *(("", f"{number}. {tier}") for number, tier in enumerate(cascade.tiers, start=1)),
    ]


def _lines(decision: Decision, snapshot: Snapshot, question: Question) -> list[tuple[str, str]]:
    rule = f" ({decision.rule})" if decision.rule else ""
    lines = [
        ("route", decision.route or "(none)"),
        ("model", f"{decision.model}, sent as {decision.upstream_model} to cluster {decision.cluster}"),
        ("decided by", f"{decision.stage}: {decision.reason}{rule}"),
    ]
    if decision.found:
        done = f"; replaced: {', '.join(sorted(decision.redacted))}" if decision.redacted else ""
        lines.append(("found", f"{', '.join(decision.found)} ({decision.safety}{done})"))
    if decision.labels:
        labels = frozenset(decision.labels)
        cleared = [name for name in snapshot.targets if snapshot.admits(name, labels)]
        lines.append(("labels", f"{', '.join(decision.labels)}; cleared for them: {', '.join(cleared)}"))
    if decision.reason is Reason.LANGUAGE:
        found = unread(question.request.user_text, snapshot.languages) or "of the part that asks"
        lines.append(("language", f"{found}; the encoder reads {', '.join(sorted(snapshot.languages))}"))
    if decision.probability is not None and decision.margin is not None:
        policy = snapshot.routes[decision.candidates[0].route]
        lines += [
            ("probability", f"{decision.probability:.3f}"),
            ("margin", _beside_floor(decision.margin, policy.margin_floor)),
            *_likeness(decision, policy),
            ("candidates", "probability  similarity  route -> its models"),
        ]
        lines += [("", _candidate(candidate, snapshot)) for candidate in decision.candidates]
    if decision.offers:
        bar = snapshot.routes[decision.route].quality_bar
        lines.append(("models", f"quality       $ each  model (the quality bar is {bar:g})"))
        lines += [("", _offer(offer, decision)) for offer in decision.offers]
        lines += _trained_on(decision, snapshot)
    if decision.comparison is not None:
        compared = "the same" if decision.comparison.agreed else "another"
        lines.append(("fast path", f"{compared} route by its words alone, without the encoder"))
    if (reading := decision.reading) is not None and reading != TurnReading(question.request.user_text):
        corrected = f"; misspelt words corrected: {reading.misspelt}" if reading.misspelt else ""
        lines.append(("read", f"{reading.text} (of the turn: {reading.part}{corrected})"))
    if decision.tokens is not None:
        lines.append(("tokens", str(decision.tokens)))
    return lines


def _likeness(decision: Decision, policy: RoutePolicy) -> list[tuple[str, str]]:
    """Empty if the words alone decided."""
    if decision.similarity is None:
        return []
    lines = [
        ("similarity", _beside_floor(decision.similarity, policy.similarity_floor)),
        ("nearest", decision.nearest),
    ]
    if decision.in_scope is not None:
        lines.insert(0, ("in scope", _beside_floor(decision.in_scope, policy.in_scope_floor)))
    return lines


def _trained_on(decision: Decision, snapshot: Snapshot) -> list[tuple[str, str]]:
    """How far predicted quality is trusted; empty if the request was not embedded."""
    if decision.training_similarity is None or snapshot.quality is None:
        return []
    weight = float(
        snapshot.quality.familiarity.trust(np.array([decision.training_similarity], np.float32))[0]
    )
    return [
        (
            "trained on",
            f"{decision.training_similarity:.3f} similarity to the nearest training prompt: the head counts "
            f"{weight:.0%}, prompt length and each model's mean the rest",
        )
    ]


def _candidate(candidate: Candidate, snapshot: Snapshot) -> str:
    models = ", ".join(target.model for target in snapshot.routes[candidate.route].candidates)
    similarity = "-" if candidate.similarity is None else f"{candidate.similarity:.3f}"
    return f"{candidate.probability:11.3f}  {similarity:>10}  {candidate.route} -> {models}"


def _offer(offer: Offer, decision: Decision) -> str:
    mark = "  <- chosen" if offer.model == decision.model else ""
    quality = "-" if offer.quality is None else f"{offer.quality:.3f}"
    dominated = f"  dominated by {offer.dominated_by}" if offer.dominated_by else ""
    return f"{quality:>7}  {offer.cost:11.6f}  {offer.model}{mark}{dominated}"


def _beside_floor(value: float, floor: float | None) -> str:
    if floor is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({'at or above' if value >= floor else 'below'} the floor of {floor:g})"
