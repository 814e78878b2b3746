"""A value that is split over parts is read whole, whatever stands around it."""

import pytest

from extproc.safety.part_joins import readings_of

VALUE = "4111111111111111"


@pytest.mark.parametrize("before", [[], ["x"], ["word", "7"], ["x" * 1000]])
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_a_split_value_begins_some_reading(before: list[str], size: int) -> None:
    pieces = [VALUE[start : start + size] for start in range(0, len(VALUE), size)]
    assert any(text.startswith(VALUE) for text in readings_of([*before, *pieces, " and more"]))


def test_one_part_is_read_once() -> None:
    assert list(readings_of(("hello",))) == ["hello"]


def test_the_work_is_linear_in_the_size_of_the_parts() -> None:
    parts = ["x" * 10_000] * 100
    assert sum(map(len, readings_of(parts))) < 2 * sum(map(len, parts))
