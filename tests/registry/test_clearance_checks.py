"""Labels in a registry: what is refused, and what the rest compiles to."""

from pathlib import Path

import pytest

from extproc.errors import RegistryError
from extproc.registry.passthrough_list import restrictions
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.vocabulary import Api, ChatRequest, Question, RequestHead
from tests.registry.test_rollout import OneVector

BASE = """\
models:
  small: {base_url: "http://127.0.0.1:1", apis: [openai.chat], price: {input: 1, output: 1}, cleared_for: SMALL}
  large: {base_url: "http://127.0.0.1:2", apis: [openai.chat], price: {input: 2, output: 2}}
default: large
trusted_headers: [x-data-labels]
routes:
  chat: {candidates: large, examples: [hi, hello]}
  work: {candidates: [large, small], examples: [plan]}
"""
RULE = "rules: [{name: secret, when: {keyword: secret}, label: internal}]\n"
REFUSE = "without_sidecar: refuse\n"


def written(folder: Path, more: str, small: str = "internal") -> Path:
    path = folder / "registry.yaml"
    path.write_text(BASE.replace("SMALL", small) + more)
    return path


@pytest.mark.parametrize(
    ("small", "more", "problem"),
    [
        (
            "internal",
            REFUSE,
            "nothing gives requests the label `internal` (expected a rule with `label: internal`",
        ),
        ("[]", RULE + REFUSE, "rule `secret`: no model is cleared for internal"),
        ("in ternal", RULE + REFUSE, "'in ternal' is not a valid label"),
        ("a+b", REFUSE, "'a+b' is not a valid label"),
        ("internal", RULE.replace("internal", "[internal, a/b]") + REFUSE, "'a/b' is not a valid label"),
        (
            "internal",
            RULE,
            "go to `large`, which is not cleared for internal (expected `without_sidecar: refuse`)",
        ),
        ("internal", RULE + "without_sidecar: default\n", "(expected `without_sidecar: refuse`)"),
        (
            "[]",
            "clearance: {header: x-data-labels}\n",
            "not cleared for every label that a header may contain",
        ),
        ("eu", "clearance: {header: x-other}\n" + REFUSE, "clients could set the header `x-other`"),
        (
            "eu",
            "clearance: {header: x-data-labels, default: large}\n" + REFUSE,
            "`large` is cleared for no label",
        ),
        (
            "eu",
            "clearance: {header: x-data-labels, default: nobody}\n" + REFUSE,
            "there is no model `nobody`",
        ),
        (
            "internal",
            RULE.replace("label", "deny: No., label") + REFUSE,
            "a request that is denied needs no label",
        ),
        (
            "internal",
            RULE.replace("label", "model: large, label") + REFUSE,
            "`large` is not cleared for internal",
        ),
        (
            "internal",
            RULE.replace("label", "route: chat, label") + REFUSE,
            "no candidate of the route `chat`",
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, small: str, more: str, problem: str) -> None:
    with pytest.raises(RegistryError) as refused:
        load(written(tmp_path, more, small))
    assert any(problem in each.problem for each in refused.value.each), refused.value.each


def test_more_combinations_than_envoy_should_have_routes_for_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "clearance: {header: x-data-labels}\n" + REFUSE, "[]")
    lacking = "".join(  # each model lacks another label, so each subset is a clearance of its own
        f'  m{letter}: {{base_url: "http://127.0.0.1:1", cleared_for: [{", ".join(set("abcdef") - {letter})}]}}\n'
        for letter in "abcdef"
    )
    path.write_text(
        path.read_text().replace("models:\n", f"models:\n{lacking}").replace("apis: [openai.chat], ", "")
    )
    with pytest.raises(RegistryError, match=r"62 different combinations of labels \(expected at most 32"):
        load(path)


@pytest.mark.parametrize("more", ["route: work, ", "model: small, ", ""])
def test_a_rule_may_label_and_decide_at_once(tmp_path: Path, more: str) -> None:
    loaded = load(written(tmp_path, RULE.replace("label", f"{more}label") + REFUSE))
    compiled = compile_snapshot(loaded, OneVector())
    assert compiled.clearance is not None
    assert [rule.labels for rule in compiled.clearance.rules] == [("internal",)]
    assert len(compiled.route_rules) == bool(more)
    assert compiled.terms.checks


def test_a_default_that_is_cleared_may_answer_without_a_sidecar(tmp_path: Path) -> None:
    path = written(tmp_path, RULE)
    path.write_text(path.read_text().replace("default: large", "default: small"))
    assert load(path).registry.labels_requests


def test_a_registry_without_labels_has_no_clearance(tmp_path: Path) -> None:
    assert compile_snapshot(load(written(tmp_path, "", "[]")), OneVector()).clearance is None


def test_a_rule_that_labels_reads_every_turn_of_the_user(tmp_path: Path) -> None:
    policy = compile_snapshot(load(written(tmp_path, RULE + REFUSE)), OneVector()).clearance
    assert policy is not None
    request = ChatRequest(Api.OPENAI_CHAT, "auto", {}, "x", 9, user_turns=(("a secret",), ("and now?",)))
    assert policy.labels_of(Question(request, RequestHead("POST", "/", {}))) == {"internal"}


def test_what_passes_unread_is_restricted_where_requests_carry_labels(tmp_path: Path) -> None:
    assert restrictions(load(written(tmp_path, RULE + REFUSE)).registry)
