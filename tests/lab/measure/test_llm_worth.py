"""What an LLM in doubt adds, by hand. It answers by a rule, so these figures are of plumbing only."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from extproc.errors import OperatorError
from extproc.lab.datasets import routes_in
from extproc.lab.measure.evaluation_page import as_page
from extproc.lab.measure.evaluation_report import Report, evaluate
from extproc.lab.measure.evaluation_text import as_text
from extproc.lab.measure.llm_endpoint import LlmServer, completions_url
from extproc.lab.measure.llm_worth import DoubtAsker, LlmWorth
from tests.lab.conftest import REGISTRY, candidate_of
from tests.lab.measure.rule_server import Reply, RuleServer, says

PRICED = REGISTRY.replace("http://127.0.0.1:1'}", "http://127.0.0.1:1', price: {input: 1000, output: 5000}}")
WITH_LLM = f"{PRICED}llm: {{model: small, deadline_ms: 20000, max_share: 0.001, per_second: 0.001}}\n"
# In doubt are "greetings", "bonsoir" twice and "will it rain", because they share no word with an example.
ROWS = [
    ("please fix python code", "code"),
    ("greetings", "greeting"),
    ("bonsoir", "greeting"),
    ("bonsoir", "greeting"),
    ("will it rain", None),
    ("my password is rosebud", None),
]


def by_rule(text: str) -> Reply:
    """It knows the words of a greeting, and takes the rain for code."""
    return says({"will it rain": "code"}.get(text, "greeting"), f"it says {text}")


def report_of(
    folder: Path,
    rule: Callable[[str], Reply] = by_rule,
    registry: str = WITH_LLM,
    decisions: Path | None = None,
    model: str = "",
) -> tuple[Report, RuleServer]:
    data = folder / "holdout.jsonl"
    data.write_text("".join(json.dumps({"text": text, "route": route}) + "\n" for text, route in ROWS))
    with RuleServer(rule).running() as server:
        asker = DoubtAsker(LlmServer(completions_url(server.url)), lambda done, total: None, model)
        candidate = candidate_of(folder / "registry.yaml", registry)
        return evaluate(candidate, routes_in(data), decisions=decisions, asker=asker), server


def worth_in(report: Report) -> LlmWorth:
    assert report.llm is not None
    return report.llm


def test_figures_before_and_after_by_hand(tmp_path: Path) -> None:
    report, server = report_of(tmp_path)
    worth = worth_in(report)
    groups = {group.name: group for group in worth.groups}
    assert (worth.in_doubt, worth.calls, worth.uncleared) == (4, 3, 0)
    assert len(server.journal) == 3
    for name, rows, before, after in [
        ("all rows", 6, 3 / 6, 5 / 6),
        ("in doubt", 4, 1 / 4, 3 / 4),
        ("in doubt, in scope", 3, 0.0, 1.0),
        ("in doubt, out of scope", 1, 1.0, 0.0),
    ]:
        group = groups[name]
        assert group.rows == rows
        assert (group.before.value, group.after.value) == (before, after)
        assert group.gain.value == pytest.approx(after - before)
        assert group.gain.low <= group.gain.value <= group.gain.high
    assert (groups["all rows"].mended, groups["all rows"].broken) == (3, 1)
    assert report.figures["accuracy"].value == groups["all rows"].before.value  # is not about the LLM
    assert sum(group.rows for name, group in groups.items() if name.startswith("reason ")) == 4


def test_tokens_dollars_and_latency_are_of_the_calls(tmp_path: Path) -> None:
    worth = worth_in(report_of(tmp_path)[0])
    assert (worth.input_tokens, worth.output_tokens, worth.without_usage) == (300, 30, 0)
    assert worth.dollars == pytest.approx(300 * 1000e-6 + 30 * 5000e-6)
    assert worth.results == {"matched": 3}
    assert 0 < worth.latency_ms["p50"] <= worth.latency_ms["p99"] <= worth.latency_ms["max"]


def test_without_a_price_or_usage_the_cost_is_not_known(tmp_path: Path) -> None:
    unpriced = WITH_LLM.replace(PRICED, REGISTRY)
    assert worth_in(report_of(tmp_path, registry=unpriced)[0]).dollars is None
    silent = worth_in(report_of(tmp_path, lambda text: says("none", usage=False))[0])
    assert (silent.dollars, silent.without_usage, silent.results) == (None, 3, {"none": 3})


def test_an_llm_that_never_names_a_route_changes_nothing(tmp_path: Path) -> None:
    for rule in (lambda text: says("none"), lambda text: says("admin")):
        worth = worth_in(report_of(tmp_path, rule)[0])
        assert [(group.mended, group.broken) for group in worth.groups] == [(0, 0)] * len(worth.groups)
        assert worth.p_value == 1.0


def test_the_server_may_call_the_model_in_its_own_way(tmp_path: Path) -> None:
    report, server = report_of(tmp_path, model="org/model-8b")
    assert {body["model"] for _, _, body in server.journal} == {"org/model-8b"}
    assert (worth_in(report).model, worth_in(report).upstream_model) == ("small", "org/model-8b")


def test_what_the_llm_said_is_written_beside_the_decision_without_it(tmp_path: Path) -> None:
    out = tmp_path / "decisions.jsonl"
    report_of(tmp_path, decisions=out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["llm"] and row["llm"]["route"] for row in rows] == [
        None, "greeting", "greeting", "greeting", "code", None,
    ]  # fmt: skip
    rain = rows[4]
    assert (rain["decided"], rain["right"], rain["llm"]["why"]) == (None, True, "it says will it rain")
    assert (rain["llm"]["result"], rain["llm"]["input_tokens"]) == ("matched", 100)


def test_a_registry_that_only_observes_is_measured_all_the_same(tmp_path: Path) -> None:
    worth = worth_in(report_of(tmp_path, registry=f"{WITH_LLM}mode: observe\n")[0])
    assert worth.results == {"matched": 3}


def test_rows_that_may_not_be_shown_to_the_model_are_not(tmp_path: Path) -> None:
    labelled = WITH_LLM.replace(
        "routes:\n", "  - name: french\n    when: {keyword: bonsoir}\n    label: secret\nroutes:\n"
    ).replace("{base_url: 'http://127.0.0.1:2'}", "{base_url: 'http://127.0.0.1:2', cleared_for: secret}")
    report, server = report_of(tmp_path, registry=labelled)
    assert (worth_in(report).in_doubt, worth_in(report).uncleared) == (4, 2)
    asked = [json.loads(body["messages"][1]["content"])["text"] for _, _, body in server.journal]
    assert sorted(asked) == ["greetings", "will it rain"]


def test_a_registry_without_llm_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"has no `llm` \(expected `llm: {model: NAME}`"):
        report_of(tmp_path, registry=PRICED)


def test_without_a_row_in_doubt_nothing_is_asked(tmp_path: Path) -> None:
    floorless = WITH_LLM.replace("{margin: 0.1, similarity: 0.3}", "{margin: 0, in_scope: 0, similarity: 0}")
    every_language = floorless + "encoder: {languages: [any]}\n"
    report, server = report_of(tmp_path, registry=every_language)
    worth = worth_in(report)
    assert (worth.in_doubt, worth.calls, worth.latency_ms, server.journal) == (0, 0, {}, [])
    assert math.isnan(next(group for group in worth.groups if group.name == "in doubt").gain.value)
    assert "0 rows in doubt, 0 calls: none" in as_text(report)


def test_text_page_and_json_show_it(tmp_path: Path) -> None:
    report, _ = report_of(tmp_path)
    text, page = as_text(report), as_page(report)
    for shown in (text, page):
        assert "4 rows in doubt, 3 calls: matched 3" in shown
        assert "300 input tokens, 30 output tokens" in shown
        assert "in doubt, out of scope" in shown
    printed = msgspec.json.decode(msgspec.json.encode(report))["llm"]
    assert printed["groups"][1]["mended"] == 3
