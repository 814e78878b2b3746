"""`extproc gate fit` and `extproc gate eval` on a small file."""

import json
import re
from pathlib import Path

import pytest

from extproc.cli import main

PRICES = {"small": 0.1, "large": 10.0}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Of both commands: a registry, and answers of which every third is wrong and says so."""
    models = {
        name: {"base_url": "http://127.0.0.1:1", "price": {"input": price, "output": price}}
        for name, price in PRICES.items()
    }
    (tmp_path / "registry.yaml").write_text(json.dumps({"models": models, "default": "large"}))
    rows = [
        {
            "prompt": f"{number} and {number * number % 97} make how many, question {number}?",
            "answers": {
                "small": "I think maybe 4 + 4 = 9." if number % 3 == 0 else "4 + 4 = 8.",
                "large": "8",
            },
            "scores": {"small": float(number % 3 != 0), "large": 1.0},
        }
        for number in range(90)
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["--registry", str(tmp_path / "registry.yaml"), "--data", str(tmp_path / "answers.jsonl")]


def test_a_gate_is_fitted_and_reported(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "gate"), "--small", "small", "--large", "large"]
    assert main(["gate", "fit", *arguments, *out]) == 0
    printed, counts = capsys.readouterr()
    found = re.fullmatch(
        rf"90 rows in {tmp_path}/answers.jsonl, 90 of them with the answers and scores that are needed: "
        r"(\d+) to fit on, (\d+) set apart to measure on\n",
        counts,
    )
    assert found is not None, counts
    assert int(found[1]) + int(found[2]) == 90
    assert f"on {found[2]} held-out prompts" in printed
    assert "AUROC of P(good)      1.000" in printed
    assert main(["gate", "eval", *arguments, "--artefact", str(tmp_path / "gate"), "--json"]) == 0
    (worth,) = json.loads(capsys.readouterr().out)
    assert worth["quality"]["value"] >= 0.9
    assert worth["cost"]["value"] < 0.5


def test_too_few_rows_are_counted_before_and_after_some_are_set_apart(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "answers.jsonl"
    data.write_text("\n".join(data.read_text().splitlines()[:50]))
    out = ["--out", str(tmp_path / "gate"), "--small", "small", "--large", "large"]
    assert main(["gate", "fit", *arguments, *out]) == 1
    printed = capsys.readouterr().err
    found = re.search(
        r"50 prompts have .*; (\d+) of them are set apart to measure on; of the (\d+) to fit on", printed
    )
    assert found is not None, printed
    assert int(found[1]) + int(found[2]) == 50
    assert int(found[2]) < 40


@pytest.mark.parametrize("share", ["0", "1", "many"])
def test_a_share_is_between_none_and_all(
    arguments: list[str], share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", "x", "--small", "small", "--large", "large", "--escalation", share]
    with pytest.raises(SystemExit):
        main(["gate", "fit", *arguments, *out])
    assert "expected a share" in capsys.readouterr().err


def test_an_unknown_model_is_one_line_and_status_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", "x", "--small", "tiny", "--large", "large"]
    assert main(["gate", "fit", *arguments, *out]) == 1
    assert "there is no model tiny" in capsys.readouterr().err
