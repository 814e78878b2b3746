"""The decision pipeline: one visible list of stages, one budget, always an answer."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from extproc.errors import ClientError, DecisionError, PolicyFailed, UnknownVersion
from extproc.offloading import Offload
from extproc.routing.rollout import key_of, mode_of
from extproc.routing.snapshot import Snapshot
from extproc.routing.stages import (
    ByMeaning,
    InstantStage,
    WaitingStage,
    deny,
    pin,
    route_by_rule,
    route_by_words,
    spoken,
)
from extproc.vocabulary import (
    BodyPolicy,
    Choice,
    Decision,
    Embedder,
    Embedding,
    Question,
    Reason,
    Stage,
    StageTimes,
    Version,
)

log = logging.getLogger(__name__)


class Pipeline:
    """Decides. Stateless but for the embedder; one instance serves all requests."""

    def __init__(
        self,
        embedder: Embedder,
        snapshot_of: Callable[[Version], Snapshot | None],
        clock: Callable[[], float],
        offload: Offload | None = None,
    ) -> None:
        """``snapshot_of`` gives the snapshot for what Envoy holds (see ``Releases.snapshot``).

        ``clock`` counts seconds from anywhere. ``offload`` runs the rules over large bodies.
        """
        self._snapshot_of = snapshot_of
        self._clock = clock
        self._offload = offload or Offload()
        # The order is the precedence: deny before pins before routes, and what costs
        # microseconds before what costs milliseconds. Only the latter wait, so only they need
        # the deadline's timer, which costs more than all rules together.
        self._instant_stages: tuple[InstantStage, ...] = (spoken, deny, pin, route_by_rule, route_by_words)
        self._waiting_stages: tuple[WaitingStage, ...] = (ByMeaning(embedder),)

    async def decide(self, question: Question) -> Decision:
        """The decision, within the snapshot's budget; the default model whatever goes wrong.

        Raises ``ClientError`` when the request must be refused, ``UnknownVersion`` when there is no
        snapshot to decide by, ``PolicyFailed`` when a deny rule could not be checked, and nothing else.
        """
        snapshot = self._snapshot_of(question.head.config_version)
        if snapshot is None:
            raise UnknownVersion(question.head.config_version)
        started = self._clock()
        ruled = None
        try:
            choice = await self._offload.run(
                question.request.body_bytes, _ask, self._instant_stages, question, snapshot
            )
            ruled = self._clock()
            if choice is None or not choice.settled:
                async with asyncio.timeout(snapshot.budget_s):
                    choice = await _wait_for(self._waiting_stages, question, snapshot) or choice
        except ClientError:
            raise
        except PolicyFailed:
            log.exception("a deny rule failed: nothing is decided")
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
        choice = choice or _give_up(Reason.NO_ROUTES)
        times = _times(choice.embedding, started, ruled, self._clock())
        return conclude(choice, question, snapshot, times)


def _ask(stages: Sequence[InstantStage], question: Question, snapshot: Snapshot) -> Choice | None:
    """The first settled choice, else the last one found: an abstention."""
    choice = None
    for stage in stages:
        choice = stage(question, snapshot) or choice
        if choice is not None and choice.settled:
            break
    return choice


async def _wait_for(stages: Sequence[WaitingStage], question: Question, snapshot: Snapshot) -> Choice | None:
    """The same of stages that wait."""
    choice = None
    for stage in stages:
        choice = await stage(question, snapshot) or choice
        if choice is not None and choice.settled:
            break
    return choice


def conclude(choice: Choice, question: Question, snapshot: Snapshot, times: StageTimes) -> Decision:
    """Turn what the stages found into where the request goes."""
    target = snapshot.targets[choice.model or snapshot.defaults[question.request.api]]
    route = snapshot.routes.get(choice.route)
    scores, embedding = choice.scores, choice.embedding
    rollout = route.rollout if route else snapshot.rollout
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
        candidates=scores.candidates if scores else (),
        offers=choice.offers,
        nearest=scores.nearest if scores else "",
        comparison=choice.comparison,
        tokens=embedding.tokens if embedding else None,
        times=times,
        mode=mode_of(rollout, choice.route, key_of(question, snapshot.rollout_key).value),
    )


def _give_up(reason: Reason) -> Choice:
    return Choice(stage=Stage.DEFAULT, reason=reason, settled=False)


def _times(embedding: Embedding | None, started: float, ruled: float | None, now: float) -> StageTimes:
    """How long each step took; ``ruled`` is when the instant stages were done."""
    rules = None if ruled is None else _microseconds(ruled - started)
    total = _microseconds(now - started)
    if embedding is None:
        return StageTimes(rules=rules, total=total)
    queue, embed = _microseconds(embedding.queue_s), _microseconds(embedding.infer_s)
    # What is left of the whole: the scorer, the choice of a model, and the way back from the encoder.
    return StageTimes(
        rules=rules, queue=queue, embed=embed, score=max(0, total - (rules or 0) - queue - embed), total=total
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
