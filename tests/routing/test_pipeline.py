"""The precedence of a decision, its honesty about scores, and that it always comes."""

import asyncio
import threading
from collections.abc import Awaitable, Mapping

import msgspec
import numpy as np
import pytest

from extproc.errors import Denied, EncoderFailed, Overloaded, PolicyFailed, UnknownModel, UnknownVersion
from extproc.offloading import LARGE_BODY
from extproc.routing import rules
from extproc.routing.calibration import Calibration
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.fastpath import FastPath
from extproc.routing.llm_question import LlmPolicy, LlmQuestion
from extproc.routing.model_choice import Matched, Target
from extproc.routing.pipeline import Pipeline
from extproc.routing.predicted_quality import Forecast, Prediction
from extproc.routing.rollout import Rollout, mode_of
from extproc.routing.scope import ScopeScore
from extproc.routing.scorers import Centroids
from extproc.routing.snapshot import RoutePolicy, Snapshot
from extproc.routing.trained_heads import OnEmbedding
from extproc.vocabulary import (
    Api,
    BodyPolicy,
    ChatRequest,
    Decision,
    Effort,
    Embedding,
    FastPathComparison,
    LlmOpinion,
    LlmResult,
    Mode,
    Question,
    Reason,
    RequestHead,
    Stage,
    TurnReading,
)
from tests.routing.fast_path_words import fast_path_of, words_of

AXES = np.eye(3, dtype=np.float32)
CHAT = frozenset({Api.OPENAI_CHAT})
BOTH = frozenset({Api.OPENAI_CHAT, Api.ANTHROPIC_MESSAGES})
TEXTS: Mapping[str, np.ndarray] = {
    "code": AXES[0],
    "chat": AXES[1],
    "between": (AXES[0] + AXES[1]) / np.float32(np.sqrt(2)),
    "elsewhere": AXES[2],
}


class Words:
    """An embedder that knows four words, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        self.asked.append(text)
        return Embedding(TEXTS[text], tokens=3, queue_s=0.001, infer_s=0.002)


def snapshot(**changes: object) -> Snapshot:
    meaning = Meaning(
        routes=("coding", "smalltalk"),
        head=OnEmbedding(Centroids(AXES[:2])),
        calibration=Calibration(0.1),
        examples=AXES[:2],
        texts=("code", "chat"),
        starts=np.array([0, 1]),
    )
    small = Target("small", "small-8b", "model-small", CHAT, context_window=100)
    coder = Target("coder", "coder-32b", "model-coder", CHAT, provider="forge")
    base = Snapshot(
        version="v1",
        targets={
            "small": small,
            "coder": coder,
            "large": Target("large", "large-400b", "model-large", BOTH, pinnable=False),
        },
        routes={
            "coding": RoutePolicy((coder,), margin_floor=0.2, similarity_floor=0.3),
            "smalltalk": RoutePolicy((small,), margin_floor=0.2, similarity_floor=0.3),
        },
        defaults={Api.OPENAI_CHAT: "large", Api.ANTHROPIC_MESSAGES: "large"},
        deny_rules=(rules.CompiledRule("no-spam", (rules.model_like(["spam*"]),), deny="No spam."),),
        route_rules=(
            rules.CompiledRule("to-route", (rules.tool_like(["compile"]),), route="coding"),
            rules.CompiledRule("to-model", (rules.tool_like(["*"]),), model="small"),
        ),
        meaning=meaning,
        budget_s=5.0,
    )
    return msgspec.structs.replace(base, **changes)


def question(
    text: str = "code", model: str = "auto", tools: tuple[str, ...] = (), prompt_chars: int = 0
) -> Question:
    request = ChatRequest(
        Api.OPENAI_CHAT, model, {}, text, body_bytes=10, tools=tools, prompt_chars=prompt_chars
    )
    return Question(request, RequestHead("POST", "/v1/chat/completions", {}))


async def decide(
    asked: Question, current: Snapshot | None = None, embedder: object = None
) -> tuple[Decision, list[str]]:
    words = Words()
    pipeline = Pipeline(embedder or words, lambda _: current or snapshot(), clock=lambda: 0.0)  # type: ignore[arg-type]
    return await pipeline.decide(asked), words.asked


async def test_a_clear_request_goes_to_its_route_with_every_score() -> None:
    decision, _ = await decide(question("code"))
    assert (decision.route, decision.model, decision.cluster) == ("coding", "coder", "model-coder")
    assert (decision.stage, decision.reason) == (Stage.EMBEDDING, Reason.MATCHED)
    assert (decision.upstream_model, decision.provider) == ("coder-32b", "forge")
    assert decision.similarity == pytest.approx(1.0)
    assert decision.probability == pytest.approx(1 / (1 + np.exp(-10)), abs=1e-5)
    assert decision.margin == pytest.approx(2 / (1 + np.exp(-10)) - 1, abs=1e-5)
    assert [candidate.route for candidate in decision.candidates] == ["coding", "smalltalk"]
    assert decision.nearest == "code"
    assert (decision.tokens, decision.times.queue, decision.times.embed) == (3, 1000, 2000)
    assert decision.version == "v1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("between", Reason.LOW_MARGIN), ("elsewhere", Reason.LOW_SIMILARITY)],
)
async def test_a_doubtful_request_abstains_to_the_default_and_keeps_its_scores(
    text: str, reason: Reason
) -> None:
    decision, _ = await decide(question(text))
    assert (decision.model, decision.route) == ("large", "")
    assert (decision.stage, decision.reason) == (Stage.DEFAULT, reason)
    assert decision.margin == pytest.approx(0.0)
    assert decision.similarity is not None


@pytest.mark.parametrize(
    ("asked", "stage", "model", "route", "rule"),
    [
        (question("between", tools=("compile",)), Stage.RULE, "coder", "coding", "to-route"),
        (question("between", tools=("other",)), Stage.RULE, "small", "", "to-model"),
        (question("between", model="small"), Stage.PIN, "small", "", ""),
        (question("between", model="coder", tools=("other",)), Stage.PIN, "coder", "", ""),
    ],
)
async def test_what_a_rule_or_a_pin_decides_is_never_embedded_and_has_no_scores(
    asked: Question, stage: Stage, model: str, route: str, rule: str
) -> None:
    decision, embedded = await decide(asked)
    assert (decision.stage, decision.model, decision.route, decision.rule) == (stage, model, route, rule)
    assert embedded == []
    assert (decision.probability, decision.margin, decision.similarity) == (None, None, None)
    assert (decision.candidates, decision.tokens) == ((), None)


def over(api: Api, asked: Question) -> Question:
    """The same question by another API."""
    return msgspec.structs.replace(asked, request=msgspec.structs.replace(asked.request, api=api))


@pytest.mark.parametrize(
    "asked", [question("code"), question("x", tools=("compile",)), question("x", tools=("other",))]
)
async def test_what_no_model_of_the_route_or_rule_speaks_goes_to_the_apis_default(asked: Question) -> None:
    decision, _ = await decide(over(Api.ANTHROPIC_MESSAGES, asked))
    assert (decision.model, decision.reason) == ("large", Reason.NO_CANDIDATE)


async def test_an_api_that_no_model_speaks_is_refused() -> None:
    with pytest.raises(UnknownModel, match=r"No model here speaks openai\.responses"):
        await decide(over(Api.OPENAI_RESPONSES, question()))


async def test_a_pin_of_a_model_that_does_not_speak_the_api_is_refused_with_what_it_speaks() -> None:
    with pytest.raises(UnknownModel, match=r"'small' is not served by this API, but by openai\.chat"):
        await decide(over(Api.ANTHROPIC_MESSAGES, question(model="small")))


async def test_the_routes_policies_are_on_the_decision() -> None:
    routes = snapshot().routes
    capped = msgspec.structs.replace(routes["coding"], max_tokens=99, reasoning=Effort.LOW, fallback=True)
    current = snapshot(routes={**routes, "coding": capped}, ask_usage=True)
    decision, _ = await decide(question("code"), current)
    assert decision.policy == BodyPolicy(
        model="coder-32b", max_tokens=99, reasoning=Effort.LOW, include_usage=True
    )
    assert decision.fallback
    pinned, _ = await decide(question("code", model="small"), current)
    assert pinned.policy == BodyPolicy(model="small-8b", include_usage=True)
    assert not pinned.fallback


async def test_a_request_of_no_route_abstains_as_out_of_scope_and_keeps_its_score() -> None:
    current = snapshot()
    assert current.meaning is not None
    scope = ScopeScore(
        current.meaning.examples, 1.0, np.zeros(6), np.ones(6), np.array([20.0, 0, 0, 0, 0, 0]), -10.0
    )
    current = msgspec.structs.replace(
        current,
        meaning=msgspec.structs.replace(current.meaning, scope=scope),
        routes={
            name: msgspec.structs.replace(policy, similarity_floor=None, in_scope_floor=0.5, margin_floor=0.0)
            for name, policy in current.routes.items()
        },
    )
    inside, outside = (
        (await decide(question("code"), current))[0],
        (await decide(question("elsewhere"), current))[0],
    )
    assert (inside.route, inside.reason) == ("coding", Reason.MATCHED)
    assert (outside.route, outside.reason) == ("", Reason.OUT_OF_SCOPE)
    assert inside.in_scope is not None
    assert outside.in_scope is not None
    assert outside.in_scope < 0.5 < inside.in_scope


@pytest.mark.parametrize(
    "floors",
    [{"margin_floor": 0.99995, "similarity_floor": 0.0}, {"margin_floor": 0.0, "similarity_floor": 1.01}],
)
async def test_a_route_is_held_to_its_own_floors(floors: dict[str, float]) -> None:
    routes = snapshot().routes
    strict = {**routes, "coding": msgspec.structs.replace(routes["coding"], **floors)}
    assert (await decide(question("code"), snapshot(routes=strict)))[0].stage == Stage.DEFAULT
    assert (await decide(question("chat"), snapshot(routes=strict)))[0].route == "smalltalk"


@pytest.mark.parametrize(
    ("asked", "stage"),
    [
        (question("chat", prompt_chars=404), Stage.EMBEDDING),
        (question("chat", tools=("compile",), prompt_chars=404), Stage.RULE),
    ],
)
async def test_a_request_that_fits_none_of_its_routes_models_goes_to_the_default_and_says_why(
    asked: Question, stage: Stage
) -> None:
    small = snapshot().routes["smalltalk"]
    only_small = snapshot(routes={"smalltalk": small, "coding": small})
    decision, _ = await decide(asked, only_small)
    assert (decision.model, decision.stage, decision.reason) == ("large", stage, Reason.NO_CANDIDATE)
    assert decision.route in ("smalltalk", "coding")
    fitting = msgspec.structs.replace(asked.request, prompt_chars=400)
    decision, _ = await decide(msgspec.structs.replace(asked, request=fitting), only_small)
    assert decision.model == "small"


async def test_nothing_is_decided_when_a_deny_rule_fails() -> None:
    def broken(_: Question) -> bool:
        raise RuntimeError("a defect")

    rule = rules.CompiledRule("broken", (broken,), deny="No.")
    with pytest.raises(PolicyFailed):
        await decide(question(), snapshot(deny_rules=(rule,)))


async def test_a_deny_rule_comes_before_pins_and_routes() -> None:
    targets = {**snapshot().targets, "spam-1": Target("spam-1", "s", "c", CHAT)}
    with pytest.raises(Denied, match=r"No spam\.") as denied:
        await decide(question(model="spam-1", tools=("compile",)), snapshot(targets=targets))
    assert (denied.value.rule, denied.value.status) == ("no-spam", 400)


async def test_a_denial_has_the_status_that_the_registry_chose() -> None:
    with pytest.raises(Denied) as denied:
        await decide(question(model="spam-1"), snapshot(deny_status=403))
    assert denied.value.status == 403


async def test_a_model_that_may_not_be_pinned_is_routed_like_any_other_name() -> None:
    decision, _ = await decide(question("code", model="large"))
    assert (decision.stage, decision.model) == (Stage.EMBEDDING, "coder")


async def test_unknown_names_are_routed_or_rejected_as_the_registry_says() -> None:
    decision, _ = await decide(question("code", model="gpt-9"))
    assert decision.model == "coder"
    strict = snapshot(unknown_models_rejected=True)
    with pytest.raises(UnknownModel, match="gpt-9"):
        await decide(question("code", model="gpt-9"), strict)
    assert (await decide(question("code", model="auto"), strict))[0].model == "coder"


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_a_request_without_user_text_goes_to_the_default_unembedded(text: str) -> None:
    decision, embedded = await decide(question(text))
    assert (decision.model, decision.reason, embedded) == ("large", Reason.NO_TEXT, [])


SPANISH = "¿cuánto cuesta el billete para mañana?"


async def test_a_text_that_the_encoder_does_not_read_goes_to_the_default_unembedded() -> None:
    decision, embedded = await decide(question(SPANISH), snapshot(languages=frozenset({"en"})))
    assert (decision.model, decision.stage, decision.reason) == ("large", Stage.DEFAULT, Reason.LANGUAGE)
    assert (decision.probability, decision.candidates, embedded) == (None, (), [])


async def test_rules_decide_in_every_language() -> None:
    current = snapshot(languages=frozenset({"en"}))
    decision, _ = await decide(question(SPANISH, tools=("compile",)), current)
    assert (decision.route, decision.reason) == ("coding", Reason.RULE)


async def test_a_registry_without_routes_sends_everything_to_the_default() -> None:
    decision, embedded = await decide(question(), snapshot(meaning=None))
    assert (decision.model, decision.reason, embedded) == ("large", Reason.NO_ROUTES, [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("full"), Reason.OVERLOADED),
        (EncoderFailed("nan"), Reason.ENCODER_ERROR),
        (ZeroDivisionError(), Reason.INTERNAL_ERROR),
    ],
)
async def test_whatever_the_encoder_raises_the_default_answers(error: Exception, reason: Reason) -> None:
    class Failing:
        async def embed(self, text: str, within_s: float | None = None) -> Embedding:
            raise error

    decision, _ = await decide(question(), embedder=Failing())
    assert (decision.model, decision.stage, decision.reason) == ("large", Stage.DEFAULT, reason)
    assert decision.margin is None


async def test_a_defect_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        async def embed(self, text: str, within_s: float | None = None) -> Embedding:
            raise ZeroDivisionError

    await decide(question(), embedder=Failing())
    assert caplog.records[0].exc_info is not None


async def test_at_the_deadline_the_default_answers_and_the_encoder_is_told() -> None:
    cancelled = asyncio.Event()

    class Stuck:
        async def embed(self, text: str, within_s: float | None = None) -> Embedding:
            try:
                return await asyncio.Future()
            finally:
                cancelled.set()

    decision, _ = await decide(question(), snapshot(budget_s=0.01), embedder=Stuck())
    assert (decision.model, decision.reason) == ("large", Reason.DEADLINE)
    assert cancelled.is_set()


async def test_one_snapshot_serves_a_whole_decision() -> None:
    versions = iter(["v1", "v2"])
    pipeline = Pipeline(Words(), lambda _: snapshot(version=next(versions)), clock=lambda: 0.0)
    assert (await pipeline.decide(question())).version == "v1"
    assert (await pipeline.decide(question())).version == "v2"


async def test_the_time_of_each_step_and_of_the_whole_is_on_the_decision() -> None:
    ticks = iter([10.0, 10.125, 10.75])
    pipeline = Pipeline(Words(), lambda _: snapshot(), clock=lambda: next(ticks))
    times = (await pipeline.decide(question())).times
    assert (times.rules, times.total) == (125_000, 750_000)
    assert times.queue is not None
    assert times.embed is not None
    assert times.score == 625_000 - times.queue - times.embed


async def test_a_step_that_did_not_run_has_no_time() -> None:
    times = (await decide(question(model="small")))[0].times
    assert times.rules is not None
    assert (times.queue, times.embed, times.score) == (None, None, None)


async def test_each_request_is_decided_by_the_version_that_its_envoy_holds() -> None:
    held = {
        "v1": snapshot(),
        "v2": snapshot(version="v2", defaults={Api.OPENAI_CHAT: "small"}),
        "": snapshot(),
    }
    pipeline = Pipeline(Words(), held.get, clock=lambda: 0.0)
    asked = question("elsewhere")
    of_v2 = msgspec.structs.replace(asked.head, config_version="v2")
    first, second = await pipeline.decide(asked), await pipeline.decide(Question(asked.request, of_v2))
    assert (first.version, first.model) == ("v1", "large")
    assert (second.version, second.model) == ("v2", "small")


async def test_nothing_is_decided_for_a_version_that_is_not_here() -> None:
    pipeline = Pipeline(Words(), lambda version: None, clock=lambda: 0.0)
    with pytest.raises(UnknownVersion):
        await pipeline.decide(question())


def fast_path(sample: float = 0.25) -> FastPath:
    """`code` is of coding by its word alone, `between` too, and `chat` is no word that says anything."""
    weights_of = {"code": [3, -3], "between": [3, -3]}
    return fast_path_of(words_of(("coding", "smalltalk"), weights_of, least=0.9), sample)


class Foresight:
    """Predicts that every answer will be good."""

    def __init__(self) -> None:
        self.matched_by: Matched = {}

    def forecasts(self, _: Embedding, __: str, models: list[str]) -> Prediction:
        return Prediction({model: Forecast(quality=1.0, tokens=9.0) for model in models}, 0.5)


def named(asked: Question, request_id: str) -> Question:
    return Question(asked.request, RequestHead("POST", "/v1", {"x-request-id": request_id}))


def an_id(fast: FastPath, *, sampled: bool) -> str:
    return next(name for name in map(str, range(1000)) if fast.samples(name) is sampled)


async def test_words_that_say_enough_decide_without_the_encoder() -> None:
    fast = fast_path()
    asked = named(question("code"), an_id(fast, sampled=False))
    decision, embedded = await decide(asked, snapshot(fast_path=fast))
    assert embedded == []
    assert (decision.stage, decision.reason, decision.model) == (Stage.LEXICAL, Reason.MATCHED, "coder")
    assert (decision.similarity, decision.tokens, decision.times.embed) == (None, None, None)
    assert decision.margin is not None
    assert decision.margin > 0.9
    assert decision.comparison is None


async def test_words_in_another_language_decide_nothing() -> None:
    fast = fast_path()
    asked = named(question(f"code {SPANISH} code code"), an_id(fast, sampled=False))
    believed, _ = await decide(asked, snapshot(fast_path=fast))
    abstained, _ = await decide(asked, snapshot(fast_path=fast, languages=frozenset({"en"})))
    assert (believed.stage, abstained.reason) == (Stage.LEXICAL, Reason.LANGUAGE)


@pytest.mark.parametrize("text", ["chat", "elsewhere"])
async def test_other_words_go_to_the_encoder_and_nothing_is_compared(text: str) -> None:
    fast = fast_path()
    for sampled in (True, False):
        asked = named(question(text), an_id(fast, sampled=sampled))
        decision, embedded = await decide(asked, snapshot(fast_path=fast))
        assert (embedded, decision.comparison) == ([text], None)


@pytest.mark.parametrize(("text", "agreed", "route"), [("code", True, "coding"), ("between", False, "")])
async def test_the_sample_is_decided_by_the_encoder_and_compared(text: str, agreed: bool, route: str) -> None:
    fast = fast_path()
    asked = named(question(text), an_id(fast, sampled=True))
    decision, embedded = await decide(asked, snapshot(fast_path=fast))
    assert (embedded, decision.route) == ([text], route)
    assert decision.comparison == FastPathComparison(agreed=agreed, weight=4.0)


async def test_a_fast_path_that_ended_decides_nothing_and_its_sample_stands_for_itself() -> None:
    fast = fast_path()
    for _ in range(100):
        fast.watch.note(agreed=False)
    asked = named(question("code"), an_id(fast, sampled=False))
    decision, embedded = await decide(asked, snapshot(fast_path=fast))
    assert (embedded, decision.stage, decision.comparison) == (["code"], Stage.EMBEDDING, None)
    asked = named(question("code"), an_id(fast, sampled=True))
    decision, _ = await decide(asked, snapshot(fast_path=fast))
    assert decision.comparison == FastPathComparison(agreed=True, weight=1.0)


@pytest.mark.parametrize("changes", [{"margin_floor": 1.0}, {"quality_bar": 0.5}])
async def test_a_route_that_needs_more_than_words_is_left_to_the_encoder(changes: dict[str, float]) -> None:
    fast, base = fast_path(), snapshot()
    routes = {**base.routes, "coding": msgspec.structs.replace(base.routes["coding"], **changes)}
    asked = named(question("code"), an_id(fast, sampled=False))
    _, embedded = await decide(asked, snapshot(fast_path=fast, routes=routes, quality=Foresight()))
    assert embedded == ["code"]


async def test_rules_and_pins_go_before_words() -> None:
    fast = fast_path()
    name = an_id(fast, sampled=False)
    pinned, _ = await decide(named(question("code", model="small"), name), snapshot(fast_path=fast))
    ruled, _ = await decide(named(question("code", tools=("other",)), name), snapshot(fast_path=fast))
    assert (pinned.stage, ruled.stage) == (Stage.PIN, Stage.RULE)


async def test_a_decision_is_taken_by_its_route_and_one_for_no_route_by_the_registry() -> None:
    base = snapshot()
    coding = msgspec.structs.replace(base.routes["coding"], rollout=Rollout(Mode.ACTIVE))
    chat = msgspec.structs.replace(base.routes["smalltalk"], rollout=Rollout(Mode.OBSERVE))
    mixed = snapshot(routes={"coding": coding, "smalltalk": chat}, rollout=Rollout(Mode.OBSERVE))
    modes = {
        asked: (await decide(question(asked), mixed))[0].mode for asked in ("code", "chat", "elsewhere")
    } | {"pinned": (await decide(question(model="coder"), mixed))[0].mode}
    assert modes == {
        "code": Mode.ACTIVE, "chat": Mode.OBSERVE, "elsewhere": Mode.OBSERVE, "pinned": Mode.OBSERVE,
    }  # fmt: skip


async def test_what_is_observed_is_decided_as_if() -> None:
    base = snapshot()
    routes = {
        name: msgspec.structs.replace(r, rollout=Rollout(Mode.OBSERVE)) for name, r in base.routes.items()
    }
    observed, _ = await decide(question(), snapshot(routes=routes))
    active, _ = await decide(question())
    assert observed == msgspec.structs.replace(active, mode=Mode.OBSERVE)


async def test_a_share_is_taken_by_the_key() -> None:
    halves = {
        name: msgspec.structs.replace(route, rollout=Rollout(share=0.5))
        for name, route in snapshot().routes.items()
    }
    current = snapshot(routes=halves, rollout_key="x-user")
    for user in ("alice", "bob", "carol", "dave"):
        head = RequestHead("POST", "/v1/chat/completions", {"x-user": user, "x-request-id": "any"})
        decision, _ = await decide(msgspec.structs.replace(question(), head=head), current)
        assert decision.mode is mode_of(Rollout(share=0.5), "coding", user)


# --- Large bodies -------------------------------------------------------------------------------


async def test_rules_over_a_large_body_do_not_hold_up_the_event_loop() -> None:
    loop_went_on = threading.Event()

    def slow(_: Question) -> bool:
        return loop_went_on.wait(60)  # at once, unless it runs on the loop that is to set it

    rule = rules.CompiledRule("slow", (slow,), deny="No.")
    pipeline = Pipeline(Words(), lambda _: snapshot(deny_rules=(rule,)), clock=lambda: 0.0)
    asked = question()
    large = msgspec.structs.replace(
        asked, request=msgspec.structs.replace(asked.request, body_bytes=LARGE_BODY)
    )
    deciding = asyncio.create_task(pipeline.decide(large))
    await asyncio.sleep(0)
    loop_went_on.set()
    with pytest.raises(Denied):
        await deciding


class Oracle:
    """A resolver of doubts that says what it is told, and notes what it was asked."""

    def __init__(self, opinion: LlmOpinion, settled: bool = False) -> None:
        self.opinion = opinion
        self.known = settled
        self.requests = 0
        self.asked: list[LlmQuestion] = []

    def note_request(self, policy: LlmPolicy) -> None:
        self.requests += 1

    def begin(self, asked: LlmQuestion, request_id: str) -> LlmOpinion | Awaitable[LlmOpinion]:
        return self.opinion if self.known else self.ask(asked)

    async def ask(self, asked: LlmQuestion) -> LlmOpinion:
        self.asked.append(asked)
        return self.opinion


LLM = LlmPolicy(
    model="small", upstream_model="small-8b", routes=("coding", "smalltalk"), system="", deadline_s=2.0,
    max_share=0.1, per_second=5.0,
)  # fmt: skip
CODING = LlmOpinion(result=LlmResult.MATCHED, model="small", route="coding")


async def resolve(
    text: str, oracle: Oracle, waited: list[float] | None = None, **changes: object
) -> Decision:
    pipeline = Pipeline(Words(), lambda _: snapshot(llm=LLM, **changes), lambda: 0.0, llm=oracle)

    async def more_time(seconds: float) -> None:
        if waited is not None:
            waited.append(seconds)

    return await pipeline.decide(question(text), more_time)


@pytest.mark.parametrize(
    ("text", "doubt"), [("between", Reason.LOW_MARGIN), ("elsewhere", Reason.LOW_SIMILARITY)]
)
async def test_in_doubt_an_llm_chooses_the_route(text: str, doubt: Reason) -> None:
    oracle, waited = Oracle(CODING), list[float]()
    decision = await resolve(text, oracle, waited)
    assert (decision.stage, decision.reason) == (Stage.LLM, Reason.MATCHED)
    assert (decision.route, decision.model) == ("coding", "coder")
    assert [(asked.text, asked.doubt) for asked in oracle.asked] == [(text, doubt)]
    assert decision.margin is not None  # which the LLM resolved
    assert decision.opinion == CODING
    assert len(waited) == 1
    assert waited[0] > LLM.deadline_s


async def test_without_doubt_no_llm_is_asked_but_the_request_counts_for_its_share() -> None:
    oracle, waited = Oracle(CODING), list[float]()
    decision = await resolve("chat", oracle, waited)
    assert (decision.stage, decision.route, decision.opinion) == (Stage.EMBEDDING, "smalltalk", None)
    assert (oracle.asked, oracle.requests, waited) == ([], 1, [])


@pytest.mark.parametrize("result", [result for result in LlmResult if result is not LlmResult.MATCHED])
async def test_without_a_route_from_the_llm_the_default_answers_and_the_record_says_why(
    result: LlmResult,
) -> None:
    decision = await resolve("between", Oracle(LlmOpinion(result=result, model="small")))
    assert (decision.stage, decision.reason, decision.model) == (Stage.DEFAULT, Reason.LOW_MARGIN, "large")
    assert decision.opinion is not None
    assert decision.opinion.result is result


async def test_a_known_answer_needs_no_more_time() -> None:
    oracle, waited = Oracle(CODING, settled=True), list[float]()
    decision = await resolve("between", oracle, waited)
    assert decision.route == "coding"
    assert (oracle.asked, waited) == ([], [])
    assert decision.times.llm is None  # the step did not run


async def test_the_time_of_the_llm_is_a_step_of_its_own() -> None:
    ticks = iter(range(100))
    pipeline = Pipeline(Words(), lambda _: snapshot(llm=LLM), lambda: next(ticks), llm=Oracle(CODING))

    async def more_time(seconds: float) -> None: ...

    times = (await pipeline.decide(question("between"), more_time)).times
    assert (times.rules, times.llm, times.total) == (1_000_000, 1_000_000, 4_000_000)


async def test_an_llm_is_not_asked_about_what_is_only_observed() -> None:
    oracle = Oracle(CODING)
    decision = await resolve("between", oracle, rollout=Rollout(Mode.OBSERVE))
    assert (decision.reason, decision.opinion, oracle.asked) == (Reason.LOW_MARGIN, None, [])


async def test_a_route_of_the_llm_whose_models_cannot_take_the_request_gets_the_default() -> None:
    pipeline = Pipeline(Words(), lambda _: snapshot(llm=LLM), lambda: 0.0, llm=Oracle(CODING))

    async def more_time(seconds: float) -> None: ...

    asked = question("between")
    anthropic = Question(msgspec.structs.replace(asked.request, api=Api.ANTHROPIC_MESSAGES), asked.head)
    decision = await pipeline.decide(anthropic, more_time)
    assert (decision.stage, decision.reason, decision.model) == (Stage.LLM, Reason.NO_CANDIDATE, "large")


class PieceReader:
    """A reader of turns that finds the same piece in all of them."""

    def read(self, text: str) -> TurnReading:
        return TurnReading("between", part="last")


class Noted(Foresight):
    """Predicts that every answer will be good, and notes of which vector."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors: list[np.ndarray] = []

    def forecasts(self, embedding: Embedding, text: str, models: list[str]) -> Prediction:
        self.vectors.append(embedding.vector)
        return super().forecasts(embedding, text, models)


async def test_for_a_route_of_the_llm_quality_is_predicted_of_the_whole_turn_and_not_of_the_piece_read() -> (
    None
):
    base, noted = snapshot(), Noted()
    routes = {**base.routes, "coding": msgspec.structs.replace(base.routes["coding"], quality_bar=0.5)}
    decision = await resolve("elsewhere", Oracle(CODING), routes=routes, quality=noted, reader=PieceReader())
    assert (decision.stage, decision.model) == (Stage.LLM, "coder")
    assert [vector.tolist() for vector in noted.vectors] == [TEXTS["elsewhere"].tolist()]
