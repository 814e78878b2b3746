"""The requests of the documentation, sent by curl to a real Envoy as they are printed."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, command_lines
from tests.e2e.conftest import FEEDBACK_TOKEN, World

REQUESTS = [block for block in blocks("console") if block.text.startswith("$ curl ")]

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def curl(world: World, command: str, folder: Path) -> str:
    """What the command prints when its addresses and its token are those of this world."""
    (folder / "token").write_text(FEEDBACK_TOKEN)
    for printed, actual in (
        ("http://127.0.0.1:10000", world.stack.url),
        ("127.0.0.1:9902", f"127.0.0.1:{world.stack.ports.sidecar_admin}"),
        (".run/keys/feedback", str(folder / "token")),
    ):
        command = command.replace(printed, actual)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command.replace("curl ", "curl -sS --max-time 60 ", 1), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


def names(output: str) -> set[str]:
    """The header names, JSON keys and metrics that an output has."""
    return set(re.findall(r'^([a-z-]+):|"(\w+)":|^(router_\w+)', output, re.MULTILINE | re.IGNORECASE))


@pytest.mark.parametrize("block", REQUESTS, ids=str)
async def test_a_request_gets_the_answer_that_the_page_shows(
    world: World, tmp_path: Path, block: Block
) -> None:
    await world.post({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]})
    [command] = command_lines(block)
    printed = block.text.replace("\\\n", "").partition("\n")[2]
    output = await curl(world, command, tmp_path)
    assert names(printed) <= names(output)
    if " -i " in command:
        assert output.split("\r\n")[0] == printed.splitlines()[0]


async def test_envoy_has_the_metrics_that_alerts_name(world: World) -> None:
    named = set(re.findall(r"\benvoy_[a-z_]+", (ROOT / "docs" / "operate.md").read_text())) - {"envoy_"}
    async with world.http.get(f"{world.stack.envoy_admin_url}/stats/prometheus") as answer:
        shown = set(re.findall(r"^envoy_\w+", await answer.text(), re.MULTILINE))
    assert named
    assert sorted(named - shown) == []
