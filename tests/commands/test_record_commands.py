"""The commands on records, as an operator runs them."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.cli import main
from extproc.commands.store_options import moment
from extproc.lab.store.record_store import open_store
from extproc.telemetry.rows import AnyRow, EvaluationRow, ExchangeRow

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    """A directory with one segment of forty exchanges, each judged."""
    rows: list[AnyRow] = []
    for number in range(40):
        when = NOON + timedelta(hours=number)
        rows += [
            ExchangeRow(
                time=when, request_id=f"r{number}", trace_id=f"t{number}", api="openai.chat", route="code",
                model="small", margin=0.5, bypassed=False, refused=False, cost_usd=0.1, reference_cost_usd=1.0,
            ),
            EvaluationRow(
                time=when, request_id=f"r{number}", evaluation_id=f"e{number}", name="judge", score=float(number % 4 > 0)
            ),
        ]  # fmt: skip
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / "records-20261125T120000.000000Z-1.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return tmp_path / "records"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def figures(report: str) -> Any:
    """Sums of money depend on the order of the summands, in their last digits."""
    return json.loads(report, parse_float=lambda text: round(float(text), 9))


def test_importing_twice_doubles_nothing(
    segments: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = [run(capsys, "records", "import", str(segments), "--store", store) for _ in range(2)]
    assert printed == [
        "80 new rows of 80 lines in 1 files; 0 were known, 0 were not records\n",
        "0 new rows of 80 lines in 1 files; 80 were known, 0 were not records\n",
    ]


def test_lines_that_are_no_records_are_warned_of(
    segments: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (segment,) = segments.iterdir()
    segment.write_bytes(segment.read_bytes()[:-20])
    assert main(["records", "import", str(segments), "--store", store]) == 0
    printed = capsys.readouterr()
    assert "79 new rows of 80 lines" in printed.out
    assert printed.err == f"extproc: warning: {segment}: 1 lines are not records\n"


ENTRY = {
    "kind": "envoy", "attempts": 1, "status": 200, "method": "POST", "flags": "-", "cluster": "model-small",
    "upstream_host": "127.0.0.1:1", "last_byte_ns": 1_500_000_000, "request_bytes": 60, "response_bytes": 15,
    "request": {"api": "openai.chat", "path": "/v1/chat/completions"}, "usage": {"input": 1e6, "output": 0},
    "decision": {"schema": 1, "api": "openai.chat", "route": "code", "model": "small", "version": "v1"},
}  # fmt: skip


def entries(first: int, last: int) -> bytes:
    """Lines that Envoy would write of exchanges ``first`` to ``last``, one an hour from ``NOON``."""
    start = int(NOON.timestamp())
    lines = (
        {**ENTRY, "request_id": f"r{number}", "start_time": f"{start + 3600 * number}.000000000"}
        for number in range(first, last + 1)
    )
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def test_what_the_stream_lost_comes_from_envoys_own_file_and_nothing_twice(
    segments: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rotated, log = tmp_path / "llm.jsonl.1.gz", tmp_path / "llm.jsonl"
    rotated.write_bytes(gzip.compress(entries(30, 44)))
    log.write_bytes(entries(45, 49))
    run(capsys, "records", "import", str(segments), "--store", store)
    printed = [run(capsys, "records", "import", str(rotated), str(log), "--store", store) for _ in range(2)]
    assert printed == [
        "10 new rows of 20 lines in 2 files; 10 were known, 0 were not records\n",
        "0 new rows of 20 lines in 2 files; 20 were known, 0 were not records\n",
    ]
    with open_store(store) as opened:
        (found,) = opened.rows("SELECT count() AS rows, uniqExact(request_id) AS requests FROM exchanges")
    assert found == {"rows": 50, "requests": 50}


def test_lines_of_envoys_file_that_cannot_be_used_are_named_and_a_cut_one_comes_later(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, whole = tmp_path / "llm.jsonl", entries(0, 2)
    log.write_bytes(b'{"half a line\n' + whole[:-10])
    assert main(["records", "import", str(log), "--store", store]) == 0
    printed = capsys.readouterr()
    assert printed.out == "2 new rows of 3 lines in 1 files; 0 were known, 1 were not records\n"
    first, second = printed.err.splitlines()
    assert first.startswith(f"extproc: warning: {log}:1: JSON is malformed")
    assert second.startswith(f"extproc: warning: {log}: its last line is cut short")
    log.write_bytes(whole)
    assert run(capsys, "records", "import", str(log), "--store", store).startswith("1 new rows of 3 lines")


def test_a_gzipped_log_that_is_cut_short_gives_what_can_be_read(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "llm.jsonl.1.gz"
    log.write_bytes(gzip.compress(entries(0, 500))[:-2000])
    assert main(["records", "import", str(log), "--store", store]) == 0
    printed = capsys.readouterr()
    assert int(printed.out.split()[0]) > 0
    assert "the file cannot be read any further" in printed.err


def test_many_bad_lines_are_told_as_a_number(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "llm.jsonl"
    log.write_bytes(entries(0, 0) + b"{}\n" * 50)
    assert main(["records", "import", str(log), "--store", store]) == 0
    printed = capsys.readouterr()
    assert "50 were not records" in printed.out
    assert printed.err.splitlines()[-1].endswith("30 more lines are not entries of our access log")


def test_exchanges_of_envoys_file_cost_what_the_registry_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, registry = tmp_path / "llm.jsonl", tmp_path / "registry.yaml"
    log.write_bytes(entries(0, 1))
    registry.write_text(
        "models: {small: {base_url: 'http://127.0.0.1:1', price: {input: 0.5, output: 1}}}\ndefault: small\n"
    )
    made = json.loads(run(capsys, "report", str(log), "--registry", str(registry), "--json"))
    assert made["money"]["cost_usd"] == 1.0
    assert json.loads(run(capsys, "report", str(log), "--json"))["money"]["cost_usd"] is None


def test_the_report_is_the_same_from_a_store_and_straight_from_segments(
    segments: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "records", "import", str(segments), "--store", store)
    made = figures(run(capsys, "report", "--store", store, "--json"))
    assert figures(run(capsys, "report", str(segments), "--json")) == made
    (part,) = made["slices"]
    assert (part["route"], part["model"], part["requests"]) == ("code", "small", 40)
    assert part["quality"]["judge"]["value"] == 0.75
    assert made["money"]["saving_share"] == pytest.approx(0.9)


def test_the_report_is_a_table_and_a_page(
    segments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    printed = run(capsys, "report", str(segments), "--html", str(page))
    assert "40 requests" in printed
    assert "judge: at least 14.2% of the answers are bad" in printed
    assert page.read_text().startswith("<!doctype html>")


def test_a_window_without_traffic_says_so(segments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "report", str(segments), "--since", "2030-01-01") == "no traffic is recorded there\n"
    assert run(capsys, "report", str(segments), "--since", "2030-01-01", "--json") == "null\n"


def test_the_schema_is_sql_that_makes_an_empty_store(
    segments: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = run(capsys, "records", "schema")
    with open_store(store) as opened:
        for statement in script.split(";\n"):
            if statement.strip():
                opened.run(statement)
    printed = run(capsys, "records", "import", str(segments), "--store", store)
    assert printed.startswith("80 new rows")


def test_feedback_joins_the_exchanges_late_and_once(
    segments: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "records", "import", str(segments), "--store", store)
    file = tmp_path / "feedback.jsonl"
    lines = [{"request_id": f"r{n}", "label": "bad", "source": "ann"} for n in range(3)]
    lines += [{"trace_id": "t7", "score": 1, "source": "bob"}, {"request_id": "unheard of", "score": 0}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = run(capsys, "feedback", "import", str(file), "--store", store)
    assert first == (
        "5 new feedback rows of 5; 0 were known\n1 feedback rows in the store have no exchange there (yet)\n"
    )
    assert "0 new feedback rows of 5; 5 were known" in run(
        capsys, "feedback", "import", str(file), "--store", store
    )
    quality = json.loads(run(capsys, "report", "--store", store, "--json"))["slices"][0]["quality"]
    assert (quality["feedback"]["samples"], quality["feedback"]["value"]) == (4, 0.25)
    assert quality["judge"]["samples"] == 40


def test_a_feedback_file_with_a_bad_line_changes_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "feedback.jsonl"
    file.write_text('{"request_id": "r", "score": 1}\n{"score": 1}\n')
    assert main(["feedback", "import", str(file), "--store", store]) == 1
    assert f"{file}:2: add `request_id` or `trace_id`" in capsys.readouterr().err
    assert not Path(store).exists()


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["report"], "nothing to read (expected --store, or segments)"),
        (["report", "/none"], "/none: no records there"),
        (["report", "--store", "mysql://host"], "is no store"),
    ],
)
def test_what_an_operator_must_mend_is_one_line(
    arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert printed in capsys.readouterr().err


def test_a_moment_is_a_time_or_a_while_ago() -> None:
    assert moment("2026-11-25") == datetime(2026, 11, 25, tzinfo=UTC)
    assert moment("2026-11-25T12:00:00+02:00") == datetime(2026, 11, 25, 10, tzinfo=UTC)
    before = datetime.now(UTC)
    assert before <= moment("7d") + timedelta(days=7) <= datetime.now(UTC)


def test_an_envoy_that_cannot_be_asked_is_told(segments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "check", str(segments), "--admin", "127.0.0.1:1"]) == 1
    assert "--admin: Envoy's admin interface at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ([], "--clearance: what are models cleared for? (expected --registry FILE)"),
        (["--registry", "x.yaml", "--html", "page.html"], "--clearance has no page"),
    ],
)
def test_a_report_on_clearance_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], problem: str
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("")
    assert main(["report", "--clearance", str(records), *more]) == 1
    assert problem in capsys.readouterr().err


def test_a_report_on_doubts_joins_the_llms_answers_with_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ExchangeRow(
        time=NOON, request_id="r1", api="openai.chat", route="poetry", model="small", bypassed=False, refused=False,
        llm_result="matched", candidates=("code:0.4", "poetry:0.35"),
    )  # fmt: skip
    label = EvaluationRow(
        time=NOON, request_id="r1", evaluation_id="e1", name="route", label="poetry", score=1.0
    )
    records = tmp_path / "records-1.jsonl"
    records.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in (asked, label)))
    made = json.loads(run(capsys, "report", "--llm", "--json", str(records)))
    assert (made["llm_alone_right"], made["embedding_alone_right"]) == (1, 0)
    assert "1 request in doubt" in run(capsys, "report", "--llm", str(records))
    assert main(["report", "--llm", str(records), "--html", str(tmp_path / "page.html")]) == 1
    assert "--llm has no page" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", "--llm", "--clearance", str(records)])
