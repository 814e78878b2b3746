"""One format for money, one for shares, one for scores, one for times, whatever the size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.lab.figures.number_formats import counted, dollars, milliseconds, percent, score


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (0.0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.01654, "$0.0165"),
        (3.9e-05, "$0.000039"),
        (-0.008912, "-$0.00891"),
        (-2.0, "-$2.00"),
        (0.75, "$0.75"),
        (0.5, "$0.50"),
    ],
)
def test_money_has_its_sign_and_no_exponent(value: float | None, written: str) -> None:
    assert dollars(value) == written


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_money_keeps_its_size(value: float) -> None:
    written = dollars(value)
    assert "e" not in written
    assert float(written.removeprefix("$").replace(",", "")) == pytest.approx(value, rel=0.006)


def test_shares_are_percentages_and_scores_are_not() -> None:
    assert (percent(0.324), percent(1.0), percent(-3.55), percent(None)) == (
        "32.4%",
        "100.0%",
        "-355.0%",
        "-",
    )
    assert (score(0.456), score(None)) == ("0.46", "-")
    assert (milliseconds(1234.4), milliseconds(None)) == ("1,234", "-")


def test_one_thing_is_not_plural() -> None:
    assert (counted(1, "request"), counted(1234, "request")) == ("1 request", "1,234 requests")
