"""Numbers out of bursts: what is pooled, and what is compared with what."""

import numpy as np
import pytest

from benchmarks.load import Result
from benchmarks.summary import latency_ratio, summarise


def result(*latencies_ms: float, seconds: float = 1.0, cpu: float = 0.0, **outcomes: int) -> Result:
    return Result(np.array(latencies_ms) / 1e3, seconds, cpu, outcomes)


def test_percentiles_are_of_all_answers_together_not_of_bursts() -> None:
    # 99 answers of 1 ms in one burst and 2 of 100 ms in the other: a mean of medians would be 50.
    summary = summarise([result(*[1.0] * 99), result(100.0, 100.0)])
    assert summary.p50_ms == pytest.approx(1.0)
    assert summary.p99_ms == pytest.approx(100.0)


def test_answers_are_counted_over_the_time_in_which_they_counted() -> None:
    summary = summarise([result(1.0, 1.0, 1.0, seconds=0.5), result(1.0, seconds=1.5)])
    assert (summary.answers, summary.per_second) == (4, 2.0)


def test_outcomes_add_up_and_the_busiest_generator_is_told() -> None:
    summary = summarise([result(1.0, cpu=0.2, rule=3), result(1.0, cpu=0.7, rule=2, deadline=1)])
    assert summary.outcomes == {"rule": 5, "deadline": 1}
    assert summary.generator_cpu == 0.7


def test_a_row_without_any_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        summarise([result()])


def test_ratios_pair_bursts_of_the_same_round() -> None:
    # The machine gets four times as slow from round to round; the row stays at twice its baseline.
    row = [result(2.0), result(8.0), result(33.6)]
    baseline = [result(1.0), result(4.0), result(16.0)]
    ratio = latency_ratio(row, baseline)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.1))


def test_a_round_that_one_of_the_two_lacks_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        latency_ratio([result(1.0), result(1.0)], [result(1.0)])
