"""Every option that takes a path or an address answers a bad one with one line, and not with a traceback."""

import argparse
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.cli import command_line, main
from extproc.embedding.encoder_files import EncoderFiles

REGISTRY = """\
models:
  a: {base_url: 'http://h:1', price: {input: 1, output: 1}}
  b: {base_url: 'http://h:2', price: {input: 9, output: 9}}
default: a
envoy: {admin: '127.0.0.1:1'}
routes:
  code: {candidates: a, examples: [Fix this bug, Write a bash script]}
  poetry: {candidates: a, examples: [Write a sonnet, Compose a poem on autumn]}
"""
ROWS = '{"text": "Write a Python script", "route": "code"}\n'

# What else each command needs, and each of its options and arguments with values that cannot be used.
# GOOD is a registry, LLM one that asks an LLM whenever it can, ROWS labelled rows, DIR an empty directory, TAKEN a port that somebody listens on.
ABSENT, UNDER_A_FILE, NOWHERE = "/nope/x", "GOOD/x", "127.0.0.1:99999"
TABLE = [
    ("serve", {"--registry": "GOOD", "--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0"}, [
        ("--registry", [ABSENT, "DIR"]), ("--encoder-dir", [ABSENT, "GOOD"]),
        ("--listen", [NOWHERE, "9000", "unix:relative", "unix:/dev/null/x", "TAKEN"]),
        ("--admin", [NOWHERE, "9902", ":1", "a b:1", "TAKEN", "no.such.host.invalid:1"]),
        ("--records", [UNDER_A_FILE, "GOOD"]),
    ]),
    ("validate", {}, [("registries", [ABSENT, "DIR"]), ("--encoder-dir", [])]),
    ("explain", {"--registry": "GOOD", "text": "hi"}, [
        ("--registry", [ABSENT, "DIR"]), ("--encoder-dir", [ABSENT, "GOOD"]),
    ]),
    ("envoy-config", {"--registry": "GOOD"}, [
        ("--registry", [ABSENT, "DIR"]), ("--output", [ABSENT, "DIR", UNDER_A_FILE]),
    ]),
    ("envoy-config", {"--registry": "GOOD", "--xds": "DIR"}, [
        ("--xds", [UNDER_A_FILE, "GOOD"]), ("--listen", [NOWHERE, "x"]), ("--admin", [NOWHERE, "x"]),
        ("--sidecar", [NOWHERE, "x"]),
    ]),
    ("train", {"--registry": "GOOD", "--data": "ROWS", "--out": "DIR"}, [
        ("--registry", [ABSENT, "DIR"]), ("--encoder-dir", [ABSENT]), ("--data", [ABSENT, "DIR"]),
        ("--outcomes", [ABSENT, "DIR"]), ("--store", [ABSENT, "DIR", "ftp://x"]), ("--out", [UNDER_A_FILE, "GOOD"]),
    ]),
    ("eval", {"--registry": "GOOD", "--data": "ROWS"}, [
        ("--registry", [ABSENT, "DIR"]), ("--encoder-dir", [ABSENT]), ("--artefact", [ABSENT, "DIR"]),
        ("--data", [ABSENT, "DIR"]), ("--outcomes", [ABSENT, "DIR"]), ("--store", [ABSENT, "DIR", "ftp://x"]),
        ("--html", [ABSENT, "DIR", UNDER_A_FILE]), ("--rows", [ABSENT, "DIR", UNDER_A_FILE]),
        ("--llm", [NOWHERE, "ftp://h", "http://h:x", "http://h/?a=b", "http://127.0.0.1:1"]),
    ]),
    ("eval", {"--registry": "LLM", "--data": "ROWS"}, [("--llm", ["http://127.0.0.1:1"])]),
    ("eval", {"--registry": "GOOD"}, [("--routerarena", [ABSENT, "DIR", "ROWS"]), ("--safety", [ABSENT, "DIR"])]),
    ("train", {"--registry": "GOOD", "--out": "DIR"}, [("--safety", [ABSENT, "DIR", "ROWS"])]),
    ("diff", {"old": "GOOD", "new": "GOOD", "--data": "ROWS"}, [
        ("old", [ABSENT]), ("new", [ABSENT]), ("--encoder-dir", [ABSENT]), ("--data", [ABSENT, "DIR"]),
    ]),
    ("holdout sample", {"records": "ROWS", "--output": "DIR/new"}, [
        ("records", [ABSENT, "DIR"]), ("--output", [ABSENT, "DIR", UNDER_A_FILE]),
    ]),
    ("holdout label", {"--registry": "GOOD", "file": "ROWS"}, [
        ("--registry", [ABSENT]), ("file", [ABSENT, "DIR"]),
    ]),
    ("report", {}, [
        ("segments", [ABSENT, "DIR"]), ("--store", [ABSENT, "DIR", "GOOD", "ftp://x", "clickhouse://127.0.0.1:1/d"]),
    ]),
    ("report", {"segments": "ROWS"}, [("--registry", [ABSENT]), ("--html", [ABSENT, "DIR", UNDER_A_FILE])]),
    ("records import", {"segments": "ROWS", "--store": "DIR/s"}, [
        ("segments", [ABSENT, "DIR"]), ("--registry", [ABSENT]), ("--store", ["ftp://x", UNDER_A_FILE, "GOOD"]),
    ]),
    ("records check", {"--admin": "127.0.0.1:1"}, [
        ("segments", [ABSENT]), ("--registry", []), ("--store", [ABSENT]), ("--admin", [NOWHERE, "x", "127.0.0.1:1"]),
    ]),
    ("feedback import", {"file": "ROWS", "--store": "DIR/s"}, [
        ("file", [ABSENT, "DIR"]), ("--store", ["ftp://x", UNDER_A_FILE]),
    ]),
    ("gate fit", {"--registry": "GOOD", "--data": "ROWS", "--out": "DIR/g", "--small": "a", "--large": "b"}, [
        ("--registry", [ABSENT]), ("--data", [ABSENT, "DIR"]), ("--out", []),
    ]),
    ("gate eval", {"--registry": "GOOD", "--data": "ROWS", "--artefact": "DIR"}, [
        ("--registry", [ABSENT]), ("--data", [ABSENT]), ("--artefact", [ABSENT, "DIR", "GOOD"]),
    ]),
    ("model fetch", {}, [("--dir", [UNDER_A_FILE, "GOOD"])]),
]  # fmt: skip
CASES = [
    pytest.param(command, {**needs, option: value}, id=f"{command} {option} {value}")
    for command, needs, options in TABLE
    for option, values in options
    for value in values
]


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(("command", "options"), CASES)
def test_a_bad_path_or_address_is_one_line(
    command: str, options: dict[str, str], tmp_path: Path, taken: str,
    capsys: pytest.CaptureFixture[str], encoder_files: EncoderFiles,
) -> None:  # fmt: skip
    (tmp_path / "r.yaml").write_text(REGISTRY)
    (tmp_path / "llm.yaml").write_text(f"{REGISTRY}llm: {{model: a}}\nthresholds: {{similarity: 1}}\n")
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "empty").mkdir()
    stands_for = {
        "GOOD": tmp_path / "r.yaml",
        "LLM": tmp_path / "llm.yaml",
        "ROWS": tmp_path / "rows.jsonl",
        "DIR": tmp_path / "empty",
        "TAKEN": taken,
    }
    arguments = command.split()
    for name, value in options.items():
        first, slash, rest = value.partition("/")
        arguments += [
            *([name] if name.startswith("-") else []),
            f"{stands_for.get(first, first)}{slash}{rest}",
        ]
    try:
        status = main(arguments)
    except SystemExit as ended:  # argparse's own
        status = int(str(ended.code))
    printed = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]  # the log's
    assert status in (1, 2), printed
    assert printed[-1].startswith("extproc"), printed
    assert "Traceback" not in "\n".join(printed)
    assert [line for line in printed if line.startswith("extproc")] == printed[-1:]


def test_the_table_has_every_option_that_takes_a_path_or_an_address() -> None:
    tried = {(command, option) for command, _, options in TABLE for option, _ in options}
    assert {
        (command, name)
        for command, parser in leaves(command_line(), "")
        for action in parser._actions
        if action.type in (Path,) or (action.metavar or "") in METAVARS
        for name in [next((o for o in action.option_strings if o.startswith("--")), action.dest)]
    } <= tried


METAVARS = ("ADDRESS", "HOST:PORT", "URL", "DIR", "FILE", "PATH | clickhouse://HOST:8123/DATABASE")


def leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parser."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, child in action.choices.items():
            yield from leaves(child, f"{name} {word}".strip())


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["serve", "--registy", "r.yaml"], "extproc serve: error: unknown option --registy (did you mean --registry?)"),
        (["report", "--hmtl=x"], "extproc report: error: unknown option --hmtl (did you mean --html?)"),
        (["records", "import", "x", "--stor3", "y"], "unknown option --stor3 (did you mean --store?)"),
        (["validate", "x", "--xyz"], "unknown option --xyz (expected one of: --encoder-dir, --help)"),
        (["explain"], "the following arguments are required: --registry, TEXT"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_named_before_one_that_is_missing(
    arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert printed in capsys.readouterr().err


def test_reading_a_store_that_is_not_there_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--store", str(tmp_path / "stroe")]) == 1
    assert capsys.readouterr().err == (
        f"extproc: --store: there is no store at {tmp_path / 'stroe'} "
        "(expected a directory that `extproc records import` made)\n"
    )
    assert not (tmp_path / "stroe").exists()
