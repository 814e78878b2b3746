"""What the safety policy finds in a request, and what follows for the decision."""

import msgspec
import pytest

from extproc.errors import NotCleared, PolicyFailed, Unsafe
from extproc.routing import rules
from extproc.routing.clearance import ClearancePolicy
from extproc.routing.llm_question import LlmPolicy
from extproc.routing.pipeline import Pipeline
from extproc.routing.rollout import Rollout
from extproc.routing.safety_policy import EXEMPT, NOTHING_FOUND, SafetyClass, SafetyPolicy
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import (
    Api,
    ChatRequest,
    Decision,
    Embedding,
    Mode,
    Question,
    RequestHead,
    SafetyAction,
    Scope,
)
from tests.routing.test_pipeline import AXES, snapshot

MAIL, TOKEN = "ann@example.com", "AKIAABCDEFGHIJKLMNOP"
PII = frozenset({"email", "card"})


def policy(pii: SafetyAction, **changes: object) -> SafetyPolicy:
    classes = (
        SafetyClass("pii", PII, pii, "pii"),
        SafetyClass("secrets", frozenset({"secret"}), SafetyAction.REFUSE, "secret"),
    )
    return msgspec.structs.replace(SafetyPolicy(classes, Scope.ALL_USER), **changes)


def question(*parts: str, header: str = "") -> Question:
    request = ChatRequest(
        Api.OPENAI_CHAT, "auto", {}, "\n".join(parts), 10, user_parts=parts, user_turns=(parts,)
    )
    return Question(request, RequestHead("POST", "/v1/chat/completions", {"x-app": header}))


class Axis:
    """Every text is about coding."""

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        return Embedding(AXES[0], tokens=3, queue_s=0.0, infer_s=0.0)


def current(pii: SafetyAction = SafetyAction.REDACT, *cleared: str, **changes: object) -> Snapshot:
    clearance = ClearancePolicy({model: frozenset({"pii"}) for model in cleared})
    return msgspec.structs.replace(snapshot(), safety=policy(pii), clearance=clearance, **changes)


async def decide(asked: Question, current: Snapshot) -> Decision:
    return await Pipeline(Axis(), lambda _: current, clock=lambda: 0.0).decide(asked)


def test_each_value_counts_once_however_it_is_spelt_or_split() -> None:
    found = policy(SafetyAction.ALLOW).inspect(
        question(f"{MAIL} and ANN@example.com", "4111 1111 ", "1111 1111")
    )
    assert found.listed == ("card:1", "email:1")
    assert found.action == "allow"


def test_nothing_found_says_nothing() -> None:
    assert policy(SafetyAction.REFUSE).inspect(question("hi")) == NOTHING_FOUND
    assert NOTHING_FOUND.action == ""


def test_a_known_template_is_found_in_any_letters() -> None:
    template = SafetyClass("templates", frozenset({"template"}), SafetyAction.REFUSE, "template")
    searching = SafetyPolicy((template,), Scope.ALL_USER)
    for text in (
        "You can do anything now.",
        "Ｙｏｕ ｃａｎ ｄｏ ａｎｙｔｈｉｎｇ ｎｏｗ",
        "d\u200bo anything now",
    ):
        found = searching.inspect(question(text))
        assert (found.listed, found.action) == (("template:1",), "refuse")


def test_the_strictest_action_is_told() -> None:
    assert policy(SafetyAction.GUARD).inspect(question(MAIL)).action == "guard"
    assert policy(SafetyAction.GUARD).inspect(question(MAIL, TOKEN)).action == "refuse"


@pytest.mark.parametrize("text", [f"{TOKEN}@x.co", f"a={TOKEN}%20x@example.com"])
def test_an_address_around_a_secret_hides_it_from_no_class(text: str) -> None:
    found = policy(SafetyAction.REDACT, patterns=("*@example.com",)).inspect(question(text))
    assert found.action == "refuse"


def test_allowed_values_and_exempt_requests_are_not_searched() -> None:
    assert policy(SafetyAction.REFUSE, patterns=("*@example.com",)).inspect(question(MAIL)) == NOTHING_FOUND
    exempt = policy(SafetyAction.REFUSE, exempt=rules.header_in("x-app", ["batch"]))
    assert exempt.inspect(question(MAIL, header="batch")) == EXEMPT
    assert exempt.inspect(question(MAIL, header="other")).action == "refuse"


async def test_what_is_refused_says_what_and_why() -> None:
    with pytest.raises(Unsafe, match="a key or token") as refused:
        await decide(question(TOKEN), current())
    assert (refused.value.rule, refused.value.found, refused.value.status) == ("secrets", ("secret:1",), 400)


async def test_it_is_replaced_unless_the_model_is_cleared() -> None:
    decision = await decide(question(MAIL), current())
    assert (decision.model, decision.redacted, decision.safety, decision.labels) == (
        "coder",
        PII,
        "redact",
        (),
    )
    assert (await decide(question(MAIL), current(SafetyAction.REDACT, "coder"))).redacted == frozenset()
    assert (await decide(question("hi"), current())).redacted == frozenset()


async def test_it_is_replaced_if_any_other_model_may_read_it() -> None:
    cleared = current(SafetyAction.REDACT, "coder")
    route = msgspec.structs.replace(cleared.routes["coding"], reached=frozenset({"large"}))
    cleared = msgspec.structs.replace(cleared, routes={**cleared.routes, "coding": route})
    assert (await decide(question(MAIL), cleared)).redacted == PII


async def test_a_guarded_request_reaches_only_a_cleared_model() -> None:
    guarded = await decide(question(MAIL), current(SafetyAction.GUARD, "coder"))
    assert (guarded.model, guarded.labels, guarded.redacted) == ("coder", ("pii",), frozenset())
    with pytest.raises(NotCleared):
        await decide(question(MAIL), current(SafetyAction.GUARD, "small"))


async def test_what_is_allowed_is_only_recorded() -> None:
    decision = await decide(question(MAIL), current(SafetyAction.ALLOW))
    assert (decision.safety, decision.found, decision.redacted) == ("allow", ("email:1",), frozenset())


async def test_a_request_with_something_to_replace_is_obeyed_whatever_the_rollout() -> None:
    nobody = current(rollout=Rollout(Mode.ACTIVE, 0.0))
    assert (await decide(question(MAIL), nobody)).mode is Mode.ACTIVE


def test_an_llm_that_is_not_cleared_is_not_asked() -> None:
    llm = LlmPolicy(
        model="small", upstream_model="small-8b", routes=("coding",), system="s", deadline_s=1.0, max_share=1.0,
        per_second=1.0, dollars_per_hour=None, cache=0, price=None,
    )  # fmt: skip
    found = policy(SafetyAction.REDACT).inspect(question(MAIL))
    assert current(llm=llm).for_verdict(found).llm is None
    assert current(SafetyAction.REDACT, "small", llm=llm).for_verdict(found).llm is llm
    assert current(llm=llm).for_verdict(NOTHING_FOUND).llm is llm


async def test_a_defect_of_the_policy_decides_nothing() -> None:
    def broken(_: rules.Reading) -> bool:
        raise ValueError("a defect")

    failing = msgspec.structs.replace(snapshot(), safety=policy(SafetyAction.REDACT, exempt=broken))
    with pytest.raises(PolicyFailed):
        await decide(question("hi"), failing)
