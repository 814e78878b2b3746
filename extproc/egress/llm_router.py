"""Asks an LLM about requests in doubt, through Envoy, with budgets, a breaker and a cache.

One instance per process, on its event loop. A registry's new version brings a new policy; budgets go on.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from extproc.egress.llm_budgets import Breaker, DollarBudget, ShareBudget
from extproc.egress.model_calls import TokenBucket
from extproc.gate.consultation import Consultation, ModelClient
from extproc.routing.llm_question import PATH, LlmPolicy, LlmQuestion, opinion_of, request_body
from extproc.vocabulary import LlmOpinion, LlmResult, Version

_Key = tuple[Version, str]

_KEPT: Final = (LlmResult.MATCHED, LlmResult.NONE)  # results that an equal text gets without a call


class LlmRouter:
    """A ``DoubtResolver`` that calls a model of the registry."""

    def __init__(self, client: ModelClient, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` counts seconds from anywhere."""
        self._client = client
        self._clock = clock
        self._share = ShareBudget()
        self._calls: TokenBucket | None = None  # its size follows the first policy
        self._dollars = DollarBudget(clock())
        self._breaker = Breaker()
        self._answers: OrderedDict[_Key, LlmOpinion] = OrderedDict()
        self._open: dict[_Key, asyncio.Task[LlmOpinion]] = {}

    def note_request(self, policy: LlmPolicy) -> None:
        """See ``DoubtResolver``."""
        self._share.note(policy.max_share)

    def begin(self, question: LlmQuestion, request_id: str) -> LlmOpinion | Awaitable[LlmOpinion]:
        """See ``DoubtResolver``."""
        key = _key(question)
        known = self._answers.get(key)
        if known is not None:
            self._answers.move_to_end(key)
            return _as_cached(known, question)
        if key in self._open:
            return _joined(self._open[key], question)
        refused = self._refused(question)
        if refused is not None:
            return refused
        # A task of its own, so that a client who leaves does not take the answer from others who wait for it.
        call = asyncio.ensure_future(self._call(question, request_id))
        self._open[key] = call
        call.add_done_callback(lambda _: self._open.pop(key, None))
        return asyncio.shield(call)

    def _refused(self, question: LlmQuestion) -> LlmOpinion | None:
        policy, now = question.policy, self._clock()
        affordable = policy.dollars_per_hour is None or self._dollars.left(policy.dollars_per_hour, now)
        if not affordable or not self._share.left():
            return _unasked(question, LlmResult.BUDGET)
        if not self._breaker.closed(now):
            return _unasked(question, LlmResult.BREAKER)
        self._calls = self._calls or TokenBucket(policy.per_second, now)
        if not self._calls.take(policy.per_second, now):
            return _unasked(question, LlmResult.BUDGET)
        # Only now is it sure that the call is made: a trial that a budget refused would cost another pause.
        self._breaker.begin(now)
        self._share.spend()
        return None

    async def _call(self, question: LlmQuestion, request_id: str) -> LlmOpinion:
        policy = question.policy
        consultation = Consultation(
            model=policy.model,
            path=PATH,
            headers={"x-request-id": request_id} if request_id else {},
            body=request_body(question),
            deadline_s=policy.deadline_s,
            budget_key="",
        )
        result = await self._client.ask(consultation, None)
        opinion = (
            opinion_of(question, result.body)
            if result.failure is None
            else _unasked(question, LlmResult(result.failure.value))
        )
        self._account(policy, opinion)
        if opinion.result in _KEPT and policy.cache:
            self._answers[_key(question)] = opinion
            while len(self._answers) > policy.cache:
                self._answers.popitem(last=False)
        return opinion

    def _account(self, policy: LlmPolicy, opinion: LlmOpinion) -> None:
        self._breaker.note(opinion.result not in _KEPT, self._clock())
        if policy.price is not None:
            self._dollars.charge(
                policy.price.input * (opinion.input_tokens or 0)
                + policy.price.output * (opinion.output_tokens or 0)
            )


def _key(question: LlmQuestion) -> _Key:
    return question.version, question.text


async def _joined(call: asyncio.Task[LlmOpinion], question: LlmQuestion) -> LlmOpinion:
    return _as_cached(await asyncio.shield(call), question)


def _as_cached(opinion: LlmOpinion, question: LlmQuestion) -> LlmOpinion:
    """``opinion`` for another request with the same text, which pays nothing."""
    return replace(opinion, cached=True, doubt=question.doubt, input_tokens=None, output_tokens=None)


def _unasked(question: LlmQuestion, result: LlmResult) -> LlmOpinion:
    return LlmOpinion(result=result, model=question.policy.model, doubt=question.doubt)
