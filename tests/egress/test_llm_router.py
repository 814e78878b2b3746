"""When the LLM is asked about a request in doubt, and when an answer that is known is used."""

import asyncio

import msgspec
import pytest

from extproc.egress.llm_budgets import FAILURES, OPEN_S
from extproc.egress.llm_router import LlmRouter
from extproc.gate.consultation import Consultation, ConsultationResult, FailureReason
from extproc.routing.llm_question import LlmPolicy, LlmQuestion
from extproc.routing.model_choice import Price
from extproc.vocabulary import LlmOpinion, LlmResult, Reason

POLICY = LlmPolicy(
    model="small", upstream_model="small-8b", routes=("coding",), system="", deadline_s=1.0, max_share=1.0,
    per_second=1000.0, cache=2, price=Price(0.001, 0.001),
)  # fmt: skip
CODING = b'{"choices":[{"message":{"content":"{\\"route\\":\\"coding\\"}"}}],"usage":{"prompt_tokens":90,"completion_tokens":10}}'
ANSWERED = ConsultationResult(200, CODING)


class Model:
    """A model that answers what it is told, once ``ready`` is set."""

    def __init__(self, result: ConsultationResult) -> None:
        self.result = result
        self.ready = asyncio.Event()
        self.ready.set()
        self.asked: list[Consultation] = []

    async def ask(self, consultation: Consultation, within_s: float | None) -> ConsultationResult:
        self.asked.append(consultation)
        await self.ready.wait()
        return self.result


def question(text: str = "hello", version: str = "v1", **changes: object) -> LlmQuestion:
    return LlmQuestion(msgspec.structs.replace(POLICY, **changes), version, text, Reason.LOW_MARGIN)


async def resolved(router: LlmRouter, asked: LlmQuestion) -> LlmOpinion:
    router.note_request(asked.policy)
    begun = router.begin(asked, "request-1")
    return begun if isinstance(begun, LlmOpinion) else await begun


async def test_an_equal_text_of_the_same_version_is_asked_about_once() -> None:
    model = Model(ANSWERED)
    router = LlmRouter(model, clock=lambda: 0.0)
    first, again = [await resolved(router, question()) for _ in range(2)]
    other = await resolved(router, question(version="v2"))
    assert [o.result for o in (first, again, other)] == [LlmResult.MATCHED] * 3
    assert [o.cached for o in (first, again, other)] == [False, True, False]
    assert (first.input_tokens, again.input_tokens) == (90, None)
    assert len(model.asked) == 2
    assert model.asked[0].headers == {"x-request-id": "request-1"}


async def test_the_cache_keeps_the_answers_used_last() -> None:
    model = Model(ANSWERED)
    router = LlmRouter(model, clock=lambda: 0.0)
    for text in ("a", "b", "a", "c", "a"):
        await resolved(router, question(text))
    assert len(model.asked) == 3
    assert not (await resolved(router, question("b"))).cached


async def test_equal_texts_at_the_same_time_share_one_call_that_outlives_a_client_who_leaves() -> None:
    model = Model(ANSWERED)
    model.ready.clear()
    router = LlmRouter(model, clock=lambda: 0.0)
    waiting = [asyncio.create_task(resolved(router, question())) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    model.ready.set()
    opinions = await asyncio.gather(*waiting[1:])
    assert [(o.result, o.cached) for o in opinions] == [(LlmResult.MATCHED, True)] * 2
    assert len(model.asked) == 1


async def test_a_call_that_ends_before_it_is_awaited_is_not_made_again() -> None:
    model = Model(ANSWERED)
    router = LlmRouter(model, clock=lambda: 0.0)
    begun = [router.begin(question(max_share=0.01), "request-1") for _ in range(2)]
    first, second = begun
    assert not isinstance(first, LlmOpinion)
    assert not isinstance(second, LlmOpinion)
    assert not (await first).cached
    assert (await second).cached  # Envoy was asked for more time meanwhile
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    ("changes", "calls"),
    [({"max_share": 0.01}, 1), ({"per_second": 0.001}, 1), ({"dollars_per_hour": 0.15}, 2)],
)
async def test_beyond_a_budget_it_is_not_asked(changes: dict[str, object], calls: int) -> None:
    model = Model(ANSWERED)
    router = LlmRouter(model, clock=lambda: 0.0)
    opinions = [await resolved(router, question(str(i), cache=0, **changes)) for i in range(5)]
    assert len(model.asked) == calls
    assert [o.result for o in opinions[calls:]] == [LlmResult.BUDGET] * (5 - calls)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (ConsultationResult(failure=FailureReason.TIMEOUT), LlmResult.TIMEOUT),
        (ConsultationResult(failure=FailureReason.FAILED), LlmResult.FAILED),
        (ConsultationResult(200, b"{}"), LlmResult.INVALID),
    ],
)
async def test_a_model_that_fails_again_and_again_is_left_alone_for_a_while(
    result: ConsultationResult, expected: LlmResult
) -> None:
    model, now = Model(result), 0.0
    router = LlmRouter(model, clock=lambda: now)
    opinions = [(await resolved(router, question(str(i)))).result for i in range(FAILURES + 2)]
    assert opinions == [expected] * FAILURES + [LlmResult.BREAKER] * 2
    now, model.result = 60.0, ConsultationResult(200, CODING)
    assert (await resolved(router, question("later"))).result == LlmResult.MATCHED
    assert (await resolved(router, question("again"))).result == LlmResult.MATCHED


async def test_a_trial_that_the_budget_refuses_is_made_as_soon_as_the_budget_allows_it() -> None:
    model, now = Model(ConsultationResult(failure=FailureReason.FAILED)), 0.0
    router = LlmRouter(model, clock=lambda: now)
    for i in range(FAILURES):
        await resolved(router, question(str(i), per_second=FAILURES))
    now, model.result = OPEN_S + 1, ANSWERED
    refused = await resolved(router, question("paused", per_second=0.01))
    assert refused.result == LlmResult.BUDGET
    now += 1
    assert (await resolved(router, question("paused", per_second=1.0))).result == LlmResult.MATCHED
