"""`extproc holdout` as an operator uses it: piped, and at a real terminal."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.cli import main

REGISTRY = """\
models: {small: {base_url: 'http://127.0.0.1:1'}}
default: small
routes:
  code: {candidates: small, examples: [fix it, debug it]}
  greeting: {candidates: small, examples: [hi, hello]}
"""


@pytest.fixture
def registry(tmp_path: Path) -> str:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return str(path)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", "two", "three")))
    return path


def routes_in(path: Path) -> list[object]:
    return [json.loads(line).get("route", "-") for line in path.read_text().splitlines()]


def label(registry: str, rows: Path, keys: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(keys))
    return main(["holdout", "label", "--registry", registry, str(rows)])


def test_a_pipe_labels_stops_and_resumes(
    registry: str, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label(registry, rows, "1\n", monkeypatch) == 0
    assert routes_in(rows) == ["code", "-", "-"]
    printed = capsys.readouterr().out
    assert "[1] code  [2] greeting  [0] out of scope" in printed
    assert printed.endswith(f"{rows}: 1 of 3 rows have a label\n")
    assert label(registry, rows, "x2u0s", monkeypatch) == 0
    assert routes_in(rows) == ["code", None, "-"]
    assert "\n\none\n" not in capsys.readouterr().out
    assert label(registry, rows, "1u2q", monkeypatch) == 0
    assert routes_in(rows) == ["code", None, "greeting"]
    assert "That was the last one." in capsys.readouterr().out
    assert label(registry, rows, "", monkeypatch) == 0
    assert capsys.readouterr().out == f"{rows}: 3 of 3 rows have a label\n"


def test_a_terminal_takes_keys_without_enter(registry: str, rows: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "extproc", "holdout", "label", "--registry", registry, str(rows)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for key in "2", "0", "q":
            for line in process.stdout:
                if "[u] undo" in line:
                    break
            os.write(ours, key.encode())
        rest, _ = process.communicate(timeout=20)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert "2 of 3 rows have a label" in rest
    assert routes_in(rows) == ["greeting", None, "-"]


def test_a_text_is_shown_cut_and_cannot_steer_the_terminal(
    registry: str, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07 hi\nthere " + "x" * 3000
    rows.write_text(json.dumps({"text": evil}) + "\n")
    assert label(registry, rows, "2q", monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert "hi\nthere" in printed
    assert f"{len(evil) - 1500} more characters" in printed
    assert json.loads(rows.read_text()) == {"text": evil, "route": "greeting"}


def test_sample_draws_a_file_that_label_takes(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records, drawn = tmp_path / "records.jsonl", tmp_path / "holdout.jsonl"
    records.write_text(
        "".join(
            json.dumps(
                {
                    "kind": "exchange",
                    "input_messages": json.dumps(
                        [{"role": "user", "parts": [{"type": "text", "content": f"text {i}"}]}]
                    ),
                    "route": "code",
                    "margin": i / 30,
                }
            )
            + "\n"
            for i in range(30)
        )
    )
    assert main(["holdout", "sample", str(records), "--rows", "8", "--output", str(drawn)]) == 0
    assert "8 rows to label" in capsys.readouterr().out
    assert label(registry, drawn, "1" * 8, monkeypatch) == 0
    assert routes_in(drawn) == ["code"] * 8
    assert main(["holdout", "sample", str(records), "--output", str(drawn)]) == 1
    assert "is there already (expected a new file" in capsys.readouterr().err
    assert routes_in(drawn) == ["code"] * 8


def test_sample_says_that_text_is_an_opt_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text('{"kind": "exchange", "route": "code", "margin": 0.5}\n')
    assert main(["holdout", "sample", str(records), "--output", str(tmp_path / "o.jsonl")]) == 1
    assert "recording prompts is an opt-in" in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_sample_takes_a_directory_of_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "hello"}]}])
    (tmp_path / "records-20261130T000000.000000Z.jsonl").write_text(
        json.dumps({"kind": "exchange", "input_messages": text, "route": "code", "margin": 0.5}) + "\n"
    )
    assert main(["holdout", "sample", str(tmp_path), "--output", str(tmp_path / "drawn")]) == 0
    assert "1 row to label" in capsys.readouterr().out


def test_an_llms_answers_become_rows_to_train_on_once_a_person_confirms_them(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records, drawn = tmp_path / "records.jsonl", tmp_path / "candidates.jsonl"
    text = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "mend it"}]}])
    asked = {"kind": "exchange", "input_messages": text, "route": "code", "stage": "llm", "margin": 0.02}
    records.write_text(json.dumps({**asked, "llm_result": "matched", "llm_why": "a \x1b[31m bug"}) + "\n")
    assert main(["holdout", "sample", "--llm", str(records), "--output", str(drawn)]) == 0
    assert json.loads(drawn.read_text())["suggested"] == "code"
    assert label(registry, drawn, ".", monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "[.] as the LLM suggests: code: a" in printed
    assert "\x1b" not in printed
    assert ".: code\n" in printed
    assert routes_in(drawn) == ["code"]
