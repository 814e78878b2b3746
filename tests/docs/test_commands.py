"""Commands of the documentation: they exist, those on a registry run, and they print what the pages show."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.cli import command_line, main
from tests.docs.pages import ROOT, Block, blocks, command_lines

EXTPROC = ".venv/bin/extproc"  # where `make setup` puts it
COMMANDS = [
    pytest.param(line, id=f"{block}: {line[:60]}")
    for block in blocks("sh", "console")
    for line in command_lines(block)
]
ON_A_REGISTRY = ("schema", "validate", "explain", "envoy-config")  # those that need nothing else
OTHER_PROGRAMS = ("curl", "envoy", "grep", "pip")  # `tests/e2e/test_documented_requests.py` runs the requests


def extproc_arguments(line: str) -> list[str]:
    """The arguments of a line that runs extproc, without redirections; none of another line."""
    program, *arguments = shlex.split(line.partition(" > ")[0])
    return arguments if program.endswith("extproc") else []


def shell(command: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``command`` as a new user's shell runs it: the environment has nothing but PATH and HOME."""
    return subprocess.run(
        ["bash", "-c", command.replace(EXTPROC, f"{Path(sys.executable).parent}/extproc")],
        cwd=directory,
        env={"PATH": os.defpath, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def labels(output: str) -> list[str]:
    """The first words of each line that are no numbers: what the lines are about."""
    return [re.split(r"\s{2,}", line)[0] for line in output.splitlines() if re.match("[a-z]", line)]


def shown(command: str) -> list[Block]:
    """The blocks that show this command with what it prints."""
    return [block for block in blocks("console") if block.text.startswith(f"$ {command}")]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists_with_its_options(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # options that name files to write look for the directory
    program, *arguments = shlex.split(line)
    if program.endswith("extproc"):
        command_line().parse_args(extproc_arguments(line))
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "python" or program.endswith("/python"):
        assert (ROOT / arguments[0]).is_file()
    else:
        assert program in OTHER_PROGRAMS
        files = [text for text in arguments if text.startswith("deploy/")]
        assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.usefixtures("encoder_files")
@pytest.mark.parametrize(
    "line",
    [
        param
        for param in COMMANDS
        if (extproc_arguments(str(param.values[0])) or [""])[0] in ON_A_REGISTRY
        and not str(param.values[0]).endswith("--watch")
    ],
)
def test_a_command_on_a_registry_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("the-key-of-the-provider\n")
    minimal = (ROOT / "config" / "minimal.yaml").read_text()
    (tmp_path / "registry.yaml").write_text(minimal.replace("/etc/router/keys/large", "key"))
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    arguments = [text.replace("/run/router", str(tmp_path)) for text in extproc_arguments(line)]
    assert main(arguments) == 0


@pytest.mark.usefixtures("encoder_files")
@pytest.mark.parametrize("block", shown(f"{EXTPROC} explain"), ids=str)
def test_explain_prints_what_the_page_shows(block: Block) -> None:
    [command] = command_lines(block)
    output = block.text.partition("\n")[2]
    done = shell(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert labels(done.stdout) == labels(output)
    assert done.stdout.splitlines()[:3] == output.splitlines()[:3]


@pytest.mark.parametrize("block", shown("extproc validate"), ids=str)
def test_validate_prints_what_the_page_shows(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    minimal = (ROOT / "config" / "minimal.yaml").read_text()
    (tmp_path / "registry.yaml").write_text(minimal.replace("{regex:", "{regexp:"))
    [line] = command_lines(block)
    assert main(extproc_arguments(line)) == 1
    output = block.text.partition("\n")[2].removesuffix("...)\n")
    assert capsys.readouterr().err.startswith(output)


def test_commands_on_files_of_the_checkout_name_the_command_of_the_checkout() -> None:
    lines = [line for block in blocks("sh", "console") for line in command_lines(block)]
    on_its_files = [line for line in lines if re.match(r"(\S*/)?extproc .* (\.run|config)/", line)]
    assert on_its_files
    assert [line for line in on_its_files if not line.startswith(f"{EXTPROC} ")] == []


def test_every_command_is_in_a_block_that_is_tested() -> None:
    command = re.compile(r"^(\$ )?(\S*/)?(extproc|make|curl) ", re.MULTILINE)
    unmarked = [block for block in blocks("") if command.search(block.text)]
    assert [str(block) for block in unmarked] == []
