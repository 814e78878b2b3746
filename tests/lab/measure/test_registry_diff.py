"""Two registries on the same rows: what moved, what it cost, and when the gate closes."""

import math
import re
from pathlib import Path

import msgspec
import pytest

from extproc.lab.measure.diff_markdown import as_markdown
from extproc.lab.measure.registry_diff import DEFAULT_BUDGETS, Change, RegistryComparison, compare
from extproc.lab.measure.replay import CandidateRegistry
from tests.lab.conftest import REGISTRY, candidate_of

LAX = REGISTRY.replace("similarity: 0.3", "similarity: 0")
STRICT = REGISTRY.replace("similarity: 0.3", "similarity: 0.9")
WITH_WEATHER = REGISTRY.replace(
    "thresholds:", "  weather: {candidates: small, examples: [will it rain, rain tomorrow]}\nthresholds:"
)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "new.yaml"


def compared(
    candidate: CandidateRegistry, other: Path, text: str, data: Path, **budgets: float
) -> RegistryComparison:
    return compare(candidate, candidate_of(other, text), data, {**DEFAULT_BUDGETS, **budgets})


def change(comparison: RegistryComparison, name: str) -> Change:
    return next(change for change in comparison.changes if change.name == name)


def test_a_registry_is_no_worse_than_itself(candidate: CandidateRegistry, other: Path, data: Path) -> None:
    same = compared(candidate, other, REGISTRY, data, accuracy=0.0, recall=0.0)
    assert same.over_budget == []
    assert same.moves == []
    assert same.p_value == 1.0
    assert not any(map(any, same.confusion_change))
    assert {(c.old, c.low, c.high) for c in same.changes} == {(c.new, 0.0, 0.0) for c in same.changes}
    assert "No row is decided differently." in as_markdown(same)


def test_flips_are_compared_on_request_and_have_a_budget(
    candidate: CandidateRegistry, other: Path, data: Path
) -> None:
    """Where every rare word is an example of its own, a misspelt word changes the route."""
    data.write_text('{"text": "x y", "route": null}\n{"text": "python", "route": "code"}\n')
    assert not any(c.name.startswith("flips:") for c in compared(candidate, other, LAX, data).changes)
    strict, budgets = candidate_of(other, STRICT), {**DEFAULT_BUDGETS, "accuracy": 1.0, "recall": 1.0}
    found = compare(strict, candidate, data, budgets, flips=True)
    typo = change(found, "flips:typo")
    assert (typo.old, typo.new, typo.rows) == (0.0, 0.5, 2)
    assert typo in found.over_budget
    assert "**flips:typo** is worse by 0.500; its budget is 0.05" in as_markdown(found)
    allowed = {**budgets, "flips": 0.0, "flips:typo": 0.5}
    assert change(compare(strict, candidate, data, allowed, flips=True), "flips:typo").over_budget is False
    assert change(compare(candidate, strict, data, budgets, flips=True), "flips:typo").over_budget is False


def test_a_stricter_registry_loses_rows_and_says_which(
    candidate: CandidateRegistry, other: Path, data: Path
) -> None:
    found = compared(candidate, other, STRICT, data)
    lost = found.only_old
    assert lost >= 1
    assert {row.new for row in found.broken} == {""}
    assert len(found.broken) == lost
    assert sum(move.broken for move in found.moves) == lost
    assert sum(move.mended for move in found.moves) == found.only_new
    accuracy = change(found, "accuracy")
    assert accuracy.new - accuracy.old == pytest.approx((found.only_new - lost) / 8)
    assert accuracy.low <= accuracy.new - accuracy.old <= accuracy.high
    assert all(sum(line) == 0 for line in found.confusion_change)


def test_taking_strays_counts_against_the_new_one(
    candidate: CandidateRegistry, other: Path, data: Path
) -> None:
    found = compared(candidate, other, LAX, data)
    strays = change(found, "outside_kept")
    assert strays.new > strays.old
    assert strays.worse_by == pytest.approx(strays.new - strays.old)
    assert strays.over_budget
    assert not change(compared(candidate, other, LAX, data, outside_kept=1.0), "outside_kept").over_budget


def test_a_budget_of_one_route_wins_over_that_of_all(
    candidate: CandidateRegistry, other: Path, data: Path
) -> None:
    found = compared(candidate, other, STRICT, data, recall=0.0)
    worse = [c.name for c in found.over_budget if c.name.startswith("recall:")]
    assert worse
    forgiven = compared(candidate, other, STRICT, data, recall=0.0, **dict.fromkeys(worse, 1.0))
    assert [c.name for c in forgiven.over_budget if c.name.startswith("recall:")] == []


def test_a_drop_equal_to_its_budget_passes() -> None:
    assert not Change("accuracy", 10, 0.9, 0.8, -0.2, 0.0, budget=0.1).over_budget
    assert Change("accuracy", 10, 0.9, 0.79, -0.2, 0.0, budget=0.1).over_budget
    assert not Change("precision:code", 0, math.nan, 0.5, math.nan, math.nan, budget=0.0).over_budget


def test_a_new_route_takes_its_rows_and_the_old_registry_had_them_wrong(
    candidate: CandidateRegistry, other: Path, data: Path
) -> None:
    data.write_text(
        data.read_text().replace('"will it rain", "route": null', '"will it rain", "route": "weather"')
    )
    found = compared(candidate, other, WITH_WEATHER, data)
    assert found.routes == ["code", "greeting", "weather"]
    recall = change(found, "recall:weather")
    assert (recall.old, recall.new) == (0.0, 1.0)
    assert found.over_budget == []
    told = as_markdown(found)
    assert "NEW adds `weather`." in told
    assert "| no route | weather | 1 | 1 | 0 |" in told


def test_markdown_tells_the_verdict_first_and_no_text_can_break_its_tables(
    candidate: CandidateRegistry, other: Path, data: Path
) -> None:
    evil = "hello good day | <img src=x> @team `a`\\nfriend"
    data.write_text(f'{{"text": "{evil}", "route": "greeting"}}\n' + data.read_text())
    found = compared(candidate, other, STRICT, data)
    told = as_markdown(found)
    assert told.startswith("### Routing gate: failed\n")
    assert "- **accuracy** is worse by" in told
    (line,) = [line for line in told.splitlines() if "img" in line]
    assert "<img" not in line
    assert "@team" not in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_json_is_the_comparison(candidate: CandidateRegistry, other: Path, data: Path) -> None:
    found = compared(candidate, other, STRICT, data)
    plain = msgspec.json.decode(msgspec.json.encode(found))
    assert plain["only_old"] == found.only_old
    assert plain["changes"][0]["name"] == "accuracy"
