"""`extproc eval --routerarena`: decide each prompt with the code that serves, and score the choice."""

import asyncio
from collections.abc import Sequence

from extproc.embedding.encoder_session import embeddings_of
from extproc.errors import OperatorError
from extproc.lab.datasets import ArenaRow, Reader
from extproc.lab.figures.number_formats import count, dollars, percent, with_interval
from extproc.lab.figures.report_layout import text_table
from extproc.lab.measure.arena_score import ArenaReport, measure_arena
from extproc.lab.measure.replay import CandidateRegistry
from extproc.registry.cascade_settings import Cascade
from extproc.registry.schema import Registry
from extproc.routing.rehearsal import rehearse, texts_read
from extproc.vocabulary import Decision

_HEAD = ("router", "score S", "accuracy", "a 1,000 requests")


def evaluate_arena(candidate: CandidateRegistry, read: Reader[ArenaRow]) -> ArenaReport:
    """Raises ``OperatorError`` if the registry chooses a model that the rows have no score of."""
    registry, snapshot = candidate.loaded.registry, candidate.snapshot
    data = read(tuple(registry.models))
    prompts = [row.prompt for row in data.rows]
    parts = texts_read(snapshot, prompts)
    known = dict(zip(parts, embeddings_of(candidate.encoder.encode(parts)), strict=True)) if parts else {}
    decisions = asyncio.run(rehearse(snapshot, prompts, known))
    models = tuple(data.rows[0].scores)
    paths = [
        _path(registry, decision, row, number)
        for number, (decision, row) in enumerate(zip(decisions, data.rows, strict=True), start=1)
    ]
    figures, chosen = measure_arena(data.rows, models, paths)
    return ArenaReport(
        registry=candidate.name,
        version=candidate.loaded.version,
        data=data.name,
        data_version=data.version,
        rows=len(data.rows),
        figures=figures,
        chosen=chosen,
    )


def arena_text(report: ArenaReport) -> str:
    """The table, and which models answer."""
    rows = [
        [each.name, with_interval(each.score), percent(each.accuracy), dollars(each.dollars)]
        for each in report.figures
    ]
    shares = ", ".join(f"{model} {percent(share)}" for model, share in report.chosen.items())
    return (
        f"registry     {report.registry} (version {report.version})\n"
        f"routerarena  {report.data} (version {report.data_version}): {count(report.rows)} rows\n\n"
        f"{text_table(_HEAD, rows)}\n\nanswered by {shares}"
    )


def _path(registry: Registry, decision: Decision | None, row: ArenaRow, number: int) -> Sequence[str]:
    """The models that are called for a row, in order: the last one answers. A denied prompt calls none."""
    if decision is None:
        return []
    route = registry.routes.get(decision.route)
    cascade = registry.cascades.get(route.cascade) if route and route.cascade else None
    called = [str(decision.model)] if cascade is None else _tiers(cascade, decision, row, number)
    for model in called:
        if model not in row.scores:
            raise OperatorError(
                f"row {number} has no score of `{model}`, which the registry asks (expected `scores` and "
                f"`costs` of every model that it can choose; they name {', '.join(row.scores)})"
            )
    return called


def _tiers(cascade: Cascade, decision: Decision, row: ArenaRow, number: int) -> Sequence[str]:
    """The tiers from the decided one on, until a gate keeps the answer."""
    names = [tier.model for tier in cascade.tiers]
    first = names.index(decision.model) if decision.model in names else 0
    called = []
    for tier in cascade.tiers[first:]:
        called.append(tier.model)
        if not tier.gate or tier is cascade.tiers[-1]:
            break
        if tier.model not in row.accepted:
            raise OperatorError(
                f"row {number} does not say whether the gate of `{tier.model}` keeps its answer (expected "
                f'"accepted": {{"{tier.model}": true or false}})'
            )
        if row.accepted[tier.model]:
            break
    return called
