import pytest

from extproc.lab.traffic.concerns import ENOUGH, TimeBucket, of_errors, of_quality, rate


def buckets(*shares: float, samples: int = 200) -> list[TimeBucket]:
    return [TimeBucket(number, share * samples, samples) for number, share in enumerate(shares)]


def test_a_share_carries_its_interval_and_whether_it_is_to_be_read() -> None:
    some = rate(27, 30)
    # Wilson's interval, as published tables have it.
    assert (some.low, some.high) == (pytest.approx(0.744, abs=0.001), pytest.approx(0.965, abs=0.001))
    assert (some.value, some.enough) == (0.9, True)
    assert not rate(27, ENOUGH - 1).enough
    assert rate(0, 0).value is None


def test_a_fall_is_found_with_where_it_began_and_how_bad_it_is_now() -> None:
    concerns = {c.kind: c for c in of_quality("judge", buckets(0.95, 0.95, 0.95, 0.6, 0.6))}
    fall = concerns["fall"]
    assert (fall.since, fall.before, fall.after) == (3, pytest.approx(0.95), pytest.approx(0.6))
    assert fall.severity == pytest.approx(0.4, abs=0.06)
    assert fall.severity > concerns["quality"].severity


def test_what_recovers_varies_or_gets_better_is_no_fall() -> None:
    for shares in ((0.9, 0.91, 0.89, 0.9), (0.6, 0.9, 0.95, 0.95), (0.9,)):
        assert [c.kind for c in of_quality("judge", buckets(*shares))] == ["quality"]


def test_too_few_samples_on_either_side_are_no_fall() -> None:
    assert list(of_quality("judge", [TimeBucket(0, 20, 20), TimeBucket(1, 0, 9)])) == []
    found = list(of_quality("judge", [TimeBucket(0, 200, 200), TimeBucket(1, 0, 9)]))
    assert [c.kind for c in found] == ["quality"]


def test_errors_that_rise_are_told_as_shares_of_errors() -> None:
    concerns = {c.kind: c for c in of_errors(buckets(0.0, 0.0, 0.3))}
    rise = concerns["rise"]
    assert (rise.since, rise.before, rise.after) == (2, 0.0, pytest.approx(0.3))
    assert concerns["error"].severity == pytest.approx(0.1, abs=0.03)


def test_no_errors_are_no_concern() -> None:
    assert list(of_errors(buckets(0.0, 0.0))) == []
