"""`extproc eval --routerarena`."""

import json
from pathlib import Path

import pytest

from extproc.cli import main

REGISTRY = """\
models:
  small: {base_url: 'http://127.0.0.1:1', price: {input: 1, output: 1}}
  large: {base_url: 'http://127.0.0.1:2', price: {input: 9, output: 9}}
default: small
routes:
  code: {candidates: large, examples: [write a bash script]}
  chat: {cascade: cheap, examples: [say hello]}
cascades:
  cheap: {tiers: [{model: small, gate: whole, stream: hold}, {model: large}]}
gates:
  whole: {finish: true}
rules:
  - {name: code, when: {keyword: bash}, route: code}
  - {name: chat, when: {keyword: hello}, route: chat}
  - {name: bad, when: {keyword: bomb}, deny: bad words}
"""


def row(prompt: str, **more: object) -> dict[str, object]:
    scores, costs = {"small": 0.0, "large": 1.0}, {"small": 0.001, "large": 0.01}
    return {"prompt": prompt, "scores": scores, "costs": costs, **more}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return path


def measured(registry: Path, *rows: dict[str, object]) -> int:
    file = registry.parent / "arena.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return main(["eval", "--registry", str(registry), "--routerarena", str(file), "--json"])


def test_the_choice_is_scored_and_each_call_of_a_cascade_is_charged(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, passed_on = {"small": True}, {"small": False}
    rows = [row("bash"), row("hello", accepted=kept), row("hello", accepted=passed_on), row("bomb")]
    assert measured(registry, *rows) == 0
    report = json.loads(capsys.readouterr().out)
    router, oracle, small, large = report["figures"]
    assert router["accuracy"] == 0.5
    assert router["dollars"] == pytest.approx(1000 * (0.01 + 0.001 + 0.011) / 4)
    assert [each["name"] for each in (oracle, small, large)] == ["oracle", "small", "large"]
    assert report["chosen"] == {"small": 0.25, "large": 0.5}
    file = registry.parent / "arena.jsonl"
    assert main(["eval", "--registry", str(registry), "--routerarena", str(file)]) == 0
    assert "answered by small 25.0%, large 50.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("bash", costs={"small": 0.001}), "arena.jsonl:2: costs: expected the models of the first row's"),
        (row("bash", costs={"small": 0.001, "large": -1}), "arena.jsonl:2: costs"),
        (row("bash", scores={"small": 2.0, "large": 1.0}), "arena.jsonl:2: scores"),
        (row("bash", scores={"tiny": 0.0, "large": 1.0}), "there is no model `tiny`"),
        (
            row("hello"),
            'row 2 does not say whether the gate of `small` keeps its answer (expected "accepted"',
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_reported_with_what_was_expected(
    registry: Path, capsys: pytest.CaptureFixture[str], bad: dict[str, object], message: str
) -> None:
    assert measured(registry, row("bash"), bad) == 1
    assert message in capsys.readouterr().err


def test_a_model_that_the_rows_do_not_score_is_reported_where_it_is_asked(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(registry, row("bash", scores={"small": 1.0}, costs={"small": 0.1})) == 1
    assert "row 1 has no score of `large`" in capsys.readouterr().err
