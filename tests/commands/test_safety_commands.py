"""`extproc train --safety`, `extproc eval --safety`, and a registry with the head that they make.

The classes here are harmless stand-ins: questions about volcanoes and about knitting.
"""

import json
from pathlib import Path

import pytest

from extproc.cli import main

REGISTRY = """\
models:
  local: {{base_url: "http://127.0.0.1:1", cleared_for: knitting}}
  large: {{base_url: "http://127.0.0.1:2"}}
default: local
without_sidecar: refuse
routes:
  chat: {{candidates: local, examples: [hello there, good morning]}}
rules: [{{name: to-large, when: {{keyword: large}}, model: large}}]
{safety}
"""
HEAD = """\
safety:
  head: {artefact: head, classes: {volcano: {action: refuse}, knitting: {action: guard}}}
"""
VOLCANO = [
    f"{ask} {what}"
    for ask in ("When did", "How hot is the lava of", "How far away can one hear", "Why erupts")
    for what in (
        "the volcano Etna",
        "the volcano Fuji",
        "the crater of Vesuvius",
        "the volcano Krakatoa",
        "Hekla",
    )
] * 2
KNITTING = [
    f"{ask} {what}"
    for ask in ("Which wool do I need to knit", "How many stitches has", "How do I knit", "What needles for")
    for what in ("a scarf", "a pair of socks", "a woollen hat", "a cardigan", "mittens with a thumb")
] * 2
ORDINARY = [
    f"{ask} {what}"
    for ask in ("What is the capital of", "Translate into French:", "Who was the first president of", "Sum up")
    for what in ("France", "the word bicycle", "the United States", "this meeting", "the tax form", "my week",
                 "the news of today", "a train timetable", "the plot of Hamlet", "our sales figures")
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder_files: object) -> Path:
    """A registry, labelled rows, and a head that was trained on them."""
    made = tmp_path_factory.mktemp("safety")
    labelled = [("volcano", VOLCANO), ("knitting", KNITTING), (None, ORDINARY)]
    rows = [{"text": text, "label": label, "set": "own"} for label, texts in labelled for text in texts]
    made.joinpath("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made.joinpath("plain.yaml").write_text(REGISTRY.format(safety=""))
    plain = made.joinpath("plain.yaml")
    plain.write_text(plain.read_text().replace(", cleared_for: knitting", ""))
    made.joinpath("registry.yaml").write_text(REGISTRY.format(safety=HEAD))
    assert train(made, "head") == 0
    return made


def train(folder: Path, out: str, *more: str) -> int:
    rows, plain = folder / "rows.jsonl", folder / "plain.yaml"
    return main(["train", "--registry", str(plain), "--safety", str(rows), "--out", str(folder / out), *more])


def explained(folder: Path, text: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["explain", "--json", "--registry", str(folder / "registry.yaml"), text, *more]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_report_has_recall_and_false_positives_of_rows_that_trained_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert train(folder, "again") == 0
    printed = capsys.readouterr().out
    assert "recall of volcano" in printed
    assert "false positives" in printed
    for name in ("safety.json", "safety.npz"):  # the same rows and seed give the same bytes
        assert (folder / "again" / name).read_bytes() == (folder / "head" / name).read_bytes()
    metrics = json.loads((folder / "head" / "safety.json").read_text())["metrics"]
    assert metrics["recall"]["volcano"]["all"]["hits"] >= 30
    assert metrics["false_positives"]["own"]["rows"] == len(ORDINARY)


def test_eval_measures_the_head_that_serves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    registry, rows = str(folder / "registry.yaml"), str(folder / "rows.jsonl")
    assert main(["eval", "--registry", registry, "--safety", rows, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["recall"]["knitting"]["all"]["hits"] >= 36
    assert set(report["thresholds"]) == {"knitting", "volcano"}
    assert main(["eval", "--registry", registry, "--safety", rows]) == 0
    assert "recall of knitting" in capsys.readouterr().out


def test_what_the_head_finds_is_refused_or_guarded_whatever_else_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = explained(folder, "How hot is the lava of the volcano Etna?", capsys)
    assert (refused["reason"], refused["stage"], refused["rule"]) == ("unsafe", "safety", "volcano")
    guarded = explained(folder, "How do I knit a woollen scarf with thick needles?", capsys)
    assert (guarded["model"], guarded["labels"], guarded["safety"]) == ("local", ["knitting"], "guard")
    to_large = explained(folder, "How do I knit a large scarf of wool?", capsys)
    assert to_large["reason"] == "not_cleared"
    ordinary = explained(folder, "What is the capital of France?", capsys)
    assert (ordinary["safety"], ordinary["labels"]) == ("", [])
    scores = ordinary["safety_scores"]
    assert isinstance(scores, list)
    assert [score.split(":")[0] for score in scores] == ["knitting", "volcano"]


def test_a_long_text_is_read_at_both_ends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filler = "The meeting was about our sales figures and the tax form. " * 40
    hidden = explained(folder, f"{filler}\n\nHow hot is the lava of the volcano Etna?", capsys)
    assert hidden["reason"] == "unsafe"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--data", "x"], "--safety is trained by itself"),
        (["--outcomes", "x"], "--safety is trained by itself"),
    ],
)
def test_training_says_what_does_not_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], problem: str
) -> None:
    assert train(folder, "not", *more) == 1
    assert problem in capsys.readouterr().err


def test_too_few_rows_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = folder / "few.jsonl"
    few.write_text('{"text": "a", "label": "odd"}\n{"text": "b", "label": null}\n')
    arguments = ["train", "--registry", str(folder / "plain.yaml"), "--out", str(folder / "no"), "--safety"]
    assert main([*arguments, str(few)]) == 1
    assert "are too few (expected at least 20)" in capsys.readouterr().err
    few.write_text('{"text": "b", "label": null}\n')
    assert main([*arguments, str(few)]) == 1
    assert "no row has a class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("volcano:", "lava:", "the artefact knows no class `lava` (expected one of: knitting, volcano)"),
        ("artefact: head", "artefact: nowhere", "cannot read"),
        (
            "{action: refuse}",
            "{action: redact}",
            "there is nothing to redact (expected allow, guard or refuse)",
        ),
        ("cleared_for: knitting", "cleared_for: other", "no model is cleared for `knitting`"),
    ],
)
def test_a_registry_that_does_not_fit_the_head_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, problem: str
) -> None:
    wrong = folder / "wrong.yaml"
    wrong.write_text((folder / "registry.yaml").read_text().replace(old, new))
    assert main(["validate", str(wrong)]) == 1
    assert problem in capsys.readouterr().err


def test_a_damaged_head_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "head").mkdir()
    for name in ("safety.json", "safety.npz"):
        (tmp_path / "head" / name).write_bytes((folder / "head" / name).read_bytes()[:-1])
    (tmp_path / "head" / "safety.json").write_bytes((folder / "head" / "safety.json").read_bytes())
    registry = tmp_path / "registry.yaml"
    registry.write_text((folder / "registry.yaml").read_text())
    assert main(["validate", str(registry)]) == 1
    assert "is damaged" in capsys.readouterr().err
