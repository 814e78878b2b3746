"""A registry's models and routes, as decisions are made with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.model_choice import Price, Target
from extproc.routing.rules import Reading
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Api, ChatRequest, Question, RequestHead

REGISTRY = """\
models:
  small:
    base_url: http://127.0.0.1:1
    name: org/small-8b
    provider: vllm
    price: {input: 0.5, output: 2}
    context_window: 8192
  claude: {base_url: "https://api.example.com", provider: anthropic, pin: false}
default: {openai.chat: small, anthropic.messages: claude}
routes:
  chat:
    candidates: small
    examples: [hi, how are you]
    thresholds: {margin: 0.0}
    max_tokens: 100
    fallback: claude
  work:
    candidates: [claude]
    examples: [plan the project]
    reasoning: low
thresholds: {margin: 0.2, similarity: 0.4}
rules:
  - {name: secrets, when: {keyword: password}, deny: No secrets.}
  - {name: long, when: {min_chars: 10}, model: small}
decision_ms: 50
unknown_models: reject
stream_usage: ask
deny_status: 403
"""


class Letters:
    """An encoder whose vectors count letters: the same text, the same vector."""

    name = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counted = np.array([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts], np.float32)
        normed: NDArray[np.float32] = counted / np.linalg.norm(counted, axis=1, keepdims=True)
        return normed


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return compile_snapshot(load(path), Letters())


def test_a_model_is_a_target_priced_by_the_token(snapshot: Snapshot) -> None:
    assert snapshot.targets["small"] == Target(
        model="small",
        upstream_model="org/small-8b",
        cluster="model-small",
        apis=frozenset({Api.OPENAI_CHAT}),
        provider="vllm",
        price=Price(0.5e-6, 2e-6),
        context_window=8192,
    )
    assert snapshot.targets["claude"] == Target(
        model="claude",
        upstream_model="claude",
        cluster="model-claude",
        apis=frozenset({Api.ANTHROPIC_MESSAGES}),
        provider="anthropic",
        pinnable=False,
    )


def test_a_routes_policy_has_its_own_floors_or_the_registrys(snapshot: Snapshot) -> None:
    chat, work = snapshot.routes["chat"], snapshot.routes["work"]
    assert chat.candidates == (snapshot.targets["small"],)
    assert (chat.margin_floor, chat.similarity_floor) == (0.0, 0.4)
    assert (work.margin_floor, work.similarity_floor) == (0.2, 0.4)
    assert (chat.max_tokens, chat.reasoning, chat.fallback) == (100, None, True)
    assert (work.max_tokens, work.reasoning, work.fallback) == (None, "low", False)


def test_each_api_has_its_default(snapshot: Snapshot) -> None:
    assert snapshot.defaults == {Api.OPENAI_CHAT: "small", Api.ANTHROPIC_MESSAGES: "claude"}


def test_rules_that_deny_come_apart_from_those_that_route(snapshot: Snapshot) -> None:
    assert [rule.name for rule in snapshot.deny_rules] == ["secrets"]
    assert [rule.name for rule in snapshot.route_rules] == ["long"]


def test_a_rule_that_denies_reads_every_turn_of_the_user_unless_it_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(
        """
models: {small: {base_url: "http://127.0.0.1:1"}}
default: small
rules:
  - {name: denies, when: {keyword: word}, deny: "No."}
  - {name: denies-latest, in: latest_user, when: {regex: word}, deny: "No."}
  - {name: denies-everything, in: everything, when: {min_chars: 40}, deny: "No."}
  - {name: routes, when: {keyword: word}, model: small}
  - {name: routes-all, in: all_user, when: {keyword: word}, model: small}
"""
    )
    compiled = compile_snapshot(load(path), Letters())
    request = ChatRequest(Api.OPENAI_CHAT, "auto", {}, "x", 9, user_turns=(("word",), ("x",)))
    reading = Reading(Question(request, RequestHead("POST", "/", {}), everything=lambda: (("y" * 40,),)))
    holding = {rule.name for rule in (*compiled.deny_rules, *compiled.route_rules) if rule.holds(reading)}
    assert holding == {"denies", "denies-everything", "routes-all"}


def test_the_registrys_own_settings_reach_the_snapshot(snapshot: Snapshot) -> None:
    assert snapshot.budget_s == 0.05
    assert snapshot.unknown_models_rejected
    assert snapshot.ask_usage
    assert snapshot.deny_status == 403


def test_without_routes_there_is_nothing_to_embed(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("models: {only: {base_url: 'http://127.0.0.1:1'}}\ndefault: only\n")
    compiled = compile_snapshot(load(path), Letters())
    assert compiled.meaning is None
    assert compiled.defaults == dict.fromkeys(
        (Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS, Api.OPENAI_RESPONSES), "only"
    )


FLOORS = """\
models:
  small: {base_url: http://127.0.0.1:1}
default: small
routes:
  chat:
    candidates: small
    examples: [hi, how are you, hello there, good day]
    thresholds: OWN
  work:
    candidates: small
    examples: [plan the project, sum the budget, draft a contract, file the report]
thresholds: COMMON
"""


@pytest.mark.parametrize(
    ("own", "common", "in_scope", "similarity"),
    [
        ("{}", "{in_scope: 0.7}", 0.7, None),
        ("{}", "{similarity: 0.4}", None, 0.4),
        ("{}", "{in_scope: 0.7, similarity: 0.4}", 0.7, 0.4),
        ("{in_scope: 0.2}", "{similarity: 0.4}", 0.2, None),
        ("{similarity: 0.1}", "{in_scope: 0.7}", None, 0.1),
    ],
)
def test_a_written_floor_replaces_the_fitted_one_and_the_routes_own_the_registrys(
    tmp_path: Path, own: str, common: str, in_scope: float | None, similarity: float | None
) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(FLOORS.replace("OWN", own).replace("COMMON", common))
    policy = compile_snapshot(load(path), Letters()).routes["chat"]
    assert (policy.in_scope_floor, policy.similarity_floor) == (in_scope, similarity)


def test_the_floor_on_scope_is_fitted_to_the_examples_where_nobody_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    text = FLOORS.replace("OWN", "{margin: 0}").replace("COMMON", "{margin: 0.1}")
    more = "good night, good evening, how do you do, nice to see you, hey, bye"
    text = text.replace("good day]", f"good day, {more}]")
    more = "check the invoice, plan the week, write the minutes, close the books, order paper, call the bank"
    path.write_text(text.replace("file the report]", f"file the report, {more}]"))
    compiled = compile_snapshot(load(path), Letters())
    assert compiled.meaning is not None
    assert compiled.meaning.scope is not None
    for policy in compiled.routes.values():
        assert policy.similarity_floor is None
        assert policy.in_scope_floor == compiled.meaning.scope.floor
        assert 0 < policy.in_scope_floor < 1


def test_of_few_examples_the_default_floor_on_the_similarity_holds_too(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(FLOORS.replace("OWN", "{}").replace("COMMON", "{}"))
    compiled = compile_snapshot(load(path), Letters())
    assert compiled.meaning is not None
    assert compiled.meaning.scope is not None
    policy = compiled.routes["chat"]
    assert (policy.in_scope_floor, policy.similarity_floor) == (compiled.meaning.scope.floor, 0.3)


def test_a_route_with_one_example_leaves_the_default_floor_on_the_similarity(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    text = FLOORS.replace("OWN", "{}").replace("COMMON", "{}")
    path.write_text(text.replace("[hi, how are you, hello there, good day]", "[hi]"))
    policy = compile_snapshot(load(path), Letters()).routes["chat"]
    assert (policy.in_scope_floor, policy.similarity_floor) == (None, 0.3)
