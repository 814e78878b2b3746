"""Which labels a request carries, and which models are cleared for them."""

from itertools import chain, combinations

import msgspec
import pytest

from extproc.errors import NotCleared, PolicyFailed
from extproc.routing import rules
from extproc.routing.clearance import (
    ClearancePolicy,
    clearance_of,
    clearances,
    labels_in,
    written_labels,
)
from extproc.routing.pipeline import Pipeline
from extproc.routing.rollout import Rollout
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Decision, Embedding, Mode, Question, Reason, RequestHead
from tests.routing.test_pipeline import Words, question, snapshot

CLEARED = {
    "local": frozenset({"pii", "eu", "internal"}),
    "coder": frozenset({"internal", "pii"}),
    "small": frozenset({"internal"}),
    "large": frozenset(),
}
ALL = ("pii", "eu", "internal", "unheard-of")


def sets_of(labels: tuple[str, ...]) -> list[frozenset[str]]:
    sizes = (combinations(labels, size) for size in range(len(labels) + 1))
    return [frozenset(each) for each in chain.from_iterable(sizes)]


@pytest.mark.parametrize("labels", sets_of(ALL), ids=lambda labels: "+".join(sorted(labels)) or "none")
def test_a_clearance_stands_for_just_the_models_that_are_cleared_for_all_labels(
    labels: frozenset[str],
) -> None:
    admitted = {model for model, cleared in CLEARED.items() if labels <= cleared}
    clearance = clearance_of(CLEARED, labels)
    if labels and admitted:
        assert clearances(CLEARED)[clearance] == admitted
        assert labels <= labels_in(clearance)
        assert {model for model, theirs in CLEARED.items() if labels_in(clearance) <= theirs} == admitted
    else:
        assert clearance == ""


def test_models_that_are_cleared_for_nothing_need_no_clearance() -> None:
    assert clearances({"small": frozenset(), "large": frozenset()}) == {}
    assert labels_in("") == frozenset()


@pytest.mark.parametrize(
    ("header", "labels"),
    [("", set()), ("eu", {"eu"}), (" eu ,pii, ", {"eu", "pii"}), (",,", set()), ("EU", {"EU"})],
)
def test_a_header_is_a_list_of_labels(header: str, labels: set[str]) -> None:
    assert written_labels(header) == labels


def labelled(**changes: object) -> Snapshot:
    base = snapshot()
    policy = ClearancePolicy(
        CLEARED,
        rules=(
            rules.CompiledRule("secret", (rules.tool_like(["secret*"]),), labels=("internal",)),
            rules.CompiledRule("person", (rules.tool_like(["*person"]),), labels=("pii",)),
        ),
        header="x-labels",
    )
    return msgspec.structs.replace(base, clearance=policy, **changes)


def asked(text: str = "code", tool: str = "", model: str = "auto", header: str = "") -> Question:
    plain = question(text, model, tools=(tool,) if tool else ())
    head = RequestHead("POST", "/v1/chat/completions", {"x-labels": header} if header else {})
    return msgspec.structs.replace(plain, head=head)


async def decide(asked: Question, current: Snapshot, embedder: object = None) -> Decision:
    return await Pipeline(embedder or Words(), lambda _: current, clock=lambda: 0.0).decide(asked)  # type: ignore[arg-type]


def without_rules(**changes: object) -> Snapshot:
    """Tools only label."""
    return labelled(route_rules=(), **changes)


async def test_labels_of_all_rules_and_of_the_header_add_up() -> None:
    policy = without_rules().clearance
    assert policy is not None
    assert policy.labels_of(asked(tool="secret-person")) == {"internal", "pii"}
    assert policy.labels_of(asked(tool="person", header="eu, internal")) == {"internal", "pii", "eu"}
    assert policy.labels_of(asked()) == frozenset()


async def test_a_request_without_labels_is_decided_as_ever() -> None:
    decision = await decide(asked(), without_rules())
    assert (decision.model, decision.labels, decision.clearance) == ("coder", (), "")


async def test_a_cleared_candidate_answers_and_the_decision_names_the_labels() -> None:
    decision = await decide(asked(tool="secret"), without_rules())
    assert (decision.route, decision.model) == ("coding", "coder")
    assert (decision.labels, decision.clearance) == (("internal",), "internal")


async def test_a_route_without_a_cleared_candidate_is_refused_and_never_answered_by_the_default() -> None:
    cleared = {**CLEARED, "large": CLEARED["local"], "coder": frozenset[str]()}
    current = without_rules()
    assert current.clearance is not None
    current = msgspec.structs.replace(
        current, clearance=msgspec.structs.replace(current.clearance, cleared_for=cleared)
    )
    with pytest.raises(NotCleared, match="labels internal") as refused:
        await decide(asked(tool="secret"), current)
    assert refused.value.labels == {"internal"}


@pytest.mark.parametrize("text", ["between", "elsewhere"])
async def test_in_doubt_a_default_that_is_not_cleared_does_not_answer(text: str) -> None:
    with pytest.raises(NotCleared):
        await decide(asked(text, tool="secret"), without_rules())


async def test_in_doubt_the_default_for_labels_answers_if_it_is_cleared() -> None:
    current = without_rules()
    assert current.clearance is not None
    defaults = (current.targets["large"], current.targets["coder"], current.targets["small"])
    policy = msgspec.structs.replace(current.clearance, defaults=defaults)
    current = msgspec.structs.replace(current, clearance=policy)
    decision = await decide(asked("between", tool="secret"), current)
    assert (decision.model, decision.reason) == ("coder", Reason.LOW_MARGIN)
    with pytest.raises(NotCleared):
        await decide(asked("between", header="eu"), current)


async def test_a_pin_to_a_model_that_is_not_cleared_is_refused() -> None:
    with pytest.raises(NotCleared) as refused:
        await decide(asked(tool="person", model="small"), without_rules())
    assert (refused.value.status, refused.value.param) == (400, "model")
    assert (await decide(asked(tool="person", model="coder"), without_rules())).model == "coder"


async def test_a_rule_cannot_send_a_request_to_a_model_that_is_not_cleared() -> None:
    to_small = rules.CompiledRule("to-model", (rules.tool_like(["*"]),), model="small")
    with pytest.raises(NotCleared):
        await decide(asked(tool="person"), labelled(route_rules=(to_small,)))
    assert (await decide(asked(tool="secret"), labelled(route_rules=(to_small,)))).model == "small"


class Broken:
    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        raise ValueError("a defect")


async def test_a_defect_does_not_lose_the_labels() -> None:
    with pytest.raises(NotCleared):
        await decide(asked(tool="secret"), without_rules(), Broken())
    assert (await decide(asked(), without_rules(), Broken())).reason is Reason.INTERNAL_ERROR


async def test_a_rule_with_labels_that_fails_decides_nothing() -> None:
    def broken(_: rules.Reading) -> bool:
        raise ValueError("a defect")

    current = without_rules()
    assert current.clearance is not None
    policy = msgspec.structs.replace(
        current.clearance, rules=(rules.CompiledRule("broken", (broken,), labels=("eu",)),)
    )
    with pytest.raises(PolicyFailed):
        await decide(asked(), msgspec.structs.replace(current, clearance=policy))


async def test_a_label_that_no_model_knows_is_refused() -> None:
    with pytest.raises(NotCleared, match="unheard-of"):
        await decide(asked(header="unheard-of"), without_rules())


async def test_a_labelled_request_is_obeyed_even_where_its_route_is_rolled_out_to_nobody() -> None:
    nobody = Rollout(Mode.ACTIVE, 0.0)
    assert (await decide(asked(tool="secret"), without_rules(rollout=nobody))).mode is Mode.ACTIVE
    assert (await decide(asked("between"), without_rules(rollout=nobody))).mode is Mode.OBSERVE
    watching = Rollout(Mode.OBSERVE)
    assert (
        await decide(asked("between", model="coder", tool="secret"), without_rules(rollout=watching))
    ).mode is (Mode.OBSERVE)
