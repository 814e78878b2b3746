"""The harness itself against the real Envoy and sidecar: starts, fails and stops as it promises."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from extproc.demo.child_processes import Process
from extproc.demo.demo_stack import Stack, running_stack
from extproc.demo.model_pool import Behaviour, FakeModel, Pool
from extproc.errors import OperatorError, ProcessFailed, RegistryError
from extproc.telemetry.segments import segment_paths

HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[FakeModel]:
    async with Pool({"only": FakeModel("only-7b", key="key-only")}) as pool:
        yield pool["only"]


def write_registry(folder: Path, model: FakeModel) -> Path:
    """One model and no routes: nothing that the harness does depends on how requests are decided."""
    (folder / "key").write_text(model.key)
    path = folder / "registry.yaml"
    path.write_text(
        f"models:\n  only: {{base_url: '{model.url}', name: {model.name}, auth: {{file: key}}}}\ndefault: only\n"
    )
    return path


@pytest.fixture
def registry(tmp_path: Path, model: FakeModel) -> Path:
    return write_registry(tmp_path, model)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, model: FakeModel) -> AsyncIterator[Stack]:
    """For tests that leave it running."""
    folder = tmp_path_factory.mktemp("shared")
    async with running_stack(write_registry(folder, model), folder / "run") as stack:
        yield stack


class Left(NamedTuple):
    """A stack that was left while an answer was in flight, and what came of that answer."""

    stack: Stack
    answer: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def left(tmp_path_factory: pytest.TempPathFactory, model: FakeModel) -> Left:
    folder = tmp_path_factory.mktemp("left")
    (folder / "run").mkdir()
    (folder / "run/envoy.log").write_text("yesterday\n")
    async with aiohttp.ClientSession() as client:
        async with running_stack(write_registry(folder, model), folder / "run") as stack:
            await ask(stack)
            model.behaviour = Behaviour(early_headers=True, delay_before_body_s=0.5)
            answer = await client.post(f"{stack.url}/v1/chat/completions", json=HELLO)  # its headers
            model.behaviour = Behaviour()
        return Left(stack, await answer.json())


async def ask(stack: Stack) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{stack.url}/v1/chat/completions", json=HELLO) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_a_stack_answers_once_it_is_there(stack: Stack, model: FakeModel) -> None:
    assert (await ask(stack))["model"] == "only-7b"
    assert model.journal[-1].key == "key-only"


async def test_a_killed_sidecar_can_be_started_again(stack: Stack) -> None:
    first = stack.sidecar.pid
    assert await stack.stop_sidecar(signal.SIGKILL) == -signal.SIGKILL
    await stack.start_sidecar()
    assert stack.sidecar.pid != first
    assert (await ask(stack))["model"] == "only-7b"


async def test_a_sidecar_stops_cleanly_when_asked(stack: Stack) -> None:
    assert await stack.stop_sidecar() == 0
    await stack.start_sidecar()


async def test_a_sidecar_that_ends_by_itself_is_named_with_its_log(stack: Stack) -> None:
    await failure_is_named(stack, "sidecar", stack.sidecar)
    await stack.start_sidecar()


async def test_an_envoy_that_ends_by_itself_is_named_with_its_log(registry: Path, tmp_path: Path) -> None:
    async with running_stack(registry, tmp_path / "run") as stack:
        await failure_is_named(stack, "envoy", stack.envoy)


async def failure_is_named(stack: Stack, name: str, process: Process) -> None:
    failed = asyncio.create_task(stack.failed())
    process.send_signal(signal.SIGKILL)
    with pytest.raises(ProcessFailed, match=rf"{name} \(pid {process.pid}, log .*{name}\.log\) .* SIGKILL"):
        await failed


async def test_leaving_ends_both_processes_and_keeps_their_logs(left: Left) -> None:
    assert (left.stack.envoy.returncode, left.stack.sidecar.returncode) == (0, 0)
    assert left.stack.envoy_log.stat().st_size > 0
    assert left.stack.sidecar_log.stat().st_size > 0


async def test_an_answer_in_flight_is_finished_before_envoy_stops(left: Left) -> None:
    assert left.answer["model"] == "only-7b"


async def test_the_record_of_the_last_exchange_arrives_before_envoy_stops(left: Left) -> None:
    (segment,) = segment_paths(left.stack.records)
    assert len(segment.read_text().splitlines()) == 2


async def test_an_old_log_is_not_mixed_with_a_new_one(left: Left) -> None:
    assert "yesterday" not in left.stack.envoy_log.read_text()


async def test_a_registry_that_cannot_be_used_is_refused_and_leaves_nothing(
    registry: Path, tmp_path: Path
) -> None:
    with registry.open("a") as file:
        file.write("defualt: only\n")
    with pytest.raises(RegistryError, match="defualt"):
        async with running_stack(registry, tmp_path / "run"):
            pytest.fail("it started")


async def test_a_run_directory_in_use_is_refused(stack: Stack, registry: Path) -> None:
    with pytest.raises(OperatorError, match="is in use by another run"):
        async with running_stack(registry, stack.run_dir):
            pytest.fail("it started")
    assert (await ask(stack))["model"] == "only-7b"


async def test_a_run_directory_too_deep_for_a_unix_socket_is_refused(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="too long for a unix socket"):
        async with running_stack(registry, tmp_path / ("deep" * 30)):
            pytest.fail("it started")
