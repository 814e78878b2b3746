"""The decision pipeline: one visible list of stages, one budget, always an answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from extproc.errors import ClientError, DecisionError, NotCleared, PolicyFailed, UnknownVersion
from extproc.offloading import Offload
from extproc.routing.llm_question import DOUBTS, DoubtResolver, LlmQuestion
from extproc.routing.rollout import key_of, mode_of
from extproc.routing.safety_head import pieces_of
from extproc.routing.safety_policy import SafetyVerdict
from extproc.routing.snapshot import RoutePolicy, Snapshot
from extproc.routing.stages import (
    RoutingStage,
    abstain_on_language,
    abstain_without_text,
    api_served,
    deny,
    inspected,
    judged_by_head,
    labels_of,
    pin,
    route_by_llm,
    route_by_meaning,
    route_by_rule,
    route_by_words,
)
from extproc.vocabulary import (
    BodyPolicy,
    Choice,
    Decision,
    Embedder,
    Embedding,
    LlmOpinion,
    Mode,
    ModelName,
    Question,
    Reason,
    RouteName,
    SafetyAction,
    Stage,
    StageTimes,
    TurnReading,
    Version,
)

log = logging.getLogger(__name__)

MoreTime = Callable[[float], Awaitable[None]]
"""Asks Envoy to wait so many seconds for the decision, in place of its usual time."""

Known = dict[str, Embedding]
"""The embeddings of one request, by text."""

LLM_MARGIN_S = 0.5  # that an LLM's answer may be late on a busy machine


class Pipeline:
    """Decides. Stateless but for the embedder; one instance serves all requests."""

    def __init__(
        self,
        embedder: Embedder,
        snapshot_of: Callable[[Version], Snapshot | None],
        clock: Callable[[], float],
        offload: Offload | None = None,
        llm: DoubtResolver | None = None,
    ) -> None:
        """``snapshot_of`` gives the snapshot for what Envoy holds (see ``Releases.snapshot``).

        ``clock`` counts seconds from anywhere. ``offload`` runs the rules over large bodies. Without ``llm``,
        requests in doubt get the default.
        """
        self._embedder = embedder
        self._snapshot_of = snapshot_of
        self._clock = clock
        self._offload = offload or Offload()
        self._llm = llm
        # The order is the precedence: deny before labels before pins before routes, and what costs
        # microseconds before the embedding, which costs milliseconds. The LLM comes last. Only what is
        # awaited has a deadline, whose timer costs more than all rules together.
        self._policies: tuple[RoutingStage, ...] = (api_served, deny)
        self._stages: tuple[RoutingStage, ...] = (pin, route_by_rule, abstain_without_text)

    async def decide(self, question: Question, more_time: MoreTime | None = None) -> Decision:
        """The decision; the default model whatever goes wrong, or once the embedding takes too long.

        In doubt, an LLM may be asked within its own deadline, for which ``more_time`` is asked first. Without
        ``more_time``, none is.

        Raises ``ClientError`` when the request must be refused, ``UnknownVersion`` when there is no
        snapshot to decide by, ``PolicyFailed`` when a rule that denies or labels could not be checked, and
        nothing else.
        """
        snapshot = self._snapshot_of(question.head.config_version)
        if snapshot is None:
            raise UnknownVersion(question.head.config_version)
        started = self._clock()
        ruled = None
        known: Known = {}
        snapshot = await self._allowed(question, snapshot, known)
        try:
            choice, reading = await self._offload.run(
                question.request.body_bytes, _without_embedding, self._stages, question, snapshot
            )
            ruled = self._clock()
            if choice is None:
                texts = snapshot.embedded(question.request.user_text, reading)
                choice = route_by_meaning(
                    question, snapshot, reading, await self._embedded(texts, snapshot, known)
                )
            choice = await self._resolved(choice, question, snapshot, more_time)
        except ClientError:
            raise
        except DecisionError as error:
            choice = _give_up(error.reason)
        except TimeoutError:
            choice = _give_up(Reason.DEADLINE)
        except Exception:
            # A defect of ours must not cost the client its answer: it is logged, it shows as
            # a reason of its own on metrics and records, and the default model answers.
            log.exception("a stage of the pipeline failed")
            choice = _give_up(Reason.INTERNAL_ERROR)
        times = _times(choice, started, ruled, self._clock())
        return conclude(choice, question, snapshot, times)

    async def _allowed(self, question: Question, snapshot: Snapshot, known: Known) -> Snapshot:
        """What of the snapshot may decide the request: all of it, or what is cleared for its labels.

        The safety head's embeddings go into ``known``. Raises as ``decide``. A defect must not let anything
        pass that the policy forbids, so the default does not answer then.
        """
        try:
            allowed = await self._offload.run(
                question.request.body_bytes, _checked, self._policies, question, snapshot
            )
            pieces = pieces_of(question.request) if allowed.judges_by_head else ()
            if not pieces:
                return allowed
            embeddings = await self._embedded(pieces, allowed, known)
            return _guarded(allowed, judged_by_head(allowed, embeddings))
        except PolicyFailed:
            log.exception("what the policy forbids could not be checked: nothing is decided")
            raise
        except (DecisionError, TimeoutError) as error:
            raise PolicyFailed("the safety head got no embedding in time") from error

    async def _resolved(
        self, choice: Choice, question: Question, snapshot: Snapshot, more_time: MoreTime | None
    ) -> Choice:
        """``choice``, or what an LLM made of a request in doubt. It is not asked if that is only observed."""
        policy = snapshot.llm
        if policy is None or self._llm is None or more_time is None:
            return choice
        self._llm.note_request(policy)
        if choice.reason not in DOUBTS or _mode(RouteName(""), question, snapshot) is Mode.OBSERVE:
            return choice
        asked = LlmQuestion(policy, snapshot.version, question.request.user_text, choice.reason)
        begun, began = self._llm.begin(asked, question.request_id), self._clock()
        if isinstance(begun, LlmOpinion):
            return route_by_llm(choice, begun, question, snapshot)
        await more_time(policy.deadline_s + LLM_MARGIN_S)
        opinion = await begun
        waited = replace(choice, llm_s=self._clock() - began)
        return route_by_llm(waited, opinion, question, snapshot)

    async def _embedded(self, texts: Sequence[str], snapshot: Snapshot, known: Known) -> list[Embedding]:
        """The embeddings of the texts, each computed once per request."""
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        async with asyncio.timeout(snapshot.budget_s):
            if len(missing) == 1:
                known[missing[0]] = await self._embedder.embed(missing[0], snapshot.budget_s)
            elif missing:
                made = await asyncio.gather(
                    *(self._embedder.embed(text, snapshot.budget_s) for text in missing)
                )
                known.update(zip(missing, made, strict=True))
        return [known[text] for text in texts]


def _checked(policies: Sequence[RoutingStage], question: Question, snapshot: Snapshot) -> Snapshot:
    for policy in policies:
        policy(question, snapshot)
    verdict = inspected(question, snapshot)
    return _guarded(snapshot.for_labels(labels_of(question, snapshot)), verdict)


def _guarded(snapshot: Snapshot, verdict: SafetyVerdict) -> Snapshot:
    """The snapshot for a request of which this was found: only models that may see what is guarded."""
    guarded = frozenset(each.label for each in verdict.of(SafetyAction.GUARD))
    return snapshot.for_verdict(verdict).for_labels(snapshot.labels | guarded)


def _without_embedding(
    stages: Sequence[RoutingStage], question: Question, snapshot: Snapshot
) -> tuple[Choice | None, TurnReading]:
    """What the stages choose, else the words alone; and what is to be embedded where nothing is chosen."""
    text = question.request.user_text
    for stage in stages:
        if choice := stage(question, snapshot):
            return choice, TurnReading(text)
    reading = snapshot.read(text)
    choice = abstain_on_language(question, snapshot, reading) or route_by_words(question, snapshot, reading)
    return choice, reading


def conclude(choice: Choice, question: Question, snapshot: Snapshot, times: StageTimes) -> Decision:
    """Turn what the stages found into where the request goes.

    Raises ``NotCleared`` where that would be a model that is not cleared for the request's labels.
    """
    target = snapshot.targets[_answering(choice, question, snapshot)]
    route = snapshot.routes.get(choice.route)
    scores, embedding = choice.scores, choice.embedding
    return Decision(
        route=choice.route,
        model=target.model,
        policy=BodyPolicy(
            model=target.upstream_model,
            max_tokens=route.max_tokens if route else None,
            reasoning=route.reasoning if route else None,
            include_usage=snapshot.ask_usage,
        ),
        cluster=target.cluster,
        provider=target.provider,
        fallback=route.fallback if route else False,
        stage=choice.stage,
        reason=choice.reason,
        version=snapshot.version,
        rule=choice.rule,
        probability=scores.probability if scores else None,
        margin=scores.margin if scores else None,
        similarity=scores.similarity if scores else None,
        in_scope=scores.in_scope if scores else None,
        candidates=scores.candidates if scores else (),
        offers=choice.offers,
        training_similarity=choice.training_similarity,
        nearest=scores.nearest if scores else "",
        reading=scores.reading if scores else None,
        comparison=choice.comparison,
        tokens=embedding.tokens if embedding else None,
        times=times,
        opinion=choice.opinion,
        labels=tuple(sorted(snapshot.labels)),
        clearance=snapshot.clearance.clearance_of(snapshot.labels) if snapshot.clearance else "",
        found=snapshot.verdict.listed,
        safety=snapshot.verdict.action,
        safety_scores=tuple(f"{name}:{score:.4g}" for name, score in snapshot.verdict.scores.items()),
        redacted=_redacted(target.model, route, snapshot),
        unredacted=snapshot.safety.patterns if snapshot.safety else (),
        mode=_mode(choice.route, question, snapshot),
    )


def _redacted(model: ModelName, route: RoutePolicy | None, snapshot: Snapshot) -> frozenset[str]:
    """The kinds of findings to replace: those that some model which may read the body is not cleared for."""
    reached = {model, *(route.reached if route else ())}
    return frozenset[str]().union(
        *(
            each.kinds
            for each in snapshot.verdict.of(SafetyAction.REDACT)
            if not all(snapshot.admits(one, snapshot.labels | {each.label}) for one in reached)
        )
    )


def _answering(choice: Choice, question: Question, snapshot: Snapshot) -> ModelName:
    """The chosen model, else the default. A route whose candidates are not cleared has no default."""
    model = choice.model or snapshot.defaults.get(question.request.api, ModelName(""))
    if snapshot.labels and (choice.reason is Reason.NO_CANDIDATE or not model):
        raise NotCleared(
            f"No model here may answer a request with the labels {', '.join(sorted(snapshot.labels))}.",
            labels=snapshot.labels,
        )
    return model


def _mode(route: RouteName, question: Question, snapshot: Snapshot) -> Mode:
    """Whether a decision for this route, empty for none, is obeyed.

    One for a request with labels, or with something to redact, is, unless the whole registry only observes:
    Envoy's default, which answers what is only observed, may not be cleared for it.
    """
    if snapshot.restricted and snapshot.rollout.mode is Mode.ACTIVE:
        return Mode.ACTIVE
    policy = snapshot.routes.get(route)
    rollout = policy.rollout if policy else snapshot.rollout
    return mode_of(rollout, route, key_of(question, snapshot.rollout_key).value)


def _give_up(reason: Reason) -> Choice:
    return Choice(stage=Stage.DEFAULT, reason=reason)


def _times(choice: Choice, started: float, ruled: float | None, now: float) -> StageTimes:
    """How long each step took; ``ruled`` is when the stages without the embedding were done."""
    embedding = choice.embedding
    llm = None if choice.llm_s is None else _microseconds(choice.llm_s)
    rules = None if ruled is None else _microseconds(ruled - started)
    total = _microseconds(now - started)
    if embedding is None:
        return StageTimes(rules=rules, llm=llm, total=total)
    queue, embed = _microseconds(embedding.queue_s), _microseconds(embedding.infer_s)
    # What is left of the whole: the scorer, the choice of a model, and the way back from the encoder.
    score = max(0, total - (rules or 0) - queue - embed - (llm or 0))
    return StageTimes(rules=rules, queue=queue, embed=embed, score=score, llm=llm, total=total)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
