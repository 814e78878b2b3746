"""``safety`` in a registry: what is refused, and what the rest compiles to."""

from pathlib import Path

import pytest

from extproc.errors import RegistryError
from extproc.registry.checks.model_checks import unattended_warnings
from extproc.registry.passthrough_list import restrictions
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.vocabulary import Scope
from tests.registry.test_rollout import OneVector

BASE = """\
models:
  local: {base_url: "http://127.0.0.1:1", cleared_for: pii, price: {input: 1, output: 1}}
  large: {base_url: "http://127.0.0.1:2", price: {input: 2, output: 2}}
  check: {base_url: "http://127.0.0.1:2", price: {input: 2, output: 2}}
default: large
trusted_headers: [x-app]
gates: {sure: {finish: true, second: {model: check}}}
cascades: {steps: {tiers: [{model: local, gate: sure}, {model: large}]}}
routes:
  plain: {candidates: local, examples: [hi, hello]}
  falls: {candidates: local, fallback: check, examples: [plan, scheme]}
  steps: {cascade: steps, candidates: local, examples: [code, program]}
"""
REFUSE = "without_sidecar: refuse\n"


def written(folder: Path, safety: str, more: str = REFUSE, base: str = BASE) -> Path:
    path = folder / "registry.yaml"
    path.write_text(f"{base}{more}safety: {safety}\n")
    return path


@pytest.mark.parametrize(
    ("safety", "more", "problem"),
    [
        ("{}", REFUSE, "safety: nothing is looked for (expected pii, secrets, templates or head)"),
        ("{pii: {kinds: []}}", REFUSE, "safety.pii.kinds: expected at least one kind"),
        ("{pii: {kinds: [name]}}", REFUSE, "safety.pii.kinds"),
        ("{pii: {action: hide}}", REFUSE, "safety.pii.action"),
        ("{pii: {label: a b}}", REFUSE, "'a b' is not a valid label"),
        ("{templates: {action: redact}}", REFUSE, "safety.templates: there is nothing to redact"),
        ("{templates: {action: guard}}", REFUSE, "safety.templates: no model is cleared for `template`"),
        ("{pii: {}, exempt: {x-other: a}}", REFUSE, "clients could set the header `x-other`"),
        ("{secrets: {action: guard}}", REFUSE, "safety.secrets: no model is cleared for `secret`"),
        ("{pii: {}}", "", "go to `large`, which is not cleared for pii (expected `without_sidecar: refuse`)"),
        ("{pii: {action: refuse}}", REFUSE, "nothing gives requests the label `pii`"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, safety: str, more: str, problem: str) -> None:
    with pytest.raises(RegistryError) as refused:
        load(written(tmp_path, safety, more))
    assert any(problem in each.problem for each in refused.value.each), refused.value.each


def test_the_policy_has_the_classes_and_reads_everything_unless_told_otherwise(tmp_path: Path) -> None:
    compiled = compile_snapshot(load(written(tmp_path, "{pii: {allow: '*@a.b'}, secrets: {}}")), OneVector())
    assert compiled.safety is not None
    assert [(each.name, each.action, each.label) for each in compiled.safety.classes] == [
        ("pii", "redact", "pii"),
        ("secrets", "refuse", "secret"),
    ]
    assert (compiled.safety.reads, compiled.safety.patterns) == (Scope.EVERYTHING, ("*@a.b",))
    assert compiled.clearance is not None
    assert compiled.terms.checks
    assert compiled.terms.unrecorded == {"card", "email", "iban", "national_id", "phone", "secret"}


def test_a_class_that_is_only_recorded_restricts_nothing(tmp_path: Path) -> None:
    base = BASE.replace(", cleared_for: pii", "")
    compiled = compile_snapshot(load(written(tmp_path, "{pii: {action: allow}}", "", base)), OneVector())
    assert (compiled.clearance, compiled.terms.checks, compiled.terms.unrecorded) == (
        None,
        False,
        frozenset(),
    )


def test_a_route_knows_every_model_that_may_read_its_requests(tmp_path: Path) -> None:
    compiled = compile_snapshot(load(written(tmp_path, "{pii: {}}")), OneVector())
    assert compiled.routes["plain"].reached == frozenset()
    assert compiled.routes["falls"].reached == {"check", "large"}
    assert compiled.routes["steps"].reached == {"local", "large", "check"}


def test_what_refuses_needs_a_sidecar_and_restricts_what_passes_unread(tmp_path: Path) -> None:
    base = BASE.replace(", cleared_for: pii", "")
    registry = load(written(tmp_path, "{secrets: {}}", "", base)).registry
    assert any("safety.secrets" in warning for warning in unattended_warnings(registry))
    assert restrictions(registry) == ("safety.secrets refuses requests",)
