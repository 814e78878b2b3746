"""`extproc eval` and `extproc diff` as an operator uses them, with the real encoder."""

import json
from pathlib import Path

import pytest

from extproc.cli import main
from tests.lab.measure.rule_server import RuleServer, says

REGISTRY = """\
models:
  small: {base_url: 'http://127.0.0.1:1'}
  large: {base_url: 'http://127.0.0.1:2'}
default: large
routes:
  code:
    candidates: large
    examples: [Fix this Python function, My loop never ends, Write a unit test for this class]
  cooking:
    candidates: small
    examples: [A recipe for tomato soup, How long to boil an egg, What to cook with rice]
thresholds: {margin: 0.1, similarity: 0.2}
"""
ROWS = """\
{"text": "my python class raises an error", "route": "code"}
{"text": "how do I roast a chicken?", "route": "cooking"}
{"text": "who won the football match?", "route": null}
"""


@pytest.fixture(autouse=True)
def _needs_the_encoder(encoder_files: object) -> None:
    """Fails with what to do when it is absent."""


@pytest.fixture
def registry(tmp_path: Path) -> str:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "holdout.jsonl"
    path.write_text(ROWS)
    return str(path)


def test_eval_tells_people_and_writes_a_page(
    registry: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["eval", "--registry", registry, "--data", data, "--html", str(page)]) == 0
    assert "truth \\ decided  code  cooking  abstained" in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")


def test_flips_are_part_of_the_report_and_of_a_comparison_that_has_a_budget_for_them(
    registry: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--json", "--flips", "--registry", registry, "--data", data]) == 0
    flips = json.loads(capsys.readouterr().out)["flips"]
    assert set(flips) == {"typo", "two_typos", "case", "punctuation", "courtesy"}
    assert flips["case"]["value"] == 0.0  # the encoder reads lower case
    for asked in (["--flips"], ["--budget", "flips=0"]):
        assert main(["diff", "--json", registry, registry, "--data", data, *asked]) == 0
        changes = json.loads(capsys.readouterr().out)["changes"]
        assert {c["name"].partition(":")[2] for c in changes if c["name"].startswith("flips:")} == set(flips)


def test_eval_json_is_one_object(registry: str, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--json", "--registry", registry, "--data", data]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["figures"]["accuracy_inside"]["value"] == 1.0
    assert (printed["rows"], printed["inside"]) == (3, 2)


def test_eval_writes_every_decision_as_a_line_of_json(
    registry: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deny = "rules: [{name: secrets, when: {keyword: secret}, deny: no secrets}]\n"
    Path(registry).write_text(REGISTRY + deny)
    Path(data).write_text(ROWS + '{"text": "tell me a secret", "route": null}\n')
    out = tmp_path / "decisions.jsonl"
    assert main(["eval", "--registry", registry, "--data", data, "--rows", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == [
        "my python class raises an error",
        "how do I roast a chicken?",
        "who won the football match?",
        "tell me a secret",
    ]
    assert [row["route"] for row in rows] == ["code", "cooking", None, None]
    assert sum(row["right"] for row in rows) == round(4 * report["figures"]["accuracy"]["value"])
    code, _, stranger, denied = rows
    assert (code["decided"], code["model"], code["stage"]) == ("code", "large", "embedding")
    assert [each["route"] for each in code["candidates"]] == ["code", "cooking"]
    assert code["probability"] == code["candidates"][0]["probability"]
    assert code["margin"] > 0.1
    assert code["similarity"] > 0.2
    assert 0.3 < code["in_scope"] <= 1
    assert (stranger["decided"], stranger["model"]) == (None, "large")
    assert (denied["decided"], denied["model"], denied["reason"]) == (None, "", "denied")
    assert denied["probability"] is None


def test_eval_has_no_decisions_to_write_without_labelled_rows(
    registry: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--rows", str(tmp_path / "decisions.jsonl")]
    assert main(["eval", "--registry", registry, "--outcomes", data, *out]) == 1
    assert "--rows: there are no labelled rows (expected --data" in capsys.readouterr().err


def test_eval_tells_a_mistake_in_the_data_by_line(
    registry: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(data).write_text(ROWS + '{"text": "x", "route": "codes"}\n')
    assert main(["eval", "--registry", registry, "--data", data]) == 1
    assert capsys.readouterr().err.startswith(f"extproc: {data}:4: there is no route `codes`")


def test_diff_passes_what_is_no_worse_and_fails_what_is(
    registry: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", registry, registry, "--data", data]) == 0
    assert capsys.readouterr().out.startswith("### Routing gate: passed\n")
    worse = tmp_path / "worse.yaml"
    worse.write_text(REGISTRY.replace("similarity: 0.2", "similarity: 0.95"))
    assert main(["diff", registry, str(worse), "--data", data]) == 1
    assert "**recall:code** is worse by 1.000" in capsys.readouterr().out
    forgiving = ["--budget", "accuracy=1", "--budget", "recall=1", "--budget", "precision=1"]
    assert main(["diff", registry, str(worse), "--data", data, *forgiving, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["only_old"] == 2


@pytest.mark.parametrize("budget", ["recall", "recall=2", "recall=-1", "=0.1", "recall=x"])
def test_a_budget_that_says_nothing_is_refused(
    registry: str, data: str, budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["diff", registry, registry, "--data", data, "--budget", budget])
    assert ended.value.code == 2
    assert "expected MEASURE=DROP" in capsys.readouterr().err


def test_a_budget_of_what_is_not_measured_is_refused(
    registry: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", registry, registry, "--data", data, "--budget", "flips:typos=0.1"]) == 1
    assert "there is no measure 'flips:typos'" in capsys.readouterr().err
    assert main(["diff", registry, registry, "--data", data, "--budget", "recall:coding=0.1"]) == 1
    assert "there is no measure 'recall:coding' (expected one of: accuracy," in capsys.readouterr().err


WITH_LLM = REGISTRY.replace("similarity: 0.2}", "similarity: 1}") + "llm: {model: small}\n"


def test_eval_asks_an_llm_about_the_rows_in_doubt(
    registry: str,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server answers by a rule, so the figures are of plumbing only."""
    Path(registry).write_text(WITH_LLM)
    monkeypatch.setenv("THE_KEY", " secret\n")
    out = tmp_path / "decisions.jsonl"
    with RuleServer(lambda text: says("code" if "python" in text else "none")).running() as server:
        asked = ["--llm", f"{server.url}/v1", "--llm-key", "THE_KEY", "--llm-model", "small-8b"]
        arguments = ["eval", "--json", "--registry", registry, "--data", data, "--rows", str(out), *asked]
        assert main(arguments) == 0
        assert {headers["authorization"] for _, headers, _ in server.journal} == {"Bearer secret"}
        assert {body["model"] for _, _, body in server.journal} == {"small-8b"}
    worth = json.loads(capsys.readouterr().out)["llm"]
    assert (worth["in_doubt"], worth["calls"], worth["results"]) == (3, 3, {"matched": 1, "none": 2})
    assert (worth["groups"][0]["mended"], worth["groups"][0]["broken"]) == (1, 0)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["llm"]["route"] for row in rows] == ["code", None, None]


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        (REGISTRY, ["--data", "DATA", "--llm", "http://h"], "has no `llm`"),
        (WITH_LLM, ["--outcomes", "DATA", "--llm", "http://h"], "--llm: there are no labelled rows"),
        (WITH_LLM, ["--data", "DATA", "--llm", "http://h", "--llm-key", "NO_KEY"], "variable NO_KEY has no key"),
        (WITH_LLM, ["--data", "DATA", "--llm-key", "NO_KEY"], "--llm-key: no server is asked"),
        (WITH_LLM, ["--data", "DATA", "--llm-model", "m"], "--llm-model: no server is asked"),
        (WITH_LLM, ["--routerarena", "DATA", "--llm", "http://h"], "--routerarena is measured alone"),
    ],
)  # fmt: skip
def test_an_llm_that_cannot_be_asked_is_refused_before_anything_is_measured(
    registry: str,
    data: str,
    text: str,
    options: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    Path(registry).write_text(text)
    arguments = [data if option == "DATA" else option for option in options]
    assert main(["eval", "--registry", registry, *arguments]) == 1
    assert complaint in capsys.readouterr().err
