"""A call of a gate: whom it names, what it may cost, and that it always comes to an end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from extproc.egress.model_calls import Egress, TokenBucket
from extproc.gate.consultation import Consultation, ConsultationResult, FailureReason
from tests.egress.serving import served

WANTED = Consultation(
    model="large",
    path="/v1/chat/completions",
    headers={"x-request-id": "r"},
    body=b"{}",
    deadline_s=60.0,
    budget_key="g",
)


@asynccontextmanager
async def envoy(path: Path, status: str = "200 OK", body: bytes = b"[]") -> AsyncIterator[list[bytes]]:
    """What it was sent."""
    got: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async with served(handle, f"unix:{path}"):
        yield got


def egress(path: Path, clock: float = 0.0) -> Egress:
    return Egress(f"unix:{path}", lambda: clock, answer_limit=4)


async def test_the_call_names_its_model_to_envoy_and_belongs_to_the_request(tmp_path: Path) -> None:
    async with envoy(tmp_path / "e") as got:
        assert await egress(tmp_path / "e").ask(WANTED, None) == ConsultationResult(200, b"[]")
    (head,) = got
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nx-router-egress: large\r\n" in head
    assert b"\r\nx-request-id: r\r\n" in head


@pytest.mark.parametrize(("status", "body"), [("503 No", b"[]"), ("204 No", b""), ("200 OK", b"[1,2]")])
async def test_what_fails_or_is_too_large_is_no_advice(tmp_path: Path, status: str, body: bytes) -> None:
    async with envoy(tmp_path / "e", status, body):
        assert await egress(tmp_path / "e").ask(WANTED, None) == ConsultationResult(
            failure=FailureReason.FAILED
        )


async def test_where_no_envoy_listens_there_is_none(tmp_path: Path) -> None:
    assert await egress(tmp_path / "e").ask(WANTED, None) == ConsultationResult(failure=FailureReason.FAILED)


@pytest.mark.parametrize(("deadline_s", "within_s"), [(0.01, None), (60.0, 0.01), (60.0, -1.0)])
async def test_it_waits_no_longer_than_both_of_its_times(
    tmp_path: Path, deadline_s: float, within_s: float | None
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:  # it takes connections, and nothing more
        silent.bind(str(tmp_path / "e"))
        silent.listen()
        advice = await egress(tmp_path / "e").ask(replace(WANTED, deadline_s=deadline_s), within_s)
    assert advice == ConsultationResult(failure=FailureReason.TIMEOUT)


async def test_each_gate_has_its_own_budget(tmp_path: Path) -> None:
    asking = egress(tmp_path / "e")
    async with envoy(tmp_path / "e") as got:
        budget_keys = ["a", "a", "b"]
        told = [
            await asking.ask(replace(WANTED, budget_key=budget_key, per_second=0.5), None)
            for budget_key in budget_keys
        ]
    assert told == [
        ConsultationResult(200, b"[]"),
        ConsultationResult(failure=FailureReason.BUDGET),
        ConsultationResult(200, b"[]"),
    ]
    assert len(got) == 2


def taken(bucket: TokenBucket, per_second: float, *times: float) -> list[bool]:
    return [bucket.take(per_second, now) for now in times]


def test_a_second_of_calls_at_once_and_then_as_time_goes_by() -> None:
    assert taken(TokenBucket(2.0, 10.0), 2.0, 10.0, 10.0, 10.0, 10.5, 10.5) == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_less_than_one_a_second_is_one_in_a_while() -> None:
    assert taken(TokenBucket(0.25, 0.0), 0.25, 0.0, 3.75, 4.0, 4.0) == [True, False, True, False]


def test_time_without_calls_saves_no_more_than_a_second_of_them() -> None:
    assert taken(TokenBucket(1.0, 0.0), 1.0, 100.0, 100.0) == [True, False]


@pytest.mark.parametrize(("later", "allowed"), [(4.0, [True, True]), (1.0, [True, False])])
def test_a_registrys_next_version_may_allow_other_amounts(later: float, allowed: list[bool]) -> None:
    bucket = TokenBucket(1.0, 0.0)
    assert taken(bucket, 1.0, 0.0) == [True]
    assert taken(bucket, later, 1.0, 1.0) == allowed
