"""How many calls a budget allows, by a clock of the test's own."""

import pytest

from extproc.egress.call_budget import TokenBucket


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
