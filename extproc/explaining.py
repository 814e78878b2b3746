"""`extproc explain`: one decision by the pipeline that serves, told to a person or to a program."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from extproc.embedding.batching import BatchingEmbedder
from extproc.embedding.files import locate
from extproc.embedding.session import open_encoder
from extproc.errors import Denied
from extproc.registry.compiling import compile_snapshot
from extproc.registry.loading import load
from extproc.routing.pipeline import Pipeline
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Candidate, Decision, Offer, Question, Stage


class Explanation(msgspec.Struct, frozen=True):
    """A decision, or the refusal that came in its place, with the snapshot it was made by."""

    outcome: Decision | Denied
    snapshot: Snapshot

    def as_object(self) -> Mapping[str, Any]:
        """Plain JSON values; scores that were not made are null, and a refusal names no route or model."""
        if isinstance(self.outcome, Denied):
            return {
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
        return plain

    def as_text(self) -> str:
        """As an operator reads it: where it goes, who settled it, every score beside its floor."""
        lines = (
            [("denied", f"{self.outcome.message} (rule {self.outcome.rule})")]
            if isinstance(self.outcome, Denied)
            else _lines(self.outcome, self.snapshot)
        )
        return "\n".join(f"{name:<12}{value}" for name, value in [*lines, ("version", self.snapshot.version)])


async def explain(registry: Path, encoder_dir: Path | None, question: Question) -> Explanation:
    """Decide ``question`` as `extproc serve` would, but without its deadline.

    Raises ``OperatorError`` where `serve` would not start, ``UnknownModel`` where it would refuse.
    """
    loaded = load(registry)
    encoder = open_encoder(locate(encoder_dir), loaded.registry.encoder)
    snapshot = msgspec.structs.replace(compile_snapshot(loaded, encoder), budget_s=60.0)
    embedder = BatchingEmbedder(encoder, queue=1)
    embedder.start()
    try:
        outcome = await Pipeline(embedder, lambda _: snapshot, time.perf_counter).decide(question)
    except Denied as denied:
        return Explanation(denied, snapshot)
    finally:
        await embedder.close()
    return Explanation(outcome, snapshot)


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
