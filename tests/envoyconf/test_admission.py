"""Large bodies wait for their turn in the sidecar, and what becomes of those that wait in vain."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from extproc.offloading import LARGE_BODY
from extproc.vocabulary import Terms
from extproc.wire.body_admission import Admission, AdmissionLimits
from tests.envoyconf.conftest import ASK, CHAT, DEADLINE_S, Answer, Launch, World

LARGE = ASK.replace(b"hi", b"x" * LARGE_BODY)
ONE_LARGE = LARGE_BODY * 3 // 2  # bytes in flight that admit one of these and small ones


async def crowded(launch: Launch, wait_s: float) -> tuple[World, asyncio.Task[Answer]]:
    """A sidecar that reads one large body at a time, and holds one already."""
    world = await launch(running=False)
    world.sidecar.admission = Admission(AdmissionLimits(bytes_in_flight=ONE_LARGE, wait_s=wait_s))
    await world.sidecar.start()
    await world.sidecar_used()
    world.sidecar.open.clear()
    held = asyncio.create_task(world.ask(LARGE))
    await world.sidecar.asked.get()
    return world, held


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    yield body[:10]
    yield body[10:]


async def test_a_large_body_waits_and_a_small_one_does_not_however_it_is_sent(launch: Launch) -> None:
    world, held = await crowded(launch, wait_s=DEADLINE_S)
    waits = asyncio.create_task(world.ask(LARGE))
    small = asyncio.create_task(world.ask(ASK))
    small_chunks = asyncio.create_task(world.ask(chunked(ASK)))
    async with asyncio.timeout(DEADLINE_S):
        await world.sidecar.asked.get()
        await world.sidecar.asked.get()
        while world.sidecar.admission.waiting != 1:
            await asyncio.sleep(0.005)
    world.sidecar.open.set()
    answers = await asyncio.gather(held, waits, small, small_chunks)
    assert {answer.by for answer in answers} == {"small"}


async def test_a_large_body_that_waits_in_vain_is_the_defaults_to_answer(launch: Launch) -> None:
    world, held = await crowded(launch, wait_s=0.0)
    answer = await world.ask(LARGE)
    assert (answer.status, answer.by) == (200, "large")
    assert world.only_request()[1].body == msgspec.json.encode(
        {"messages": [{"content": "x" * LARGE_BODY, "role": "user"}], "model": "large-400b"}
    )
    envelope = (await world.logged(answer.headers["x-request-id"])).envelope
    assert envelope is not None
    assert (envelope.stage, envelope.reason) == ("default", "bytes_in_flight")
    world.sidecar.open.set()
    await held


async def test_where_there_are_deny_rules_it_is_a_503_and_no_model_sees_it(launch: Launch) -> None:
    world, held = await crowded(launch, wait_s=0.0)
    world.sidecar.use(Terms(checks=True))
    answer = await world.ask(LARGE)
    assert answer.status == 503
    error = answer.json()["error"]
    assert error.pop("message")
    assert error == {"type": "server_error", "param": None, "code": "overloaded"}
    assert answer.headers["x-router-reason"] == "bytes_in_flight"
    assert not [request for provider in world.providers.values() for request in provider.received]
    world.sidecar.open.set()
    assert (await held).by == "small"


async def test_a_client_that_is_slow_to_upload_takes_no_room(launch: Launch) -> None:
    world, held = await crowded(launch, wait_s=DEADLINE_S)
    world.sidecar.open.set()
    await held
    async with world.connection() as (_, writer):
        head = f"POST {CHAT} HTTP/1.1\r\nhost: e\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(LARGE)}\r\n\r\n".encode() + LARGE[:1000])
        await writer.drain()
        async with asyncio.timeout(DEADLINE_S):
            while (await world.admin("/stats?filter=http.llm.downstream_rq_active")).endswith(" 0\n"):
                await asyncio.sleep(0.005)
            assert (await world.ask(LARGE)).by == "small"  # it would wait for the first
            while world.sidecar.admission.bytes_in_flight:
                await asyncio.sleep(0.005)
