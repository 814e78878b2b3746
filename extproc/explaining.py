"""`extproc explain`: one decision by the pipeline that serves, told to a person or to a program."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from extproc.apis.conversation import conversation_id
from extproc.embedding.batching import BatchingEmbedder
from extproc.embedding.files import locate
from extproc.embedding.session import open_encoder
from extproc.errors import Denied
from extproc.registry.compiling import compile_snapshot
from extproc.registry.loading import load
from extproc.routing.pipeline import Pipeline
from extproc.routing.rollout import Rollout, key_of
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Candidate, Decision, Mode, Offer, Question, Stage


class Explanation(msgspec.Struct, frozen=True):
    """A decision, or the refusal that came in its place, with what it was made of."""

    outcome: Decision | Denied
    snapshot: Snapshot
    question: Question

    def as_object(self) -> Mapping[str, Any]:
        """Plain JSON values; scores that were not made are null, and a refusal names no route or model."""
        if isinstance(self.outcome, Denied):
            return {
                "mode": self.snapshot.terms.mode,
                "route": "",
                "model": "",
                "stage": Stage.DENY,
                "reason": self.outcome.label,
                "rule": self.outcome.rule,
                "denied": self.outcome.message,
                "probability": None,
                "margin": None,
                "similarity": None,
                "candidates": [],
                "version": self.snapshot.version,
            }
        plain: dict[str, Any] = msgspec.to_builtins(self.outcome)
        source = key_of(self.question, self.snapshot.rollout_key).source
        return plain | {"rollout": round(self._rollout.share * 100, 9), "rollout_key": source}

    def as_text(self) -> str:
        """As an operator reads it: where it goes, who settled it, every score beside its floor."""
        if isinstance(self.outcome, Denied):
            observed = "; only recorded: the mode is observe"
            told = observed if self.snapshot.terms.mode is Mode.OBSERVE else ""
            lines = [("denied", f"{self.outcome.message} (rule {self.outcome.rule}{told})")]
        else:
            lines = [*_lines(self.outcome, self.snapshot), ("mode", self._mode(self.outcome))]
        return "\n".join(f"{name:<12}{value}" for name, value in [*lines, ("version", self.snapshot.version)])

    @property
    def _rollout(self) -> Rollout:
        """What the decision was taken by."""
        route = self.outcome.route if isinstance(self.outcome, Decision) else ""
        return self.snapshot.routes[route].rollout if route else self.snapshot.rollout

    def _mode(self, decision: Decision) -> str:
        rollout = self._rollout
        if rollout.mode is Mode.OBSERVE:
            return "observe: recorded, and the API's default answers"
        if rollout.share >= 1.0:
            return "active"
        source = key_of(self.question, self.snapshot.rollout_key).source
        share = f"active for {rollout.share * 100:g} % of the keys"
        if not source:
            return f"{share}; none is given, so this one is only observed"
        return f"{share}; the one given ({source}) is {'in' if decision.mode is Mode.ACTIVE else 'out'}"


async def explain(registry: Path, encoder_dir: Path | None, question: Question) -> Explanation:
    """Decide ``question`` as `extproc serve` would, but without its deadline.

    Raises ``OperatorError`` where `serve` would not start, ``UnknownModel`` where it would refuse.
    """
    loaded = load(registry)
    encoder = open_encoder(locate(encoder_dir), loaded.registry.encoder)
    snapshot = msgspec.structs.replace(compile_snapshot(loaded, encoder), budget_s=60.0)
    named = conversation_id(question.request, question.head, snapshot.terms.conversation_header)
    question = msgspec.structs.replace(question, conversation_id=named)
    embedder = BatchingEmbedder(encoder, queue=1)
    embedder.start()
    try:
        outcome = await Pipeline(embedder, lambda _: snapshot, time.perf_counter).decide(question)
    except Denied as denied:
        return Explanation(denied, snapshot, question)
    finally:
        await embedder.close()
    return Explanation(outcome, snapshot, question)


def _lines(decision: Decision, snapshot: Snapshot) -> list[tuple[str, str]]:
    rule = f" ({decision.rule})" if decision.rule else ""
    lines = [
        ("route", decision.route or "(none)"),
        ("model", f"{decision.model}, sent as {decision.upstream_model} to cluster {decision.cluster}"),
        ("decided by", f"{decision.stage}: {decision.reason}{rule}"),
    ]
    if decision.probability is not None and decision.margin is not None:
        policy = snapshot.routes[decision.candidates[0].route]
        lines += [
            ("probability", f"{decision.probability:.3f}"),
            ("margin", _beside_floor(decision.margin, policy.margin_floor)),
            *_likeness(decision, policy.similarity_floor),
            ("candidates", "probability  similarity  route -> its models"),
        ]
        lines += [("", _candidate(candidate, snapshot)) for candidate in decision.candidates]
    if decision.offers:
        bar = snapshot.routes[decision.route].quality_bar
        lines.append(("models", f"quality       $ each  model, of which the bar of {bar:g} is asked"))
        lines += [("", _offer(offer, decision)) for offer in decision.offers]
    if decision.comparison is not None:
        said = "the same" if decision.comparison.agreed else "another"
        lines.append(("fast path", f"{said} route by its words alone, without the encoder"))
    if decision.tokens is not None:
        lines.append(("tokens", str(decision.tokens)))
    return lines


def _likeness(decision: Decision, floor: float) -> list[tuple[str, str]]:
    """Nothing where the words alone decided."""
    if decision.similarity is None:
        return []
    return [("similarity", _beside_floor(decision.similarity, floor)), ("nearest", decision.nearest)]


def _candidate(candidate: Candidate, snapshot: Snapshot) -> str:
    models = ", ".join(target.model for target in snapshot.routes[candidate.route].candidates)
    similarity = "-" if candidate.similarity is None else f"{candidate.similarity:.3f}"
    return f"{candidate.probability:11.3f}  {similarity:>10}  {candidate.route} -> {models}"


def _offer(offer: Offer, decision: Decision) -> str:
    mark = "  <- chosen" if offer.model == decision.model else ""
    quality = "-" if offer.quality is None else f"{offer.quality:.3f}"
    return f"{quality:>7}  {offer.cost:11.6f}  {offer.model}{mark}"


def _beside_floor(value: float, floor: float) -> str:
    return f"{value:.3f} ({'at or above' if value >= floor else 'below'} the floor of {floor:g})"
