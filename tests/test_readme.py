"""README's commands, run as they are printed by a shell that knows nothing of this project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [block for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)]
EXTPROC = ".venv/bin/extproc"  # where `make setup` puts it


def command_with_output(command: str) -> tuple[str, str]:
    """The command of README that starts with ``command``, and what README says that it prints."""
    [block] = [block for block in BLOCKS if block.startswith(f"$ {command}")]
    whole, output = re.findall(r"\A\$ ((?:[^\n]*\\\n)*[^\n]*)\n(.*)", block, re.DOTALL)[0]
    return whole, output


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


@pytest.mark.usefixtures("encoder_files")
def test_explain_prints_what_readme_shows() -> None:
    command, output = command_with_output(f"{EXTPROC} explain")
    done = shell(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert labels(done.stdout) == labels(output)
    assert done.stdout.splitlines()[:3] == output.splitlines()[:3]


def test_commands_on_files_of_the_checkout_name_the_command_of_the_checkout() -> None:
    lines = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines()]
    on_its_files = [line for line in lines if re.match(r"(\S*/)?extproc .* (\.run|config)/", line)]
    assert on_its_files
    assert [line for line in on_its_files if not line.startswith(f"{EXTPROC} ")] == []
