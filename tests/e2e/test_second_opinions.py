"""A gate that asks another model for a second answer, from the registry to the record."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from extproc.demo.model_pool import Behaviour
from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The fake models repeat the prompt after their name: they end on the same answer, or on the number in their name.
AGREED = "implement quicksort in python, the answer is 10 lines"
DISPUTED = "implement quicksort in python"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("second")

    def cascading(registry: Any) -> None:
        registry["gates"] = {"agreed": {"finish": True, "second": {"model": "mid", "deadline_s": 30}}}
        tiers = [{"model": "code", "gate": "agreed", "stream": "hold"}, {"model": "large"}]
        registry["cascades"] = {"frugal": {"tiers": tiers}}
        registry["routes"]["code"] = {
            "cascade": "frugal",
            "candidates": ["code"],
            "examples": registry["routes"]["code"]["examples"],
        }
        registry["envoy"] = {**registry.get("envoy", {}), "egress": f"unix:{folder}/e"}

    async for world in world_in(folder, change=cascading):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


@pytest.mark.parametrize(
    ("text", "by", "verdict"), [(AGREED, "code", "accept"), (DISPUTED, "large", "escalate")]
)
async def test_two_models_that_agree_are_enough_and_both_are_paid(
    world: World, text: str, by: str, verdict: str
) -> None:
    answer = await world.post(chat(text))
    assert answer.headers["x-router-served-by"] == by
    (asked,) = world.pool["mid"].journal
    assert (asked.key, asked.model) == (world.pool["mid"].key, "demo-mid-70b")
    (record,) = await world.records([answer.headers["x-request-id"]])
    attempts = [row for row in world.rows("attempt") if row["request_id"] == record["request_id"]]
    first = attempts[0]
    assert (first["verdict"], first["second_model"], first["second_outcome"]) == (verdict, "mid", "answered")
    assert first["second_cost_usd"] > 0
    assert record["output_tokens"] == first["second_output_tokens"] + sum(
        row["output_tokens"] for row in attempts
    )
    costs = [first["second_cost_usd"], *(row["cost_usd"] for row in attempts)]
    assert record["cost_usd"] == pytest.approx(sum(costs))


async def test_without_the_second_model_the_first_ones_answer_is_kept(world: World) -> None:
    world.pool["mid"].behaviour = Behaviour(status=503)
    answer = await world.post(chat(DISPUTED))
    assert answer.headers["x-router-served-by"] == "code"
    (record,) = await world.records([answer.headers["x-request-id"]])
    (attempt,) = (row for row in world.rows("attempt") if row["request_id"] == record["request_id"])
    assert (attempt["verdict"], attempt["second_outcome"], attempt["second_cost_usd"]) == (
        "accept",
        "failed",
        None,
    )
