"""README's commands, run as they are printed by a shell that knows nothing of this project."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anthropic
import msgspec
import openai
import pytest

from tests.running_demo import running_demo

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


class Demo(msgspec.Struct, frozen=True):
    """`make run` in a directory that has the checkout's config, with another port."""

    directory: Path
    port: int

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """The command of README with this demo's port."""
        return shell(self.here(command), self.directory)

    def here(self, text: str) -> str:
        """README's text with this demo's port."""
        return text.replace("127.0.0.1:10000", f"127.0.0.1:{self.port}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("checkout")
    with running_demo(directory) as port:
        yield Demo(directory, port)


def headers(answer: str) -> list[str]:
    """The status line and the names of an answer's headers."""
    status, *lines = answer.partition("\n\n")[0].splitlines()
    return [status.strip(), *sorted(line.partition(":")[0].lower() for line in lines)]


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


def test_the_first_request_is_answered_with_the_headers_that_readme_shows(demo: Demo) -> None:
    command, output = command_with_output("curl -i")
    done = demo.shell(f"{command} --silent --show-error")
    assert (done.returncode, done.stderr) == (0, "")
    shown, answered = headers(output), headers(done.stdout.replace("\r", ""))
    assert shown[0] == answered[0]
    assert set(shown) <= set(answered)


def test_the_clients_that_readme_makes_get_answers(demo: Demo) -> None:
    (block,) = [block for block in BLOCKS if block.startswith("openai.OpenAI(")]
    made = [eval(demo.here(line), {"openai": openai, "anthropic": anthropic}) for line in block.splitlines()]
    turns = [{"role": "user", "content": "Hello!"}]
    chat, messages = made[0].chat.completions, made[1].messages
    assert chat.create(model="auto", messages=turns).model == "demo-small-8b"
    assert messages.create(model="auto", messages=turns, max_tokens=99).model == "demo-small-8b"
    assert made[0].responses.create(model="auto", input="Hello!").model == "demo-small-8b"


def test_feedback_is_taken(demo: Demo) -> None:
    command, _ = command_with_output("curl http://127.0.0.1:10000/v1/router/feedback")
    done = demo.shell(f"{command} --silent --show-error")
    assert (done.returncode, done.stderr) == (0, "")
    assert msgspec.json.decode(done.stdout)["accepted"] is True


def test_the_reports_on_the_demos_records_work(demo: Demo) -> None:
    lines = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(EXTPROC) and ".run/" in line]
    assert len(commands) >= 3
    for command in commands:
        done = demo.shell(command)
        assert (done.returncode, done.stderr) == (0, ""), command
