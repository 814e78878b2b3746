"""How every report writes numbers: one format for money, one for shares, one for scores, one for times.

A value that is not known is written as a dash, never as 0.
"""

import math

UNKNOWN = "-"


def dollars(value: float | None) -> str:
    """US dollars in cents; below a dollar three significant digits where they say more, never an exponent."""
    if value is None:
        return UNKNOWN
    sign, size = ("-" if value < 0 else ""), abs(value)
    if size == 0 or size >= 1:
        return f"{sign}${size:,.2f}"
    digits = f"{size:.{2 - math.floor(math.log10(size))}f}".rstrip("0")
    return f"{sign}${digits.ljust(len('0.00'), '0')}"


def percent(value: float | None) -> str:
    """A share of requests, answers or money, with one digit behind the point."""
    return UNKNOWN if value is None else f"{value:.1%}"


def score(value: float | None) -> str:
    """A score, probability or margin, which is a number from 0 to 1 and no share of anything."""
    return UNKNOWN if value is None else f"{value:.2f}"


def milliseconds(value: float | None) -> str:
    """Whole milliseconds."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def bounds(low: str, high: str) -> str:
    """The ends of an interval, each in the format of its value."""
    return f"[{low}, {high}]"


def counted(count: int, noun: str) -> str:
    """A number of things, in the singular for one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
