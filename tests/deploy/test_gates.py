"""The gates that operators copy, run in a repository such as theirs."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
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
    examples_file: examples/cooking.txt
thresholds: {margin: 0.1, similarity: 0.2}
"""


@pytest.fixture(autouse=True)
def _needs_the_encoder(encoder_files: object) -> None:
    """Fails with what to do when it is absent."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A registry with a holdout and examples of its own, committed."""
    repository = tmp_path / "operators"
    (repository / "examples").mkdir(parents=True)
    (repository / "registry.yaml").write_text(REGISTRY)
    (repository / "examples" / "cooking.txt").write_text(
        "A recipe for tomato soup\nHow long to boil an egg\n"
    )
    (repository / "holdout.jsonl").write_text(
        '{"text": "my python class raises an error", "route": "code"}\n'
        '{"text": "how do I roast a chicken?", "route": "cooking"}\n'
    )
    for command in (
        "git init -q .",
        "git add .",
        "git -c user.name=a -c user.email=a@b commit -q -m first",
    ):
        subprocess.run(shlex.split(command), cwd=repository, check=True)
    return repository


def run(script: str, repository: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a shell would run it there, with this project's command first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=repository,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def spoil(repository: Path) -> None:
    registry = repository / "registry.yaml"
    registry.write_text(REGISTRY.replace("similarity: 0.2", "similarity: 0.95"))


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def steps_of_workflow() -> dict[str | None, Any]:
    steps = loaded("github-actions-gate.yaml")["jobs"]["gate"]["steps"]
    return {step.get("name"): step for step in steps}


def test_the_workflow_installs_the_router_from_its_source(
    repository: Path, checkout: Path, tmp_path: Path
) -> None:
    """The source is a checkout. Its dependencies are left out: they would need a package index."""
    install = steps_of_workflow()["install"]
    offline = {
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one the wrong way round: 0 is no isolation
        "PIP_TARGET": str(tmp_path / "site"),
    }
    done = run(install["run"], repository, **offline, EXTPROC_SOURCE=checkout.as_uri())
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "site").glob("envoy_semantic_router-*.dist-info"))


def test_the_workflow_says_what_to_set_where_it_has_no_source(repository: Path) -> None:
    install = steps_of_workflow()["install"]
    done = run(install["run"], repository, EXTPROC_SOURCE="")
    assert done.returncode != 0
    assert "EXTPROC_SOURCE: is not set" in done.stderr


def test_the_workflow_passes_a_good_change_and_stops_a_bad_one(repository: Path, tmp_path: Path) -> None:
    steps = steps_of_workflow()
    summary = tmp_path / "summary.md"
    base = run("git rev-parse HEAD", repository).stdout.strip()
    for spoiled, status, verdict in ((False, 0, "passed"), (True, 1, "failed")):
        if spoiled:
            spoil(repository)
        assert run(steps["validate"]["run"], repository).returncode == 0
        done = run(steps["compare"]["run"], repository, BASE=base, GITHUB_STEP_SUMMARY=str(summary))
        assert (done.returncode, done.stderr) == (status, "")
        assert f"### Routing gate: {verdict}" in summary.read_text()


def test_the_hook_passes_a_good_change_and_stops_a_bad_one(repository: Path) -> None:
    (hook,) = loaded("pre-commit-gate.yaml")["repos"][0]["hooks"]
    assert run(hook["entry"], repository).returncode == 0
    spoil(repository)
    done = run(hook["entry"], repository)
    assert done.returncode == 1
    assert "**recall:code** is worse by 1.000" in done.stdout


def test_the_hook_runs_the_command_that_the_environment_names(repository: Path, tmp_path: Path) -> None:
    (hook,) = loaded("pre-commit-gate.yaml")["repos"][0]["hooks"]
    assert (hook["language"], "additional_dependencies" in hook) == ("system", False)
    done = run(hook["entry"], repository, PATH=os.environ["PATH"], EXTPROC=str(tmp_path / "other/extproc"))
    assert f"{tmp_path}/other/extproc: No such file" in done.stderr


def test_the_hook_leaves_no_copy_behind(repository: Path, tmp_path: Path) -> None:
    (hook,) = loaded("pre-commit-gate.yaml")["repos"][0]["hooks"]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run(hook["entry"], repository, TMPDIR=str(temporary))
    assert list(temporary.glob("tmp.*")) == []
