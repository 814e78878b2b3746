"""Client libraries against the demo, each in its own script: `make test-clients`.

Not named test_*.py: `make test` leaves it out, since it needs the environment that only its target makes.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_demo import running_demo

HERE = Path(__file__).parent
ENVIRONMENT = Path(os.environ.get("CLIENTS_ENVIRONMENT", HERE.parents[1] / ".cache/clients"))
NPM = ENVIRONMENT / "npm"  # has node_modules


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_demo(tmp_path_factory.mktemp("checkout")) as port:
        yield f"http://127.0.0.1:{port}"


def run(command: list[str], url: str) -> None:
    """The script must succeed. It may warn."""
    done = subprocess.run(
        command,
        env={**os.environ, "ROUTER_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", sorted(HERE.glob("with_*.py")), ids=lambda path: path.stem)
def test_a_python_client_gets_what_it_asks_for(script: Path, url: str) -> None:
    run([str(ENVIRONMENT / "bin/python"), str(script)], url)


@pytest.mark.parametrize("name", ["openai.mjs", "anthropic.mjs", "ai-sdk.mjs"])
def test_an_npm_client_gets_what_it_asks_for(name: str, url: str) -> None:
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, NPM)  # Node looks for packages beside the script
    run([str(ENVIRONMENT / "bin/node"), str(NPM / name)], url)
