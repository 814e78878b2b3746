"""Who may be read at once, who waits, and that nothing that was reserved is lost."""

import asyncio

import pytest

from extproc.offloading import LARGE_BODY
from extproc.wire.body_admission import Admission, AdmissionLimits, Reservation

MIB = 1024 * 1024
FOR_EVER_S = 60.0  # only ever reached by what hangs
LIMITS = AdmissionLimits(bytes_in_flight=16 * MIB, largest_body=6 * MIB, wait_s=FOR_EVER_S)


def seats(admission: Admission, count: int) -> list[Reservation]:
    return [Reservation(admission) for _ in range(count)]


async def waiting(admission: Admission, count: int) -> None:
    """Until so many wait."""
    async with asyncio.timeout(FOR_EVER_S):
        while admission.waiting != count:
            await asyncio.sleep(0)


async def test_bodies_are_admitted_while_there_is_room_and_then_in_the_order_in_which_they_came() -> None:
    admission = Admission(LIMITS)
    first, second, third, fourth = seats(admission, 4)
    assert await first.take(6 * MIB)
    assert await second.take(6 * MIB)
    assert admission.bytes_in_flight == 12 * MIB
    large = asyncio.create_task(third.take(6 * MIB))
    await waiting(admission, 1)
    smaller = asyncio.create_task(fourth.take(MIB))
    await waiting(admission, 2)  # it would fit, were it its turn
    first.leave()
    assert await large
    assert admission.waiting == 1
    second.leave()
    assert await smaller
    assert admission.bytes_in_flight == 7 * MIB


async def test_a_small_body_never_waits_for_large_ones() -> None:
    admission = Admission(LIMITS)
    large, late, small = seats(admission, 3)
    assert await large.take(12 * MIB)
    task = asyncio.create_task(late.take(LARGE_BODY))
    await waiting(admission, 1)
    assert await small.take(LARGE_BODY - 1)
    assert admission.waiting == 1
    large.leave()
    assert await task


async def test_small_bodies_are_bounded_too() -> None:
    admission = Admission(AdmissionLimits(bytes_in_flight=8 * LARGE_BODY, wait_s=0.0))
    size = LARGE_BODY - 1
    taken = [await seat.take(size) for seat in seats(admission, 3)]
    assert taken == [True, True, False]


@pytest.mark.parametrize(("size", "reserved"), [(None, 6 * MIB), (40 * MIB, 12 * MIB)])
async def test_a_body_of_unknown_length_counts_as_the_largest_and_one_beyond_all_is_read_alone(
    size: int | None, reserved: int
) -> None:
    admission = Admission(LIMITS)
    assert await Reservation(admission).take(size)
    assert admission.bytes_in_flight == reserved


async def test_who_waits_in_vain_is_told_and_lets_those_behind_it_pass() -> None:
    admission = Admission(AdmissionLimits(bytes_in_flight=16 * MIB, wait_s=0.0))
    first, second, third = seats(admission, 3)
    assert await first.take(10 * MIB)
    assert not await second.take(6 * MIB)
    assert await third.take(2 * MIB)
    assert admission.waiting == 0
    assert admission.bytes_in_flight == 12 * MIB


async def test_a_client_that_leaves_while_it_waits_gives_up_its_place() -> None:
    admission = Admission(LIMITS)
    first, second, third = seats(admission, 3)
    assert await first.take(12 * MIB)
    left = asyncio.create_task(second.take(12 * MIB))
    await waiting(admission, 1)
    next_one = asyncio.create_task(third.take(MIB))
    await waiting(admission, 2)
    left.cancel()
    await waiting(admission, 1)
    first.leave()
    assert await next_one
    assert admission.bytes_in_flight == MIB


async def test_a_client_that_leaves_in_the_moment_it_is_admitted_gives_back_what_it_got() -> None:
    admission = Admission(LIMITS)
    first, second = seats(admission, 2)
    assert await first.take(12 * MIB)
    left = asyncio.create_task(second.take(12 * MIB))
    await waiting(admission, 1)
    first.leave()
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert admission.bytes_in_flight == 0


async def test_an_exchange_gives_back_what_it_reserved_once() -> None:
    admission = Admission(LIMITS)
    with Reservation(admission) as seat:
        assert await seat.take(MIB)
        seat.leave()
        assert admission.bytes_in_flight == 0
    assert admission.bytes_in_flight == 0
