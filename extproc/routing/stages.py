"""The stages of a decision, named as in the pipeline's list.

The pipeline runs them in order until one returns a ``Choice``. All are plain functions, so that they can run
in a thread. ``route_by_meaning`` needs the embedding, and ``route_by_llm`` an LLM's opinion. Only these two
are awaited.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from extproc.errors import Denied, NotCleared, PolicyFailed, UnknownModel, Unsafe
from extproc.routing.clearance import Labels
from extproc.routing.fastpath import FastPath
from extproc.routing.languages import unread
from extproc.routing.model_choice import best_offer, offers_of, pick
from extproc.routing.predicted_quality import Prediction, Quality
from extproc.routing.rules import CompiledRule, first_that_holds
from extproc.routing.safety_policy import SafetyVerdict
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import (
    Choice,
    Embedding,
    FastPathComparison,
    LlmOpinion,
    LlmResult,
    ModelName,
    Offer,
    Question,
    Reason,
    RouteName,
    SafetyAction,
    Scores,
    Stage,
    TurnReading,
)

_NONE = ModelName("")
AUTO = "auto"  # the model name with which a client asks to be routed


class RoutingStage(Protocol):
    """A stage without the embedding. It may run in any thread."""

    def __call__(self, question: Question, snapshot: Snapshot) -> Choice | None:
        """What this stage finds. Raises ``ClientError`` to refuse and ``DecisionError`` to give up."""
        ...


def api_served(question: Question, snapshot: Snapshot) -> Choice | None:
    """Refuse an API that no model of the registry speaks. Raises ``UnknownModel``."""
    if question.request.api not in snapshot.defaults:
        raise UnknownModel(f"No model here speaks {question.request.api}.", param="model")
    return None


def deny(question: Question, snapshot: Snapshot) -> Choice | None:
    """Refuse what a deny rule names. Raises ``Denied``, and ``PolicyFailed`` for a defect of a rule's."""
    try:
        rule = first_that_holds(snapshot.deny_rules, question)
    except Exception as error:
        raise PolicyFailed("a deny rule failed") from error
    if rule is not None:
        raise Denied(rule.deny, rule=rule.name, status=snapshot.deny_status)
    return None


def labels_of(question: Question, snapshot: Snapshot) -> Labels:
    """The labels that the request carries. Raises ``PolicyFailed`` for a defect of a rule's."""
    if snapshot.clearance is None:
        return snapshot.labels
    try:
        return snapshot.clearance.labels_of(question)
    except Exception as error:
        raise PolicyFailed("a rule with labels failed") from error


def inspected(question: Question, snapshot: Snapshot) -> SafetyVerdict:
    """What the safety policy finds. Raises ``Unsafe`` to refuse, ``PolicyFailed`` for a defect."""
    if snapshot.safety is None:
        return snapshot.verdict
    try:
        verdict = snapshot.safety.inspect(question)
    except Exception as error:
        raise PolicyFailed("the safety policy failed") from error
    _refuse_unsafe(verdict, snapshot)
    return verdict


def judged_by_head(snapshot: Snapshot, embeddings: Sequence[Embedding]) -> SafetyVerdict:
    """What the safety head finds besides. Raises ``Unsafe`` to refuse, ``PolicyFailed`` for a defect."""
    assert snapshot.safety is not None  # as it has a head
    try:
        verdict = snapshot.safety.judge(snapshot.verdict, embeddings)
    except Exception as error:
        raise PolicyFailed("the safety head failed") from error
    _refuse_unsafe(verdict, snapshot)
    return verdict


def _refuse_unsafe(verdict: SafetyVerdict, snapshot: Snapshot) -> None:
    for refusing in verdict.of(SafetyAction.REFUSE):
        kinds = sorted(refusing.kinds & verdict.found.keys())
        message = f"This request contains what may not be sent to a model: {', '.join(map(_noun, kinds))}."
        as_answer = snapshot.safety is not None and snapshot.safety.refuses_by_answer
        raise Unsafe(message, found=verdict.listed, rule=refusing.name, as_answer=as_answer)


def _noun(kind: str) -> str:
    return _NOUNS.get(kind, kind.replace("_", " "))


_NOUNS = {
    "card": "a card number",
    "email": "an email address",
    "iban": "an account number",
    "national_id": "a national number",
    "phone": "a phone number",
    "secret": "a key or token",
    "template": "the text of a known attack",
}


def pin(question: Question, snapshot: Snapshot) -> Choice | None:
    """Honour a client that names a registry model.

    Raises ``UnknownModel`` where names must be known, and for a model that does not speak the API.
    Raises ``NotCleared`` for a model that is not cleared for the request's labels.
    """
    name = ModelName(question.request.model)  # if it is one of ours
    target = snapshot.targets.get(name)
    if target is None:
        if snapshot.unknown_models_rejected and name != AUTO:
            raise UnknownModel(f"The model {name!r} does not exist here.", param="model")
        return None
    if not target.pinnable:
        return None
    if question.request.api not in target.apis:
        apis = ", ".join(sorted(target.apis))
        raise UnknownModel(f"The model {name!r} is not served by this API, but by {apis}.", param="model")
    if not snapshot.admits(name):
        raise NotCleared(
            f"The model {name!r} may not answer this request.", labels=snapshot.labels, param="model"
        )
    return Choice(stage=Stage.PIN, reason=Reason.PINNED, model=name)


def route_by_rule(question: Question, snapshot: Snapshot) -> Choice | None:
    """Follow the first rule that names a route or a model."""
    rule = first_that_holds(snapshot.route_rules, question)
    if rule is None:
        return None
    found = _model_named_by(rule, question, snapshot)
    reason = Reason.RULE if found.model else Reason.NO_CANDIDATE
    return Choice(
        Stage.RULE, reason, route=rule.route, model=found.model, rule=rule.name, offers=found.offers
    )


def route_by_words(question: Question, snapshot: Snapshot, reading: TurnReading) -> Choice | None:
    """Take the lexical fast path, where it is open, sure enough, and the request is not of its sample."""
    fast = snapshot.fast_path
    if fast is None or fast.watch.ended or fast.samples(question.request_id):
        return None
    scores = _scores_by_words(fast, reading, snapshot)
    if scores is None:
        return None
    route = scores.candidates[0].route
    found = _model_of(route, question, snapshot, None)
    reason = Reason.MATCHED if found.model else Reason.NO_CANDIDATE
    return Choice(Stage.LEXICAL, reason, route=route, model=found.model, scores=scores, offers=found.offers)


def _scores_by_words(fast: FastPath, reading: TurnReading, snapshot: Snapshot) -> Scores | None:
    """The scores of the fast path where it would decide by them.

    A route's own floor holds here too, and one with a bar needs the embedding to predict quality.
    """
    scores = fast.read(reading.text)
    if scores is None:
        return None
    scores = replace(scores, reading=reading)
    policy = snapshot.routes[scores.candidates[0].route]
    return scores if scores.margin >= policy.margin_floor and policy.quality_bar is None else None


def _compared(choice: Choice, question: Question, snapshot: Snapshot, reading: TurnReading) -> Choice:
    """The encoder's choice, with what the fast path would have made of a request of its sample."""
    fast = snapshot.fast_path
    if fast is None or not fast.samples(question.request_id):
        return choice
    scores = _scores_by_words(fast, reading, snapshot)
    if scores is None:
        return choice
    agreed = scores.candidates[0].route == choice.route
    fast.watch.note(agreed=agreed)
    weight = 1.0 if fast.watch.ended else 1.0 / fast.sample
    return replace(choice, comparison=FastPathComparison(agreed=agreed, weight=weight))


def abstain_without_text(question: Question, snapshot: Snapshot) -> Choice | None:
    """Abstain if there is nothing to embed, or no route to score."""
    if snapshot.meaning is None:
        return _abstention(Reason.NO_ROUTES)
    return None if question.request.user_text.strip() else _abstention(Reason.NO_TEXT)


def abstain_on_language(question: Question, snapshot: Snapshot, reading: TurnReading) -> Choice | None:
    """Abstain if the encoder does not read the language of the text, whose vector would mean nothing.

    A whole turn is checked as it was written, because the correction of misspelt words knows English only.
    """
    text = question.request.user_text if reading.part == "whole" else reading.text
    return _abstention(Reason.LANGUAGE) if unread(text, snapshot.languages) else None


def route_by_meaning(
    question: Question, snapshot: Snapshot, reading: TurnReading, embeddings: Sequence[Embedding]
) -> Choice:
    """Score the embedding of what was read against every route. Abstain below a floor.

    ``embeddings`` are those of ``Snapshot.embedded``. An abstention has its scores too.
    """
    assert snapshot.meaning is not None  # see ``abstain_without_text``
    scores = replace(snapshot.meaning.score(embeddings[0], reading.text), reading=reading)
    return _compared(_by_scores(scores, embeddings, question, snapshot), question, snapshot, reading)


def _by_scores(
    scores: Scores, embeddings: Sequence[Embedding], question: Question, snapshot: Snapshot
) -> Choice:
    read, turn = embeddings[0], embeddings[-1]
    doubt = _doubt(scores, snapshot)
    if doubt is not None:
        return Choice(Stage.DEFAULT, doubt, scores=scores, embedding=read, turn_embedding=turn)
    route = scores.candidates[0].route
    found = _model_of(route, question, snapshot, turn)
    return Choice(
        stage=Stage.EMBEDDING,
        reason=Reason.MATCHED if found.model else Reason.NO_CANDIDATE,
        route=route,
        model=found.model,
        scores=scores,
        embedding=read,
        turn_embedding=turn,
        offers=found.offers,
        training_similarity=found.similarity,
    )


def route_by_llm(choice: Choice, opinion: LlmOpinion, question: Question, snapshot: Snapshot) -> Choice:
    """Follow the LLM's opinion about a request in doubt. If it names no route, ``choice`` stands."""
    if opinion.result is not LlmResult.MATCHED:
        return replace(choice, opinion=opinion)
    found = _model_of(opinion.route, question, snapshot, choice.turn_embedding)
    return replace(
        choice,
        stage=Stage.LLM,
        reason=Reason.MATCHED if found.model else Reason.NO_CANDIDATE,
        route=opinion.route,
        model=found.model,
        offers=found.offers,
        training_similarity=found.similarity,
        opinion=opinion,
    )


def _doubt(scores: Scores, snapshot: Snapshot) -> Reason | None:
    """Why the most probable route is not to be trusted, by its own floors; None when it is."""
    policy = snapshot.routes[scores.candidates[0].route]
    if _below(scores.similarity, policy.similarity_floor):
        return Reason.LOW_SIMILARITY
    if _below(scores.in_scope, policy.in_scope_floor):
        return Reason.OUT_OF_SCOPE
    if scores.margin < policy.margin_floor:
        return Reason.LOW_MARGIN
    return None


def _below(score: float | None, floor: float | None) -> bool:
    """False for a score that was not computed: the words alone have none."""
    return score is not None and floor is not None and score < floor


class _Found(Struct, frozen=True):
    """The model for a request, and what it was chosen from where the route has a quality bar."""

    model: ModelName  # public name; empty: no model can take the request
    offers: tuple[Offer, ...] = ()
    similarity: float | None = None  # to the nearest prompt that quality was trained on


def _model_named_by(rule: CompiledRule, question: Question, snapshot: Snapshot) -> _Found:
    """The rule's model, or the model of its route."""
    if rule.route:
        return _model_of(rule.route, question, snapshot, None)
    # An operator's word goes before an estimate of tokens, but no model learns an API by it.
    able = question.request.api in snapshot.targets[rule.model].apis and snapshot.admits(rule.model)
    return _Found(rule.model if able else _NONE)


def _model_of(
    route: RouteName, question: Question, snapshot: Snapshot, embedding: Embedding | None
) -> _Found:
    """The route's model for this request."""
    policy, request, quality = snapshot.routes[route], question.request, snapshot.quality
    if policy.quality_bar is None or not policy.candidates:
        target = pick(policy.candidates, request)
        return _Found(target.model if target else _NONE)
    assert quality is not None  # a registry with a bar is not loaded without
    predicted = _predicted(quality, [target.model for target in policy.candidates], question, embedding)
    offers = offers_of(policy.candidates, request, predicted.forecasts, quality.matched_by)
    best = best_offer(offers, policy.quality_bar)
    return _Found(best.model if best else _NONE, offers, predicted.similarity)


def _predicted(
    quality: Quality, models: list[ModelName], question: Question, embedding: Embedding | None
) -> Prediction:
    """What is predicted of each model's answer; a request that is not embedded is taken for a usual one."""
    if embedding is None:
        return quality.usual(models)
    return quality.forecasts(embedding, question.request.user_text, models)


def _abstention(reason: Reason) -> Choice:
    return Choice(stage=Stage.DEFAULT, reason=reason)
