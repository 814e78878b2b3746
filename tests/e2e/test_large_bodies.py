"""Large bodies together: no deny rule is gone round, and everyone else is served meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.e2e.conftest import Answer, World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024
CARD = "4111 1111 1111 1111"
DENIED = chat(f"My card is {CARD}.")
ALLOWED = chat("go on", tools=[{"type": "function", "function": {"name": "browser_open"}}])  # by a rule
LARGE = "Lorem ipsum dolor sit amet. " * (int(14.6 * MIB) // 28)


def usual(tree: dict[str, Any]) -> None:
    """The budget of most registries. Envoy waits for a body as long as the largest may take.

    The largest is so large that the test holds on a machine that is much slower or busier.
    """
    tree["decision_ms"] = 200
    tree["envoy"] = {"max_body_bytes": 256 * MIB}


def without_deny_rules(tree: dict[str, Any]) -> None:
    usual(tree)
    tree["rules"] = [rule for rule in tree["rules"] if "deny" not in rule]


@asynccontextmanager
async def world_with(folder: Path, change: Callable[[Any], None]) -> AsyncIterator[World]:
    async for world in world_in(folder, change=change):
        yield world


async def again_and_again(over: asyncio.Event, ask: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What comes of asking until it is ``over``, once at least."""
    answers = [await ask()]
    while not over.is_set():
        answers.append(await ask())
    return answers


async def together(world: World, body: bytes, count: int) -> tuple[list[Answer], list[list[Any]]]:
    """The answers to ``count`` large bodies; beside them small denied and allowed ones, and health checks."""
    over = asyncio.Event()
    async with grpc.aio.insecure_channel(f"unix:{world.stack.run_dir}/sidecar.sock") as channel:
        check = HealthStub(channel).Check
        beside = [
            asyncio.create_task(again_and_again(over, ask))
            for ask in (
                lambda: world.post(DENIED),
                lambda: world.post(ALLOWED),
                lambda: check(HealthCheckRequest()),
            )
        ]
        large = await asyncio.gather(*(world.post(body) for _ in range(count)))
        over.set()
        return large, await asyncio.gather(*beside)


def by_rule(answers: list[Answer]) -> bool:
    return {(each.status, each.headers.get("x-router-reason")) for each in answers} == {(200, "rule")}


async def test_large_bodies_do_not_switch_deny_rules_off_for_anybody(tmp_path: Path) -> None:
    async with world_with(tmp_path, usual) as world:
        body = msgspec.json.encode(chat(f"{LARGE} {CARD}"))
        for count in (4, 16):
            world.forget()
            large, (denied, allowed, health) = await together(world, body, count)
            assert {answer.status for answer in large} <= {400, 503}
            assert {answer.status for answer in denied} == {400}
            assert by_rule(allowed)
            assert {answer.status for answer in health} == {HealthCheckResponse.SERVING}
            sent = [request.body for requests in world.received().values() for request in requests]
            assert len(sent) == len(allowed)
            assert not [body for body in sent if CARD.encode() in body]


async def test_without_deny_rules_large_bodies_are_decided_or_go_to_the_default(tmp_path: Path) -> None:
    async with world_with(tmp_path, without_deny_rules) as world:
        large, (_, allowed, health) = await together(world, msgspec.json.encode(chat(LARGE)), 8)
        assert {answer.status for answer in large} == {200}
        assert all("x-router-reason" in answer.headers for answer in large)  # none by a time-out
        assert by_rule(allowed)
        assert {answer.status for answer in health} == {HealthCheckResponse.SERVING}
