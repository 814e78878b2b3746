"""The stages of a decision, in the words of the pipeline's list.

Each is asked in turn with what the earlier ones found. It answers a `Choice`, settled or not,
or None when it has nothing to say; only `ByMeaning` ever waits.
"""

from typing import Protocol

from extproc.errors import Denied, UnknownModel
from extproc.routing.rules import first_that_holds
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Choice, Embedder, Question, Reason, Stage

AUTO = "auto"  # the model name with which a client asks to be routed


class PipelineStage(Protocol):
    """One stage of the pipeline."""

    async def __call__(self, question: Question, snapshot: Snapshot) -> Choice | None:
        """What this stage finds. Raises ``ClientError`` to refuse and ``DecisionError`` to give up."""
        ...


async def deny(question: Question, snapshot: Snapshot) -> Choice | None:
    """Refuse what a deny rule names. Raises ``Denied``."""
    rule = first_that_holds(snapshot.deny_rules, question)
    if rule is not None:
        raise Denied(rule.deny, rule=rule.name)
    return None


async def pin(question: Question, snapshot: Snapshot) -> Choice | None:
    """Honour a client that names a registry model. Raises ``UnknownModel`` where names must be known."""
    name = question.request.model
    target = snapshot.targets.get(name)
    if target is None:
        if snapshot.unknown_models_rejected and name != AUTO:
            raise UnknownModel(f"The model {name!r} does not exist here.", param="model")
        return None
    if not target.pinnable:
        return None
    return Choice(stage=Stage.PIN, reason=Reason.PINNED, settled=True, model=name)


async def route_by_rule(question: Question, snapshot: Snapshot) -> Choice | None:
    """Follow the first rule that names a route or a model."""
    rule = first_that_holds(snapshot.route_rules, question)
    if rule is None:
        return None
    return Choice(
        stage=Stage.RULE,
        reason=Reason.RULE,
        settled=True,
        route=rule.route,
        model=rule.model or snapshot.route_models[rule.route],
        rule=rule.name,
    )


class ByMeaning:
    """Embed the user text, score it against every route, abstain below either floor."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def __call__(self, question: Question, snapshot: Snapshot) -> Choice | None:
        """The best route, or an abstention that carries its scores."""
        if snapshot.meaning is None:
            return _abstention(Reason.NO_ROUTES)
        text = question.request.user_text
        if not text.strip():
            return _abstention(Reason.NO_TEXT)
        embedding = await self._embedder.embed(text)
        scores = snapshot.meaning.score(embedding.vector)
        if scores.similarity < snapshot.similarity_floor:
            return Choice(Stage.DEFAULT, Reason.LOW_SIMILARITY, False, scores=scores, embedding=embedding)
        if scores.margin < snapshot.margin_floor:
            return Choice(Stage.DEFAULT, Reason.LOW_MARGIN, False, scores=scores, embedding=embedding)
        best = scores.candidates[0]
        return Choice(
            stage=Stage.EMBEDDING,
            reason=Reason.MATCHED,
            settled=True,
            route=best.route,
            model=best.model,
            scores=scores,
            embedding=embedding,
        )


def _abstention(reason: Reason) -> Choice:
    return Choice(stage=Stage.DEFAULT, reason=reason, settled=False)
