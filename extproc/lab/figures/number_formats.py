"""How every report writes numbers: one format for each kind of value.

A value that is not known (None or NaN) is written as a dash, never as 0. No other module of the laboratory
formats a number, which ``tests/lab/figures/test_number_formats.py`` checks.
"""

import math
from collections.abc import Callable
from typing import Protocol

UNKNOWN = "-"


class Estimate(Protocol):
    """A value with its 95 % interval."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def _known(value: float | None, spec: str) -> str:
    return UNKNOWN if value is None or math.isnan(value) else format(value, spec)


def dollars(value: float | None) -> str:
    """US dollars in cents; below a dollar three significant digits, never an exponent."""
    if value is None or math.isnan(value):
        return UNKNOWN
    sign, size = ("-" if value < 0 else ""), abs(value)
    if size == 0 or size >= 1:
        return f"{sign}${size:,.2f}"
    digits = f"{size:.{2 - math.floor(math.log10(size))}f}".rstrip("0")
    return f"{sign}${digits.ljust(len('0.00'), '0')}"


def percent(value: float | None) -> str:
    """A share of requests, answers, calls or money, as 32.4%."""
    return _known(value, ".1%")


def level(value: float) -> str:
    """A share that is a round number by definition, such as a quantile: 95%."""
    return _known(value, ".0%")


def score(value: float | None) -> str:
    """A score, probability, margin or measure, 0 to 1: three digits, as `extproc explain` prints."""
    return _known(value, ".3f")


def difference(value: float | None) -> str:
    """The difference of two scores, with its sign."""
    return _known(value, "+.3f")


def log_loss(value: float | None) -> str:
    """A mean log loss, in nats."""
    return _known(value, ".3f")


def threshold(value: float | None) -> str:
    """A threshold or floor with all four digits that are kept of it, so that a copy of it decides alike."""
    return _known(value, ".4f")


def setting(value: float) -> str:
    """A number that an operator wrote, as it was written."""
    return _known(value, "g")


def p_value(value: float) -> str:
    """The p-value of a test; below 0.001 only that it is."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def milliseconds(value: float | None) -> str:
    """Whole milliseconds."""
    return _known(value, ",.0f")


def count(value: float | None) -> str:
    """A number of things: 1,234."""
    return _known(value, ",.0f")


def signed_count(value: int) -> str:
    """By how many a count rose or fell; nothing where it did not change."""
    return f"{value:+,}" if value else ""


def mean_count(value: float | None) -> str:
    """A mean number of things: 1.25."""
    return _known(value, ".2f")


def counted(value: int, noun: str) -> str:
    """A number of things with their name, in the singular for one: 1 row, 1,234 rows."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def bar(done: int, total: int) -> str:
    """A progress bar of text, 20 marks long."""
    return f"[{'#' * (20 * done // max(total, 1)):<20}] {done} of {total}"


def pixels(value: float) -> str:
    """A length or place in a drawing, to a tenth of a pixel."""
    return f"{round(value, 1):g}"


def bounds(low: str, high: str) -> str:
    """The ends of an interval, each in the format of its value."""
    return f"[{low}, {high}]"


def interval(estimate: Estimate | None, written: Callable[[float | None], str] = score) -> str:
    """The interval in brackets; nothing where there is none."""
    if estimate is None or math.isnan(estimate.low):
        return ""
    return bounds(written(estimate.low), written(estimate.high))


def with_interval(estimate: Estimate | None, written: Callable[[float | None], str] = score) -> str:
    """A value and its interval; a dash where the value is not known."""
    if estimate is None or estimate.value is None or math.isnan(estimate.value):
        return UNKNOWN
    return f"{written(estimate.value)} {interval(estimate, written)}".rstrip()
