"""Cascades: what a registry may say of them, and where it is told to be wrong."""

from pathlib import Path

import msgspec
import pytest

from extproc.registry import gate_artefact as artefacts
from extproc.registry.cascade_settings import Tier
from extproc.registry.registry_loading import load
from extproc.registry.tier_compiling import judged_tiers
from tests.registry.test_gate_artefact import gate
from tests.registry.test_registry_loading import mistake, write

GOOD = """\
models:
  small: {base_url: "http://127.0.0.1:1", price: {input: 1, output: 1}, max_requests: 8}
  mid: {base_url: "http://127.0.0.1:2", price: {input: 2, output: 2}}
  large: {base_url: "http://127.0.0.1:3", price: {input: 3, output: 3}}
default: large
gates:
  sound: {finish: true}
cascades:
  frugal:
    tiers:
      - {model: small, gate: sound, stream: hold, timeout_s: 9}
      - {model: mid}
    deadline_s: 30
routes:
  chat:
    cascade: frugal
    examples: [hi]
  work:
    candidates: [mid]
    cascade: frugal
    examples: [plan the project]
"""


def test_a_route_may_begin_at_any_tier_unless_it_says_where(tmp_path: Path) -> None:
    registry = load(write(tmp_path, GOOD)).registry
    assert registry.cascades["frugal"].tiers == [
        Tier(model="small", gate="sound", stream="hold", timeout_s=9),
        Tier(model="mid"),
    ]
    assert registry.routes["chat"].candidates == ["small", "mid"]
    assert registry.routes["work"].candidates == ["mid"]


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("model: mid", "model: med", 12, "there is no model `med` (expected one of: small, mid, large)"),
        ("model: mid", "model: small", 12, "the model `small` is in two tiers of `frugal`"),
        ("stream: hold", "stream: held", 11, "must be one of hold, prefix, off; got 'held'"),
        ("stream: hold", "steam: hold", 11, "unknown key `steam` (did you mean `stream`?"),
        ("timeout_s: 9", "timeout_s: 31", 11, "timeout_s 31 is greater than the cascade's deadline_s 30"),
        ("deadline_s: 30", "deadline_s: 0", 13, "> 0.0"),
        ("deadline_s: 30", "max_calls: 0", 13, ">= 1"),
        ("  frugal:\n", "  'a b':\n", 9, "'a b' is not a valid cascade name"),
        ("cascade: frugal\n    examples: [hi]", "cascade: fugal\n    examples: [hi]", 16, "there is no cascade `fugal`"),
        ("candidates: [mid]", "candidates: [large]", 19, "`large` is not in a tier of `frugal` (expected one of: small, mid)"),
        ("    examples: [hi]", "    fallback: large\n    examples: [hi]", 17, "`fallback` of the route `chat` cannot be combined with `cascade`"),
        ("    examples: [hi]", "    timeout_s: 3\n    examples: [hi]", 17, "(expected it in the tiers of `frugal`)"),
        ("gate: sound", "gate: sond", 11, "there is no gate `sond` (expected one of: sound)"),
        ("{finish: true}", "{}", 7, "the gate `sound` checks nothing"),
        ("{finish: true}", "{finsh: true}", 7, "unknown key `finsh` (did you mean `finish`?"),
        ("{finish: true}", "{self_report: {pattern: 'a('}}", 7, "expected RE2 syntax"),
        ("  sound: {", "  'a b': {", 7, "'a b' is not a valid gate name"),
        ("timeout_s: 9", "expected: {least: 0.5, most: 0.4}", 11, "expected.least is greater than expected.most"),
        ("{model: mid}", "{model: mid, expected: {most: 0.4}}", 12, "`expected` needs a `gate` in the same tier"),
        ("max_requests: 8", "max_requests: 0", 2, ">= 1"),
        ("{finish: true}", "{second: {model: big}}", 7, "there is no model `big` (expected one of: small, mid, large)"),
        ("{finish: true}", "{verifier: {model: big}}", 7, "there is no model `big` (expected one of: small, mid, large)"),
        ("{finish: true}", "{verifier: {model: mid, min_score: 2}}", 7, "<= 1.0"),
        ("{finish: true}", "{verifier: {model: mid}, second: {model: mid}}", 7, "(expected one of them)"),
        ("{finish: true}", "{second: {model: mid, budget: 0}}", 7, "> 0.0"),
        ("{finish: true}", "{second: {model: mid, on_error: drop}}", 7, "must be one of keep, escalate; got 'drop'"),
        ("default: large", "envoy: {egress: '0.0.0.0:8'}\ndefault: large", 5, "(expected unix:/PATH or 127.0.0.1:PORT)"),
        ("default: large", "envoy: {egress: 'unix:x'}\ndefault: large", 5, "(expected unix:/PATH or 127.0.0.1:PORT)"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, problem: str
) -> None:
    assert old in GOOD
    where, found = mistake(tmp_path, GOOD.replace(old, new, 1))
    assert (where, problem in found) == (line, True), found


def test_a_cascade_needs_a_tier(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("    tiers:")] + "    tiers: []\n" + GOOD[GOOD.index("    deadline_s") :]
    line, problem = mistake(tmp_path, text)
    assert line == 10
    assert "must not be empty" in problem


def test_a_calibrated_gate_is_for_the_model_it_was_fitted_on(tmp_path: Path) -> None:
    text = GOOD.replace("{finish: true}", "{artefact: learnt}")
    fitted = gate()
    artefacts.write(tmp_path / "learnt", fitted)
    assert fitted.manifest.small == "small"
    loaded = load(write(tmp_path, text))
    assert judged_tiers(loaded.registry, loaded.gates).keys() == {"frugal/0"}
    other = msgspec.structs.replace(fitted.manifest, small="another")
    artefacts.write(tmp_path / "learnt", msgspec.structs.replace(fitted, manifest=other))
    line, problem = mistake(tmp_path, text)
    assert (line, "fitted on answers of `another`, not of `small`" in problem) == (11, True)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("apis: [openai.completions]", "(expected a model that speaks openai.chat)"),
        (
            "auth: passthrough",
            "which needs the client's own key (expected a model with a key in `auth`, or without `auth`)",
        ),
    ],
)
def test_a_gate_asks_only_whom_it_can(tmp_path: Path, model: str, problem: str) -> None:
    text = GOOD.replace("{finish: true}", "{second: {model: mid}}").replace(
        '127.0.0.1:2",', f'127.0.0.1:2", {model},'
    )
    line, found = mistake(tmp_path, text)
    assert (line, problem in found) == (7, True), found


def test_a_gate_fitted_on_second_answers_asks_the_same_model(tmp_path: Path) -> None:
    text = GOOD.replace("{finish: true}", "{artefact: learnt, second: {model: mid}}")
    fitted = gate()
    for second in ("", "mid"):
        manifest = msgspec.structs.replace(fitted.manifest, second=second)
        artefacts.write(tmp_path / "learnt", msgspec.structs.replace(fitted, manifest=manifest))
        assert judged_tiers(load(write(tmp_path, text)).registry)["frugal/0"].consulted is not None
    manifest = msgspec.structs.replace(fitted.manifest, second="large")
    artefacts.write(tmp_path / "learnt", msgspec.structs.replace(fitted, manifest=manifest))
    line, problem = mistake(tmp_path, text)
    assert (line, "fitted on second answers of `large`, not of `mid`" in problem) == (7, True)
